//! Samples, their size, and the chats that they are taken from.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use phoenix_load_tester::{Engine, Live, Load, Pace, Tally, Target};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::failure::{Doing, Failure, Result};

/// Message of every chat.
pub(crate) const MESSAGE: &str = "hello from the benchmark";

/// Size of the measurements.
pub(super) struct Scale {
    pub(super) starts: usize,
    pub(super) rounds: usize,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
    /// Finished plans in the full journal.
    pub(super) journalled: u32,
    /// Pages that are asked for, of each kind.
    pub(super) pages: usize,
    /// Plans in flight at once.
    pub(super) in_flight: usize,
    /// Concurrent watchers, the number of samples of their cost, and the length of each.
    pub(super) watchers: usize,
    pub(super) cost_samples: usize,
    pub(super) cost_sample: Duration,
    /// Streams for the time to the first token, in each round, and the length of those at once.
    pub(super) first_tokens: usize,
    pub(super) stream_length: Duration,
}

pub(super) const FULL: Scale = Scale {
    starts: 6,
    rounds: 5,
    warmup: Duration::from_secs(1),
    duration: Duration::from_secs(5),
    journalled: 1_000_000,
    pages: 200,
    in_flight: 10_000,
    watchers: 1_000,
    cost_samples: 3,
    cost_sample: Duration::from_secs(10),
    first_tokens: 200,
    stream_length: Duration::from_secs(10),
};

pub(super) const QUICK: Scale = Scale {
    starts: 3,
    rounds: 3,
    warmup: Duration::from_millis(300),
    duration: Duration::from_secs(1),
    journalled: 100_000,
    pages: 50,
    in_flight: 2_000,
    watchers: 1_000,
    cost_samples: 3,
    cost_sample: Duration::from_secs(2),
    first_tokens: 50,
    stream_length: Duration::from_secs(4),
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

    /// Prints the sample.
    pub(super) fn logged(self, when: &str, what: &str) -> Self {
        let Self { req_per_sec, p50_ms, p99_ms } = self;
        eprintln!("{when}, {what}: {req_per_sec:.0} req/s, p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms");
        self
    }

    /// The median of each number.
    pub(super) fn median(samples: &[Self]) -> Self {
        let of = |number: fn(&Self) -> f64| median(samples.iter().map(number).collect());
        Self { req_per_sec: of(|s| s.req_per_sec), p50_ms: of(|s| s.p50_ms), p99_ms: of(|s| s.p99_ms) }
    }
}

/// An engine that sends chats to the gateway at `url`.
pub(super) fn engine(url: &str) -> Result<Engine> {
    Ok(Engine::new(Target::new(url, MESSAGE, Some("echo_agent"), None).doing("benchmark")?))
}

/// Sends chats for a while, after a warm-up. One that fails fails the benchmark.
pub(super) async fn sample(engine: &mut Engine, concurrency: NonZeroUsize, scale: &Scale) -> Result<Sample> {
    send(engine, concurrency, scale.warmup).await?;
    Sample::of(&send_all(engine, concurrency, scale.duration).await?)
}

/// Sends chats for a while, of which some may fail.
pub(super) async fn send(
    engine: &mut Engine,
    concurrency: NonZeroUsize,
    duration: Duration,
) -> Result<Tally> {
    send_paced(engine, Pace::Closed, concurrency, duration).await
}

/// The same at a pace.
pub(super) async fn send_paced(
    engine: &mut Engine,
    pace: Pace,
    concurrency: NonZeroUsize,
    duration: Duration,
) -> Result<Tally> {
    let load = Load {
        pace,
        connections: concurrency,
        requests: None,
        duration: Some(duration),
        timeout: Duration::from_secs(30),
    };
    Ok(engine.run(&load, &Arc::new(Live::default()), &CancellationToken::new()).await?)
}

/// Sends chats for a while. One that fails fails the benchmark.
pub(super) async fn send_all(
    engine: &mut Engine,
    concurrency: NonZeroUsize,
    duration: Duration,
) -> Result<Tally> {
    send_all_paced(engine, Pace::Closed, concurrency, duration).await
}

/// The same at a pace.
pub(super) async fn send_all_paced(
    engine: &mut Engine,
    pace: Pace,
    concurrency: NonZeroUsize,
    duration: Duration,
) -> Result<Tally> {
    let tally = send_paced(engine, pace, concurrency, duration).await?;
    if tally.ok() < tally.sent() {
        let outcomes: Vec<_> =
            tally.outcomes().map(|(outcome, count)| format!("{count} × {}", outcome.code)).collect();
        return Err(Failure::new(format_args!("chats failed: {}", outcomes.join(", "))));
    }
    Ok(tally)
}

/// The `quantile` (0 to 1) of times in ascending order, in milliseconds.
pub(super) fn quantile_ms(sorted: &[Duration], quantile: f64) -> f64 {
    let index = (sorted.len() as f64 * quantile) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

pub(super) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_is_the_middle_in_any_order() {
        assert_eq!(median(vec![9.0, 1.0, 5.0]), 5.0);
        assert!(median(Vec::new()).is_nan());
    }
}
