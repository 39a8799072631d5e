//! `phoenix agents`.

use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, value::RawValue};

use super::{
    args::{AgentsArgs, AgentsCommand},
    error::ClientError,
    gateway::Gateway,
    output::{between, cell, indented, json_lines, line, parsed, table, text, time},
};

/// # Errors
/// When the request is refused, or there is no such agent.
pub(super) async fn run(args: AgentsArgs) -> Result<(), ClientError> {
    let gateway = Gateway::new(&args.gateway)?;
    match args.command {
        AgentsCommand::List => {
            let all = gateway.json(gateway.request(Method::GET, "/api/v1/agents")).await?;
            let agents: Vec<Box<RawValue>> = serde_json::from_str(all.get()).map_err(|error| {
                ClientError::NotPhoenix { url: gateway.url().into(), problem: error.to_string() }
            })?;
            if args.gateway.json { json_lines(&agents) } else { show(&agents) }
        }
        AgentsCommand::Get { name } => {
            let is_name =
                !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            if !is_name {
                return Err(ClientError::Usage(format!("`{name}` is not the name of an agent")));
            }
            let path = format!("/api/v1/agents/{name}");
            let agent = gateway.json(gateway.request(Method::GET, &path)).await?;
            if args.gateway.json { line(agent.get()) } else { show_one(agent) }
        }
    }
}

/// Prints an agent and its actions.
fn show_one(agent: Box<RawValue>) -> Result<(), ClientError> {
    let facts = parsed(&agent);
    show(&[agent])?;
    if let Some(description) = facts["description"].as_str().filter(|text| !text.is_empty()) {
        line(format!("\n{}", indented(description, "")))?;
    }
    let actions = facts["actions"].as_array().into_iter().flatten();
    let actions: Vec<_> = actions.filter_map(|action| serde_json::value::to_raw_value(action).ok()).collect();
    if actions.is_empty() {
        return Ok(());
    }
    line("")?;
    let row = |action: &Value| vec![cell(text(action, "name")), cell(text(action, "description"))];
    table(&["ACTION", "PURPOSE"], &actions, row)
}

fn show(agents: &[Box<RawValue>]) -> Result<(), ClientError> {
    let now = Timestamp::now();
    let ago = |agent: &Value, name| match between(time(agent, name), Some(now)) {
        age if age.is_empty() => "-".to_owned(),
        age => format!("{age} ago"),
    };
    let row = |agent: &Value| {
        let opens = match between(Some(now), time(agent, "circuit_open_until")) {
            wait if wait.is_empty() => "closed".to_owned(),
            wait => format!("open for {wait}"),
        };
        vec![
            text(agent, "agent_id").to_owned(),
            text(agent, "health").to_owned(),
            opens,
            agent["consecutive_failures"].to_string(),
            ago(agent, "last_success_at"),
            ago(agent, "last_failure_at"),
        ]
    };
    table(&["AGENT", "HEALTH", "CIRCUIT", "FAILURES IN A ROW", "LAST SUCCESS", "LAST FAILURE"], agents, row)
}
