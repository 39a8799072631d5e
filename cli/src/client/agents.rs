//! `phoenix agents`.

use std::fmt::Write;

use jiff::Timestamp;
use phoenix_domain::{json::Json, object};
use reqwest::Method;
use serde_json::value::RawValue;

use super::{
    args::{AgentsArgs, AgentsCommand, DecisionArgs},
    error::ClientError,
    gateway::Gateway,
    output::{between, cell, circuit, indented, json_lines, line, parsed, table, text, time},
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
            let agent = gateway.json(gateway.request(Method::GET, &path(&name, "")?)).await?;
            if args.gateway.json { line(agent.get()) } else { show_one(agent) }
        }
        AgentsCommand::Isolate(decision) => decide(&gateway, ":isolate", decision, args.gateway.json).await,
        AgentsCommand::Restore(decision) => decide(&gateway, ":restore", decision, args.gateway.json).await,
    }
}

/// The path of an agent, or of an action on it.
fn path(name: &str, action: &str) -> Result<String, ClientError> {
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if !is_name {
        return Err(ClientError::Usage(format!("`{name}` is not the name of an agent")));
    }
    Ok(format!("/api/v1/agents/{name}{action}"))
}

async fn decide(
    gateway: &Gateway,
    action: &str,
    decision: DecisionArgs,
    is_json: bool,
) -> Result<(), ClientError> {
    let DecisionArgs { name, reason, actor } = decision;
    let body = object! {"reason": reason, "actor": actor};
    let request = gateway.request(Method::POST, &path(&name, action)?).json(&body);
    let agent = gateway.json(request).await?;
    if is_json {
        return line(agent.get());
    }
    let agent = parsed(&agent);
    line(format!("{}  {}", text(&agent, "agent_id"), text(&agent, "state")))
}

/// Prints an agent, its circuit and its actions.
fn show_one(agent: Box<RawValue>) -> Result<(), ClientError> {
    let facts = parsed(&agent);
    show(&[agent])?;
    show_circuit(&facts)?;
    show_workers(&facts)?;
    if let Some(description) = facts["description"].as_str().filter(|text| !text.is_empty()) {
        line(format!("\n{}", indented(description, "")))?;
    }
    let row = |action: &Json| vec![cell(text(action, "name")), cell(text(action, "description"))];
    section(&["ACTION", "PURPOSE"], &facts["actions"], row)?;
    show_listing(&facts["mcp_listing"])
}

/// Prints a table below an empty line, if it has rows.
fn section(headings: &[&str], rows: &Json, row: impl Fn(&Json) -> Vec<String>) -> Result<(), ClientError> {
    let rows = rows.as_array().into_iter().flatten();
    let rows: Vec<_> = rows.filter_map(|one| serde_json::value::to_raw_value(one).ok()).collect();
    if rows.is_empty() {
        return Ok(());
    }
    line("")?;
    table(headings, &rows, row)
}

/// Prints what an MCP server offers beside its tools.
fn show_listing(listing: &Json) -> Result<(), ClientError> {
    let resource = |one: &Json| {
        let kind =
            if one["template"] == true { "template" } else { one["mime_type"].as_str().unwrap_or("-") };
        vec![cell(text(one, "uri")), cell(kind), cell(text(one, "name")), cell(text(one, "description"))]
    };
    section(&["RESOURCE", "TYPE", "NAME", "PURPOSE"], &listing["resources"], resource)?;
    let prompt = |one: &Json| {
        let argument = |argument: &Json| match (text(argument, "name"), argument["required"] == true) {
            (name, true) => name.to_owned(),
            (name, false) => format!("[{name}]"),
        };
        let arguments: Vec<_> = one["arguments"].as_array().into_iter().flatten().map(argument).collect();
        let arguments = if arguments.is_empty() { "-".to_owned() } else { cell(&arguments.join(" ")) };
        vec![cell(text(one, "name")), arguments, cell(text(one, "description"))]
    };
    section(&["PROMPT", "ARGUMENTS", "PURPOSE"], &listing["prompts"], prompt)?;
    if listing["truncated"] == true {
        line("\nThe server has more resources or prompts than are listed.")?;
    }
    Ok(())
}

/// Prints the processes at each executor, and the last standard error.
fn show_workers(agent: &Json) -> Result<(), ClientError> {
    let workers = agent["workers"].as_array().into_iter().flatten();
    let workers: Vec<_> = workers.filter_map(|one| serde_json::value::to_raw_value(one).ok()).collect();
    if !workers.is_empty() {
        line("")?;
        let row = |one: &Json| {
            let loops = if one["crash_loop"] == true { "yes" } else { "-" };
            let number = |name: &str| one[name].to_string();
            vec![
                text(one, "executor").to_owned(),
                number("running"),
                number("free"),
                number("processes"),
                number("restarts"),
                loops.to_owned(),
            ]
        };
        table(&["EXECUTOR", "RUNNING", "FREE", "PROCESSES", "RESTARTS", "CRASH LOOP"], &workers, row)?;
    }
    let last = &agent["last_stderr"];
    let ago = between(time(last, "at"), Some(Timestamp::now()));
    if ago.is_empty() {
        return Ok(());
    }
    line(format!("\nlast stderr, {ago} ago\n{}", indented(text(last, "text"), "  stderr| ")))
}

/// Prints why the circuit is as it is, and its newest changes.
fn show_circuit(agent: &Json) -> Result<(), ClientError> {
    let now = Some(Timestamp::now());
    let since = between(time(agent, "since"), now);
    if since.is_empty() {
        return Ok(());
    }
    let mut story = format!("circuit {} for {since}", text(agent, "state"));
    if let Some(actor) = agent["isolated_by"].as_str() {
        let _ = write!(story, ", isolated by {actor}");
    }
    let _ = write!(story, ": {}", text(agent, "reason"));
    if let Some(at) = time(agent, "next_probe_at") {
        let wait = match between(now, Some(at)).as_str() {
            "" | "0ms" => "now".to_owned(),
            wait => format!("in {wait}"),
        };
        let _ = write!(story, "; next probe {wait}");
    }
    line(format!("\n{}", indented(&story, "")))?;
    let row = |change: &Json| {
        let by = change["actor"].as_str().map(|actor| format!(" ({actor})")).unwrap_or_default();
        vec![
            format!("{} ago", between(time(change, "at"), now)),
            format!("{} → {}", text(change, "from"), text(change, "to")),
            text(change, "cause").to_owned(),
            cell(&format!("{}{by}", text(change, "reason"))),
        ]
    };
    section(&["CHANGED", "CIRCUIT", "CAUSE", "REASON"], &agent["transitions"], row)
}

fn show(agents: &[Box<RawValue>]) -> Result<(), ClientError> {
    let now = Timestamp::now();
    let ago = |agent: &Json, name| match between(time(agent, name), Some(now)) {
        age if age.is_empty() => "-".to_owned(),
        age => format!("{age} ago"),
    };
    let row = |agent: &Json| {
        vec![
            text(agent, "agent_id").to_owned(),
            text(agent, "health").to_owned(),
            circuit(agent, now),
            agent["consecutive_failures"].to_string(),
            ago(agent, "last_success_at"),
            ago(agent, "last_failure_at"),
        ]
    };
    table(&["AGENT", "HEALTH", "CIRCUIT", "FAILURES IN A ROW", "LAST SUCCESS", "LAST FAILURE"], agents, row)
}
