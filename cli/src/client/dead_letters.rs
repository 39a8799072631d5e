//! `phoenix dead-letters`.

use jiff::Timestamp;
use phoenix_domain::json::{Json, Object};
use reqwest::Method;
use serde_json::value::RawValue;

use super::{
    args::{DeadLetterFilter, DeadLettersArgs, DeadLettersCommand},
    error::ClientError,
    gateway::Gateway,
    output::{between, cell, json_lines, line, parsed, since, table, text, time},
};

/// # Errors
/// When the request is refused.
pub(super) async fn run(args: DeadLettersArgs) -> Result<(), ClientError> {
    let gateway = Gateway::new(&args.gateway)?;
    let is_json = args.gateway.json;
    match args.command {
        DeadLettersCommand::List { filter, state, limit } => {
            let mut fields = fields(filter)?;
            fields.extend(state.map(|state| ("state", state)));
            let query: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let letters = gateway.list("/api/v1/dead-letters", &query, "dead_letters", limit).await?;
            if is_json { json_lines(&letters) } else { show(&letters) }
        }
        DeadLettersCommand::Redrive { filter, rate, limit, reason } => {
            let mut body = Object::from_iter([filter_member(filter)?]);
            body.extend(rate.map(|rate| ("rate_per_second".into(), rate.into())));
            body.extend(limit.map(|limit| ("limit".into(), limit.into())));
            body.extend(reason.map(|reason| ("reason".into(), reason.into())));
            let begun = change(&gateway, "redrive", &body, is_json).await?;
            let Some(begun) = begun else { return Ok(()) };
            line(format!(
                "{} plans are being redriven; phoenix trace {} shows them",
                begun["selected"],
                text(&begun, "correlation_id")
            ))
        }
        DeadLettersCommand::Discard { filter, limit, reason } => {
            let mut body = Object::from_iter([filter_member(filter)?, ("reason".into(), reason.into())]);
            body.extend(limit.map(|limit| ("limit".into(), limit.into())));
            let discarded = change(&gateway, "discard", &body, is_json).await?;
            let Some(discarded) = discarded else { return Ok(()) };
            line(format!("{} dead letters are discarded", discarded["discarded"]))
        }
    }
}

/// Posts `body`. The response, unless it was printed as JSON.
async fn change(
    gateway: &Gateway,
    action: &str,
    body: &Object,
    is_json: bool,
) -> Result<Option<Json>, ClientError> {
    let path = format!("/api/v1/dead-letters:{action}");
    let response = gateway.json(gateway.request(Method::POST, &path).json(body)).await?;
    if is_json {
        return line(response.get()).map(|()| None);
    }
    Ok(Some(parsed(&response)))
}

/// The given fields of a filter.
fn fields(filter: DeadLetterFilter) -> Result<Vec<(&'static str, String)>, ClientError> {
    let DeadLetterFilter { agent, code, error_class, plan_id, correlation_id, since: from } = filter;
    let from = from.as_deref().map(since).transpose()?;
    let all = [
        ("agent", agent),
        ("code", code),
        ("error_class", error_class),
        ("plan_id", plan_id),
        ("correlation_id", correlation_id),
        ("since", from),
    ];
    Ok(all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
}

fn filter_member(filter: DeadLetterFilter) -> Result<(String, Json), ClientError> {
    let fields = fields(filter)?.into_iter().map(|(name, value)| (name.to_owned(), value.into()));
    Ok(("filter".into(), Json::Object(fields.collect())))
}

fn show(letters: &[Box<RawValue>]) -> Result<(), ClientError> {
    let now = Timestamp::now();
    let row = |letter: &Json| {
        vec![
            text(letter, "plan_id").to_owned(),
            cell(text(letter, "key")),
            text(letter, "agent").to_owned(),
            text(letter, "state").to_owned(),
            between(time(letter, "dead_lettered_at"), Some(now)),
            letter["attempts"].to_string(),
            cell(text(&letter["error"], "message")),
        ]
    };
    table(&["PLAN", "TASK", "AGENT", "STATE", "AGE", "ATTEMPTS", "ERROR"], letters, row)
}
