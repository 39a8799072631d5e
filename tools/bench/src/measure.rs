//! The course of a benchmark: what is measured, in which order, how much of it.

mod chats;
mod fill;
mod inflight;
mod million;
mod start;
mod watchers;

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use clap::ValueEnum;
use phoenix_load_tester::{Engine, Live, Load, Pace, Tally, Target};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    chats::{CEILING_CONCURRENCY, Chats},
    inflight::InFlight,
    million::Million,
    start::Start,
    watchers::Watchers,
};
use crate::{
    failure::{Doing, Failure, Result},
    report::Report,
    stack,
};

/// What every chat says.
pub(crate) const MESSAGE: &str = "hello from the benchmark";

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Readiness and idle memory
    Start,
    /// Chats to warm workers, next to the bare chain
    Warm,
    /// A process per chat, next to bare spawning
    Spawn,
    /// A journal of a million plans, next to an empty one
    Million,
    /// Ten thousand plans at once
    Inflight,
    /// A thousand watchers of plans on which nothing happens
    Watchers,
}

/// What to measure, and how thoroughly.
pub(crate) struct Wanted {
    /// The executable.
    pub(crate) phoenix: PathBuf,
    pub(crate) parts: Vec<Part>,
    pub(crate) quick: bool,
}

impl Wanted {
    fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }
}

/// How much is measured.
struct Extent {
    starts: usize,
    rounds: usize,
    warmup: Duration,
    duration: Duration,
    /// Finished plans in the full journal.
    journalled: u32,
    /// Pages that are asked for, of each kind.
    pages: usize,
    /// Plans in flight at once.
    in_flight: usize,
    /// Watchers at once, how often their cost is looked at, and for how long each time.
    watchers: usize,
    looks: usize,
    look: Duration,
}

const FULL: Extent = Extent {
    starts: 6,
    rounds: 5,
    warmup: Duration::from_secs(1),
    duration: Duration::from_secs(5),
    journalled: 1_000_000,
    pages: 200,
    in_flight: 10_000,
    watchers: 1_000,
    looks: 3,
    look: Duration::from_secs(10),
};

const QUICK: Extent = Extent {
    starts: 3,
    rounds: 3,
    warmup: Duration::from_millis(300),
    duration: Duration::from_secs(1),
    journalled: 100_000,
    pages: 50,
    in_flight: 2_000,
    watchers: 1_000,
    looks: 3,
    look: Duration::from_secs(2),
};

/// One measurement.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) req_per_sec: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

impl Sample {
    pub(crate) fn of(tally: &Tally) -> Result<Self> {
        let nothing = || Failure::new("nothing was answered");
        Ok(Self {
            req_per_sec: tally.ok_per_sec(),
            p50_ms: tally.latency_ms(0.5).ok_or_else(nothing)?,
            p99_ms: tally.latency_ms(0.99).ok_or_else(nothing)?,
        })
    }

    /// Shows how far the benchmark is, and what came of it.
    fn told(self, when: &str, what: &str) -> Self {
        let Self { req_per_sec, p50_ms, p99_ms } = self;
        eprintln!("{when}, {what}: {req_per_sec:.0} req/s, p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms");
        self
    }

    /// The median of each number by itself.
    fn median(samples: &[Self]) -> Self {
        let of = |number: fn(&Self) -> f64| median(samples.iter().map(number).collect());
        Self { req_per_sec: of(|s| s.req_per_sec), p50_ms: of(|s| s.p50_ms), p99_ms: of(|s| s.p99_ms) }
    }
}

/// Measures what is wanted, one part after the other.
pub(crate) async fn measure(wanted: &Wanted) -> Result<Report> {
    let extent = if wanted.quick { QUICK } else { FULL };
    let phoenix = &wanted.phoenix;
    let mut report = Report::new(wanted.quick, stack::homes_are_in_memory());
    if wanted.has(Part::Start) {
        report.start = Some(start::measure(phoenix, &extent).await?);
    }
    if wanted.has(Part::Warm) || wanted.has(Part::Spawn) {
        let (warm, spawn) = (wanted.has(Part::Warm), wanted.has(Part::Spawn));
        report.chats = chats::measure(phoenix, warm, spawn, &extent).await?;
    }
    if wanted.has(Part::Million) {
        report.million = Some(million::measure(phoenix, &extent).await?);
    }
    if wanted.has(Part::Inflight) {
        report.in_flight = Some(inflight::measure(phoenix, &extent).await?);
    }
    if wanted.has(Part::Watchers) {
        report.watchers = Some(watchers::measure(phoenix, &extent).await?);
    }
    Ok(report)
}

/// An engine that sends chats to the gateway at `url`.
fn engine(url: &str) -> Result<Engine> {
    Ok(Engine::new(Target::new(url, MESSAGE, Some("echo_agent"), None).doing("benchmark")?))
}

/// Sends chats for a while, after a warm-up. One that fails fails the benchmark.
async fn sample(engine: &mut Engine, concurrency: NonZeroUsize, extent: &Extent) -> Result<Sample> {
    let measured = Load {
        pace: Pace::Closed,
        connections: concurrency,
        requests: None,
        duration: Some(extent.duration),
        timeout: Duration::from_secs(30),
    };
    let warmup = Load { duration: Some(extent.warmup), ..measured.clone() };
    let never = CancellationToken::new();
    engine.run(&warmup, &Arc::new(Live::default()), &never).await?;
    let tally = engine.run(&measured, &Arc::new(Live::default()), &never).await?;
    if tally.ok() < tally.sent() {
        let outcomes: Vec<_> =
            tally.outcomes().map(|(outcome, count)| format!("{count} × {}", outcome.code)).collect();
        return Err(Failure::new(format_args!("chats failed: {}", outcomes.join(", "))));
    }
    Sample::of(&tally)
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        assert_eq!(median(vec![9.0, 1.0, 5.0]), 5.0);
        assert!(median(Vec::new()).is_nan());
    }
}
