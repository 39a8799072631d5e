//! `phoenix top`: what happens now, refreshed in place on a terminal, once elsewhere.

use std::{fmt::Write, time::Duration};

use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;
use phoenix_domain::{json::Json, object};
use reqwest::Method;
use serde_json::value::RawValue;

use super::{
    args::TopArgs,
    error::ClientError,
    gateway::Gateway,
    output::{between, cell, circuit, is_terminal, line, parsed, part, text, time},
    stats::{statistics, summary},
};

/// The window of the statistics.
const WINDOW: &str = "15m";

/// Running plans that are read; the oldest of them are shown.
const PLANS: u64 = 500;

/// Moves the cursor to the first line.
const HOME: &str = "\u{1b}[H";
/// Deletes the rest of a line, and then the rest of the screen.
const END_OF_LINE: &str = "\u{1b}[K\n";
const END_OF_SCREEN: &str = "\u{1b}[J";
/// Deletes the whole screen.
const CLEAR: &str = "\u{1b}[2J";

/// What happens at one moment.
struct Snapshot {
    statistics: Json,
    agents: Vec<Json>,
    /// Plans that run, oldest first.
    plans: Vec<Json>,
}

/// # Errors
/// When the first request is refused, or any when standard output is no terminal.
pub(super) async fn run(args: TopArgs) -> Result<(), ClientError> {
    let gateway = Gateway::new(&args.gateway)?;
    let first = Snapshot::take(&gateway).await?;
    if args.gateway.json {
        let Snapshot { statistics, agents, plans } = first;
        return line(object! {"stats": statistics, "agents": agents, "plans": plans}.to_string());
    }
    if !is_terminal() {
        return line(first.render(args.limit).trim_end());
    }
    part(CLEAR)?;
    let mut shown = first.render(args.limit);
    loop {
        part(format!("{HOME}{}{END_OF_SCREEN}", shown.replace('\n', END_OF_LINE)))?;
        tokio::time::sleep(Duration::from_secs(args.interval)).await;
        match Snapshot::take(&gateway).await {
            Ok(snapshot) => shown = snapshot.render(args.limit),
            // The gateway may come back.
            Err(error) if error.may_pass() => {
                shown = format!("{}\n\n{error}\n", Timestamp::now().strftime("%H:%M:%SZ"));
            }
            Err(error) => return Err(error),
        }
    }
}

impl Snapshot {
    async fn take(gateway: &Gateway) -> Result<Self, ClientError> {
        let not_phoenix = |error: serde_json::Error| ClientError::NotPhoenix {
            url: gateway.url().into(),
            problem: error.to_string(),
        };
        let statistics = parsed(&statistics(gateway, WINDOW).await?);
        let agents = gateway.json(gateway.request(Method::GET, "/api/v1/agents")).await?;
        let agents: Vec<Json> = serde_json::from_str(agents.get()).map_err(not_phoenix)?;
        let running: Vec<Box<RawValue>> =
            gateway.list("/api/v1/plans", &[("status", "running")], "plans", PLANS).await?;
        let plans = running.iter().rev().map(|plan| parsed(plan)).collect();
        Ok(Self { statistics, agents, plans })
    }

    fn render(&self, limit: usize) -> String {
        let now = Timestamp::now();
        let mut screen = format!("{}\n\n{}\n", now.strftime("%H:%M:%SZ"), summary(&self.statistics));
        let agent = |agent: &Json| {
            let failures = agent["consecutive_failures"].to_string();
            vec![cell(text(agent, "agent_id")), text(agent, "health").into(), circuit(agent, now), failures]
        };
        screen +=
            &columns(&["AGENT", "HEALTH", "CIRCUIT", "FAILURES IN A ROW"], self.agents.iter().map(agent));
        let plan = |plan: &Json| {
            vec![
                text(plan, "plan_id").into(),
                between(time(plan, "created_at"), Some(now)),
                text(plan, "correlation_id").into(),
            ]
        };
        let more = if self.plans.len() as u64 >= PLANS { " or more" } else { "" };
        // Writing to a string does not fail.
        let _ = writeln!(screen, "\n{}{more} plans run", self.plans.len());
        if !self.plans.is_empty() {
            screen += &columns(&["OLDEST", "FOR", "CORRELATION ID"], self.plans.iter().take(limit).map(plan));
        }
        screen
    }
}

/// Rows under a header, each on a line.
fn columns(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec()).add_rows(rows);
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    format!("{}\n", table.trim_fmt())
}
