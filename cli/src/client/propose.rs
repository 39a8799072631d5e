//! `phoenix plans propose`: the tasks of a message, which do not run.

use phoenix_domain::json::{Json, Object};
use std::path::Path;

use reqwest::Method;
use serde_json::value::to_raw_value;

use super::{
    args::Strategy,
    chat,
    error::ClientError,
    gateway::Gateway,
    output::{cell, line, parsed, table, text},
    text_file::read,
};

/// # Errors
/// When the request is refused, or the language model proposes no valid plan.
pub(super) async fn run(
    gateway: &Gateway,
    message: Option<String>,
    strategy: Option<Strategy>,
    context: Option<&Path>,
    is_json: bool,
) -> Result<(), ClientError> {
    let mut body = Object::new();
    body.insert("message".into(), chat::message(message)?.into());
    body.extend(strategy.map(|strategy| ("strategy".into(), strategy.as_str().into())));
    if let Some(path) = context {
        body.insert("context".into(), read(path)?.into());
    }
    let request = gateway.request(Method::POST, "/api/v1/plans:propose").json(&body);
    let proposal = parsed(&gateway.json(request).await?);
    if is_json {
        // What `phoenix plans submit -` takes.
        return line(proposal["plan"].to_string());
    }
    line(summary(&proposal))?;
    let tasks = proposal["plan"]["tasks"].as_array().unwrap_or_default();
    let tasks: Vec<_> = tasks.iter().filter_map(|task| to_raw_value(task).ok()).collect();
    let row = |task: &Json| {
        let after = task["depends_on"].as_array().unwrap_or_default();
        let after: Vec<_> = after.iter().filter_map(Json::as_str).collect();
        let action = Some(text(task, "action")).filter(|action| !action.is_empty()).unwrap_or("chat");
        vec![
            cell(text(task, "key")),
            cell(text(task, "agent")),
            cell(action),
            cell(&after.join(", ")),
            cell(if task.get("approval").is_some() { "required" } else { "" }),
            cell(&task.get("input").map(ToString::to_string).unwrap_or_default()),
        ]
    };
    table(&["TASK", "AGENT", "ACTION", "AFTER", "APPROVAL", "INPUT"], &tasks, row)
}

/// Who proposed the plan, and what that took.
fn summary(proposal: &Json) -> String {
    if text(proposal, "strategy") != "model" {
        return "proposed by the words of the message".into();
    }
    let names = [text(proposal, "provider"), text(proposal, "model")];
    let names: Vec<_> = names.into_iter().filter(|name| !name.is_empty()).collect();
    let by = if names.is_empty() { "a language model".to_owned() } else { names.join("/") };
    let usage = &proposal["usage"];
    let tokens = ["input_tokens", "output_tokens"].map(|name| usage[name].as_u64().unwrap_or(0));
    let cost = usage["cost_usd"].as_f64().map(|cost| format!(", ${cost}")).unwrap_or_default();
    format!(
        "proposed by {} (prompt {}, rounds {}, tokens {} + {}{cost}); plan {}",
        cell(&by),
        cell(text(proposal, "prompt_version")),
        proposal["rounds"],
        tokens[0],
        tokens[1],
        cell(text(proposal, "plan_id"))
    )
}
