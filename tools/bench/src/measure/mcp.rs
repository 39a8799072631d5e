//! Calls of an MCP server's tool through durable plans, next to the same calls without anything around them.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use hyper::body::Bytes;
use serde::Serialize;
use serde_json::json;

use super::sample::{MESSAGE, Sample, Scale, median};
use crate::{
    failure::{Doing, Failure, Result},
    mcp_server::Client,
    rest::Rest,
    stack::{Home, Stack},
};

/// Calls at the same time, and how long the server takes for each.
pub(crate) const PARALLEL: usize = 16;
pub(crate) const WAIT: Duration = Duration::from_millis(100);

/// Limit of the time until the server's tools are known.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The result.
#[derive(Debug, Serialize)]
pub(crate) struct Mcp {
    /// One call after the other, at the server itself and as a plan each.
    pub(crate) direct: Sample,
    pub(crate) phoenix: Sample,
    /// What Phoenix adds: the medians of the differences of each round.
    pub(crate) added_p50_ms: f64,
    pub(crate) added_p99_ms: f64,
    /// Time of [`PARALLEL`] calls at the same time, of which each takes [`WAIT`].
    pub(crate) parallel_ms: f64,
}

pub(super) async fn measure(phoenix: &Path, scale: &Scale) -> Result<Mcp> {
    let program = std::env::current_exe()?;
    let home = Home::new(&format!(
        "[agents.tools]\nmcp = {{ command = [{}, \"mcp-server\"] }}\nmax_concurrency = {PARALLEL}\n",
        json!(program.to_string_lossy())
    ))?;
    let stack = Stack::start(phoenix, &home).await?;
    let measured = calls(&stack, scale).await;
    let measured = measured.map_err(|failure| stack.blamed(failure))?;
    stack.stop().await?;
    Ok(measured)
}

async fn calls(stack: &Stack<'_>, scale: &Scale) -> Result<Mcp> {
    let rest = Rest::new(&stack.url);
    until_tools_are_known(&rest).await?;
    let mut direct = Client::start().await?;
    let arguments = json!({"text": MESSAGE});
    let echo = plan("echo", &arguments);
    let (mut rounds, mut parallel) = (Vec::new(), Vec::new());
    for round in 1..=scale.rounds {
        let label = format!("round {round} of {}, one call at a time", scale.rounds);
        let alone = async || direct.call("echo", &arguments).await.map(drop);
        let alone = sample(scale, alone).await?.logged(&label, "the server");
        let through = sample(scale, async || rest.run(echo.clone()).await).await?.logged(&label, "Phoenix");
        rounds.push([alone, through]);
        let wait = plan("wait", &json!({"millis": WAIT.as_millis()}));
        let started = Instant::now();
        try_join_all((0..PARALLEL).map(|_| rest.run(wait.clone()))).await?;
        parallel.push(millis(started.elapsed()));
    }
    let column = |index: usize| Sample::median(&rounds.iter().map(|round| round[index]).collect::<Vec<_>>());
    let added = |of: fn(&Sample) -> f64| {
        median(rounds.iter().map(|[alone, through]| of(through) - of(alone)).collect())
    };
    Ok(Mcp {
        direct: column(0),
        phoenix: column(1),
        added_p50_ms: added(|sample| sample.p50_ms),
        added_p99_ms: added(|sample| sample.p99_ms),
        parallel_ms: median(parallel),
    })
}

fn plan(tool: &str, arguments: &serde_json::Value) -> Bytes {
    let task = json!({"key": "call", "agent": "tools", "action": tool, "input": arguments});
    Bytes::from(json!({"tasks": [task]}).to_string())
}

async fn until_tools_are_known(rest: &Rest) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < START_LIMIT {
        let agent = rest.get("/api/v1/agents/tools").await?;
        if agent["actions"].as_array().is_some_and(|actions| !actions.is_empty()) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(Failure::new("the tools of the MCP server were not published"))
}

/// One call after the other for as long as a measurement takes.
async fn sample(scale: &Scale, mut call: impl AsyncFnMut() -> Result<()>) -> Result<Sample> {
    let warm = Instant::now();
    while warm.elapsed() < scale.warmup {
        call().await?;
    }
    let mut times = Vec::new();
    let started = Instant::now();
    while started.elapsed() < scale.duration {
        let began = Instant::now();
        call().await?;
        times.push(millis(began.elapsed()));
    }
    let req_per_sec = times.len() as f64 / started.elapsed().as_secs_f64();
    times.sort_unstable_by(f64::total_cmp);
    let at =
        |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied();
    let nothing = || "nothing was answered";
    Ok(Sample {
        req_per_sec,
        p50_ms: at(50).ok_or_else(nothing).doing("MCP server")?,
        p99_ms: at(99).ok_or_else(nothing).doing("MCP server")?,
    })
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
