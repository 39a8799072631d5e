//! `phoenix agents`.

use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, value::RawValue};

use super::{
    args::{AgentsArgs, AgentsCommand},
    error::ClientError,
    gateway::Gateway,
    output::{between, json_lines, parsed, table, text, time},
};

/// # Errors
/// When the request is refused, or there is no such agent.
pub(super) async fn run(args: AgentsArgs) -> Result<(), ClientError> {
    let gateway = Gateway::new(&args.gateway)?;
    let all = gateway.json(gateway.request(Method::GET, "/api/v1/agents")).await?;
    let mut agents: Vec<Box<RawValue>> = serde_json::from_str(all.get())
        .map_err(|error| ClientError::NotPhoenix { url: gateway.url().into(), problem: error.to_string() })?;
    if let AgentsCommand::Get { name } = &args.command {
        let names: Vec<_> = agents.iter().map(|agent| text(&parsed(agent), "agent_id").to_owned()).collect();
        agents.retain(|agent| text(&parsed(agent), "agent_id") == name);
        if agents.is_empty() {
            let known = names.join(", ");
            return Err(ClientError::Unsuccessful(format!("there is no agent `{name}`; there are {known}")));
        }
    }
    if args.gateway.json {
        return json_lines(&agents);
    }
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
    table(&["AGENT", "HEALTH", "CIRCUIT", "FAILURES IN A ROW", "LAST SUCCESS", "LAST FAILURE"], &agents, row)
}
