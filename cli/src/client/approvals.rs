//! `phoenix approvals`, and the decisions of `phoenix plans`.

use jiff::Timestamp;
use phoenix_domain::json::{Json, Object};
use reqwest::Method;

use super::{
    args::{ApprovalsArgs, Decision},
    error::ClientError,
    gateway::{Gateway, id},
    output::{between, cell, json_lines, line, parsed, table, text, time},
};

/// Lists what waits.
///
/// # Errors
/// When the request is refused.
pub(super) async fn run(args: ApprovalsArgs) -> Result<(), ClientError> {
    let gateway = Gateway::new(&args.gateway)?;
    let waiting = gateway.list("/api/v1/approvals", &[], "approvals", args.limit).await?;
    if args.gateway.json {
        return json_lines(&waiting);
    }
    let now = Timestamp::now();
    let row = |waiting: &Json| {
        vec![
            text(waiting, "plan_id").to_owned(),
            cell(text(waiting, "task")),
            cell(&match text(waiting, "kind") {
                "budget" => "larger budget".to_owned(),
                _ => format!("{}.{}", text(waiting, "agent"), text(waiting, "action")),
            }),
            between(time(waiting, "requested_at"), Some(now)),
            between(Some(now), time(waiting, "expires_at")),
            cell(text(waiting, "input_preview")),
            cell(text(waiting, "reason")),
        ]
    };
    table(&["PLAN", "TASK", "ACTION", "AGE", "EXPIRES IN", "INPUT", "REASON"], &waiting, row)
}

/// Decides about a task that waits, and prints what was decided.
///
/// # Errors
/// When the request is refused.
pub(super) async fn decide(
    gateway: &Gateway,
    action: &str,
    decision: Decision,
    further: Object,
    is_json: bool,
) -> Result<(), ClientError> {
    let Decision { plan_id, task, actor, reason, input_hash } = decision;
    let mut body = Object::from_iter([("actor".to_owned(), Json::from(actor))]);
    for (name, value) in [("task", task), ("reason", reason), ("input_hash", input_hash)] {
        body.extend(value.map(|value| (name.to_owned(), value.into())));
    }
    body.extend(further);
    let path = format!("/api/v1/plans/{}:{action}", id(&plan_id)?);
    let decided = gateway.json(gateway.request(Method::POST, &path).json(&body)).await?;
    if is_json {
        return line(decided.get());
    }
    let decided = parsed(&decided);
    line(format!("task {} is {}", cell(text(&decided, "task")), text(&decided["approval"], "state")))
}
