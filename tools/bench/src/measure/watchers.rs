//! A thousand watchers of running plans without events: their cost to the services in processor time, while nothing happens, and
//! while chats of others commit. A commit that woke watchers of other plans than its own would cost a multiple of that.
//!
//! The processor time of the same stack with the same plans, the same chats and no watcher is subtracted.

use std::{
    num::NonZeroUsize,
    path::Path,
    time::{Duration, Instant},
};

use hyper::body::Bytes;
use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;

use phoenix_load_tester::{Engine, Pace};

use super::sample::{MESSAGE, Scale, engine, median, send_all_paced};
use crate::{
    cpu,
    failure::{Doing, Failure, Result},
    rest::{EventStream, Rest},
    stack::{Home, Stack},
};

/// Plans that are watched. All of them fit into the agent and its queue, so all run.
const PLANS: usize = 100;

/// Watchers that share a connection.
const ON_A_CONNECTION: usize = 50;

/// Chats a second beside the watchers, each of which commits twice.
const CHATS_PER_SECOND: f64 = 50.0;

/// Connections of these chats.
const CONNECTIONS: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// Processes of the agent.
const WORKERS: usize = 4;

/// Idle time before the first sample.
const QUIET: Duration = Duration::from_secs(3);

/// Time limit for the events that end the plans.
const LIMIT: Duration = Duration::from_secs(60);

/// The event with which a plan ends.
const END: &str = "event: plan_ended";

/// The result.
#[derive(Debug, Serialize)]
pub(crate) struct Watchers {
    pub(crate) watchers: usize,
    pub(crate) plans: usize,
    /// Share of one core that all services use, without a watcher and with all of them: medians.
    pub(crate) unwatched_cores: f64,
    pub(crate) watched_cores: f64,
    /// The same while chats of others commit.
    pub(crate) unwatched_busy_cores: f64,
    pub(crate) watched_busy_cores: f64,
    /// Watchers that received their plan's end.
    #[serde(rename = "told")]
    pub(crate) notified: usize,
}

impl Watchers {
    /// What the watchers cost, as a share of one core.
    pub(crate) fn cost(&self) -> f64 {
        (self.watched_cores - self.unwatched_cores).max(0.0)
    }

    /// The same while chats of others commit.
    pub(crate) fn busy_cost(&self) -> f64 {
        (self.watched_busy_cores - self.unwatched_busy_cores).max(0.0)
    }
}

pub(super) async fn measure(phoenix: &Path, scale: &Scale) -> Result<Watchers> {
    let home = Home::new("")?;
    let gate = home.path().join("gate");
    std::fs::write(home.path().join("phoenix.toml"), config(&gate)?)?;
    let stack = Stack::start(phoenix, &home).await?;
    let measured = watch(&stack, &gate, scale).await.map_err(|failure| stack.blamed(failure))?;
    stack.stop().await?;
    Ok(measured)
}

fn config(gate: &Path) -> Result<String> {
    let exe = std::env::current_exe()?;
    let command = json!([exe, "sleeper", "--gate", gate, "--millis", "1"]);
    Ok(format!(
        "[agents.sleeper]\ncommand = {command}\nmode = \"workers\"\nworkers = {WORKERS}\ntimeout_secs = 600\n"
    ))
}

async fn watch(stack: &Stack<'_>, gate: &Path, scale: &Scale) -> Result<Watchers> {
    let rest = Rest::new(&stack.url);
    let task = json!({"key": "sleep", "agent": "sleeper", "action": "chat", "input": {"message": MESSAGE}});
    let plan = Bytes::from(json!({"tasks": [task]}).to_string());
    let mut plans = Vec::with_capacity(PLANS);
    for _ in 0..PLANS {
        plans.push(rest.submit(plan.clone()).await?);
    }
    let mut chats = engine(&stack.url)?;
    let unwatched_cores = cores(stack, scale).await?;
    let unwatched_busy_cores = busy_cores(stack, scale, &mut chats).await?;
    let mut streams = Vec::with_capacity(scale.watchers);
    let mut connection = Rest::over_http2(&stack.url);
    for watcher in 0..scale.watchers {
        if watcher % ON_A_CONNECTION == 0 {
            connection = Rest::over_http2(&stack.url);
        }
        let path = format!("/api/v1/plans/{}/events", plans[watcher % PLANS]);
        let mut events = connection.events(&path).await?;
        events.read_until("event: task_dispatched").await?;
        streams.push(events);
    }
    eprintln!("{} watchers are connected; sampling while no event occurs", streams.len());
    let mut watching: JoinSet<_> = streams.into_iter().map(EventStream::read_end).collect();
    let watched_cores = cores(stack, scale).await?;
    let watched_busy_cores = busy_cores(stack, scale, &mut chats).await?;
    std::fs::write(gate, "")?;
    let mut notified = 0;
    let ends = async {
        while let Some(ended) = watching.join_next().await {
            notified += usize::from(ended.unwrap_or(false));
        }
    };
    // A watcher without the end by then counts as missing.
    let _ = tokio::time::timeout(LIMIT, ends).await;
    Ok(Watchers {
        watchers: scale.watchers,
        plans: PLANS,
        unwatched_cores,
        watched_cores,
        unwatched_busy_cores,
        watched_busy_cores,
        notified,
    })
}

impl EventStream {
    async fn read_end(mut self) -> bool {
        self.read_until(END).await.is_ok()
    }
}

/// As [`cores`], while chats to another agent commit at a fixed pace.
async fn busy_cores(stack: &Stack<'_>, scale: &Scale, chats: &mut Engine) -> Result<f64> {
    let samples = u32::try_from(scale.cost_samples).unwrap_or(1);
    let duration = QUIET + samples * scale.cost_sample;
    let pace = Pace::Open { per_second: CHATS_PER_SECOND };
    let (sent, used) = tokio::join!(send_all_paced(chats, pace, CONNECTIONS, duration), cores(stack, scale));
    sent?;
    used
}

/// Share of one core that the services use: the median of several samples.
async fn cores(stack: &Stack<'_>, scale: &Scale) -> Result<f64> {
    tokio::time::sleep(QUIET).await;
    let services = crate::memory::children(stack.pid()?)?;
    if services.is_empty() {
        return Err(Failure::new("no service runs"));
    }
    let mut samples = Vec::new();
    for _ in 0..scale.cost_samples {
        let (since, before) = (Instant::now(), cpu::time_of(&services).doing("processor time")?);
        tokio::time::sleep(scale.cost_sample).await;
        let used = cpu::time_of(&services).doing("processor time")?.saturating_sub(before);
        samples.push(used.as_secs_f64() / since.elapsed().as_secs_f64());
    }
    Ok(median(samples))
}
