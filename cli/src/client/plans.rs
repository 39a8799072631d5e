//! `phoenix plans`.

use std::path::Path;

use jiff::Timestamp;
use phoenix_domain::json::{Json, Object};
use reqwest::{Method, RequestBuilder};
use serde_json::value::RawValue;

use super::{
    approvals,
    args::{PlanFilter, PlansArgs, PlansCommand},
    error::ClientError,
    gateway::{Gateway, id},
    output::{between, cell, json_lines, line, parsed, since, table, text, time},
    propose,
    text_file::read,
    trace, watch,
};

/// # Errors
/// When the request is refused, or a plan that was awaited does not succeed.
pub(super) async fn run(args: PlansArgs) -> Result<(), ClientError> {
    let gateway = &Gateway::new(&args.gateway)?;
    let is_json = args.gateway.json;
    match args.command {
        PlansCommand::List(filter) => list(gateway, &filter, is_json).await,
        PlansCommand::Get { plan_id } => get(gateway, &id(&plan_id)?, is_json).await,
        PlansCommand::Watch { plan_id } => watch::until_end(gateway, &id(&plan_id)?, is_json).await,
        PlansCommand::Submit { file, wait, idempotency_key } => {
            let mut request = gateway.request(Method::POST, "/api/v1/plans");
            request = request.body(document(&file)?).header("content-type", "application/json");
            if let Some(key) = idempotency_key {
                request = request.header("idempotency-key", key);
            }
            accept(gateway, request, wait, is_json).await
        }
        PlansCommand::Propose { message, strategy, context_file } => {
            propose::run(gateway, message, strategy, context_file.as_deref(), is_json).await
        }
        PlansCommand::Cancel { plan_id, reason } => {
            let mut body = Object::new();
            body.extend(reason.map(|reason| ("reason".into(), reason.into())));
            let path = format!("/api/v1/plans/{}:cancel", id(&plan_id)?);
            let plan = gateway.json(gateway.request(Method::POST, &path).json(&body)).await?;
            show(&plan, is_json)
        }
        PlansCommand::Approve { decision, input, budget } => {
            let mut further = Object::new();
            if let Some(input) = input {
                further.insert("input".into(), json_argument(&input)?);
            }
            further.extend(budget.into_member());
            approvals::decide(gateway, "approve", decision, further, is_json).await
        }
        PlansCommand::Reject { decision } => {
            approvals::decide(gateway, "reject", decision, Object::new(), is_json).await
        }
        PlansCommand::Redrive { plan_id, input, reason, wait } => {
            let mut body = Object::new();
            if let Some(input) = input {
                body.insert("input".into(), json_argument(&input)?);
            }
            body.extend(reason.map(|reason| ("reason".into(), reason.into())));
            let path = format!("/api/v1/plans/{}:redrive", id(&plan_id)?);
            accept(gateway, gateway.request(Method::POST, &path).json(&body), wait, is_json).await
        }
    }
}

/// The text of a file, or of standard input.
fn document(path: &Path) -> Result<String, ClientError> {
    if path == Path::new("-") {
        return std::io::read_to_string(std::io::stdin())
            .map_err(|error| ClientError::File { path: "standard input".into(), error });
    }
    read(path)
}

/// The JSON of an argument: an object as it is, or the name of a file with one; `-` is standard input.
fn json_argument(argument: &str) -> Result<Json, ClientError> {
    let is_object = argument.trim_start().starts_with('{');
    let text = if is_object { argument.to_owned() } else { document(Path::new(argument))? };
    let shown = if is_object { "the value of --input".into() } else { format!("`{argument}`") };
    Json::parse(&text).map_err(|error| ClientError::Usage(format!("{shown} {error}")))
}

async fn list(gateway: &Gateway, filter: &PlanFilter, is_json: bool) -> Result<(), ClientError> {
    let since = filter.since.as_deref().map(since).transpose()?;
    let query = [
        ("status", filter.status.as_deref()),
        ("agent", filter.agent.as_deref()),
        ("correlation_id", filter.correlation_id.as_deref()),
        ("since", since.as_deref()),
    ];
    let query: Vec<_> = query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let plans = gateway.list("/api/v1/plans", &query, "plans", filter.limit).await?;
    if is_json {
        return json_lines(&plans);
    }
    let now = Timestamp::now();
    let row = |plan: &Json| {
        let (created, ended) = (time(plan, "created_at"), time(plan, "ended_at"));
        vec![
            text(plan, "plan_id").to_owned(),
            text(plan, "status").to_owned(),
            between(created, Some(now)),
            between(created, ended.or(Some(now))),
            cell(text(&plan["error"], "message")),
        ]
    };
    table(&["PLAN", "STATUS", "AGE", "TOOK", "ERROR"], &plans, row)
}

async fn get(gateway: &Gateway, plan_id: &str, is_json: bool) -> Result<(), ClientError> {
    let plan = gateway.json(gateway.request(Method::GET, &format!("/api/v1/plans/{plan_id}"))).await?;
    show(&plan, is_json)
}

fn show(plan: &RawValue, is_json: bool) -> Result<(), ClientError> {
    if is_json {
        return line(plan.get());
    }
    line(trace::story(&parsed(plan)))
}

/// Sends a request for a new plan, and prints its id or, with `wait`, its events.
async fn accept(
    gateway: &Gateway,
    request: RequestBuilder,
    wait: bool,
    is_json: bool,
) -> Result<(), ClientError> {
    let accepted = gateway.json(request.header("prefer", "respond-async")).await?;
    let plan = parsed(&accepted);
    let plan_id = text(&plan, "plan_id");
    if is_json {
        line(accepted.get())?;
    } else {
        line(plan_id)?;
    }
    if wait { watch::until_end(gateway, plan_id, is_json).await } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_of_the_command_line_keeps_its_digits() {
        let input = r#"{"n":123456789012345678901234567890,"price":1.10,"huge":1e400,"zero":-0}"#;
        assert_eq!(json_argument(input).unwrap().to_string(), input);
        let wrong = json_argument(r#"{"n":}"#).unwrap_err().to_string();
        assert!(wrong.contains("the value of --input is not valid JSON at line 1 column"), "{wrong}");
    }
}
