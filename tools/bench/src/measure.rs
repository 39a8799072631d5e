//! The course of a benchmark: what is measured, in which order, how often.

use std::{num::NonZeroUsize, path::Path, sync::Arc, time::Duration};

use phoenix_load_tester::{Engine, Live, Load, Pace, Tally, Target};
use phoenix_platform::shutdown;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    bare::BareChain,
    ceiling,
    failure::{Doing, Failure, Result},
    memory,
    report::{Comparison, Report},
    stack::Stack,
};

/// What every chat says.
pub(crate) const MESSAGE: &str = "hello from the benchmark";

const CONCURRENCIES: [NonZeroUsize; 3] =
    [NonZeroUsize::MIN, NonZeroUsize::new(16).unwrap(), NonZeroUsize::new(64).unwrap()];

/// Where the goal of the spawn ceiling applies.
pub(crate) const CEILING_CONCURRENCY: NonZeroUsize = CONCURRENCIES[1];

/// How long a fresh stack is left alone before its memory is taken.
const SETTLE: Duration = Duration::from_secs(3);

/// How much is measured.
struct Extent {
    starts: usize,
    rounds: usize,
    warmup: Duration,
    duration: Duration,
}

const FULL: Extent =
    Extent { starts: 5, rounds: 5, warmup: Duration::from_secs(1), duration: Duration::from_secs(5) };
const QUICK: Extent =
    Extent { starts: 3, rounds: 3, warmup: Duration::from_millis(300), duration: Duration::from_secs(1) };

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

    /// The median of each number by itself.
    fn median(samples: &[Self]) -> Self {
        let of = |number: fn(&Self) -> f64| median(samples.iter().map(number).collect());
        Self { req_per_sec: of(|s| s.req_per_sec), p50_ms: of(|s| s.p50_ms), p99_ms: of(|s| s.p99_ms) }
    }
}

/// Measures everything. Ctrl-C ends it, and every process it started.
pub(crate) async fn measure(phoenix: &Path, quick: bool) -> Result<Report> {
    let stop = shutdown::on_signal()?;
    let extent = if quick { QUICK } else { FULL };
    let mut ready = Vec::new();
    for start in 1..=extent.starts {
        eprintln!("start {start} of {}", extent.starts);
        let stack = until(&stop, Stack::start(phoenix)).await?;
        ready.push(stack.ready_after.as_secs_f64());
        stack.stop().await?;
    }
    let bare = until(&stop, BareChain::start()).await?;
    let stack = until(&stop, Stack::start(phoenix)).await?;
    ready.push(stack.ready_after.as_secs_f64());
    let measured = until(&stop, compare(phoenix, &bare, &stack, &extent)).await;
    if measured.is_err() && !stop.is_cancelled() {
        eprintln!("The end of the log of phoenix up:\n{}", stack.log_tail());
    }
    stack.stop().await?;
    bare.stop().await?;
    let (memory, comparisons, ceiling) = measured?;
    Ok(Report::new(quick, median(ready), memory, comparisons, ceiling))
}

async fn until<T>(stop: &CancellationToken, work: impl Future<Output = Result<T>>) -> Result<T> {
    stop.run_until_cancelled(work).await.unwrap_or_else(|| Err(Failure::new("interrupted")))
}

/// Lets bare chain, Phoenix and bare spawning take turns.
async fn compare(
    phoenix: &Path,
    bare: &BareChain,
    stack: &Stack,
    extent: &Extent,
) -> Result<(memory::Memory, Vec<Comparison>, Sample)> {
    tokio::time::sleep(SETTLE).await;
    let memory = memory::of_children(stack.pid().ok_or("it ended").doing("phoenix up")?)?;
    let mut bare = Engine::new(target(&bare.url)?);
    let mut real = Engine::new(target(&stack.url)?);
    let mut samples = CONCURRENCIES.map(|_| (Vec::new(), Vec::new()));
    let mut ceilings = Vec::new();
    for round in 1..=extent.rounds {
        for (concurrency, (bare_samples, real_samples)) in CONCURRENCIES.iter().zip(&mut samples) {
            eprintln!("round {round} of {}, concurrency {concurrency}", extent.rounds);
            bare_samples.push(sample(&mut bare, *concurrency, extent).await?);
            real_samples.push(sample(&mut real, *concurrency, extent).await?);
            if *concurrency == CEILING_CONCURRENCY {
                ceilings.push(ceiling::sample(phoenix, *concurrency, extent.duration).await?);
            }
        }
    }
    let comparisons = CONCURRENCIES.iter().zip(&samples).map(|(concurrency, (bare, real))| Comparison {
        concurrency: concurrency.get(),
        bare: Sample::median(bare),
        phoenix: Sample::median(real),
    });
    Ok((memory, comparisons.collect(), Sample::median(&ceilings)))
}

fn target(url: &str) -> Result<Target> {
    Target::new(url, MESSAGE, Some("echo_agent"), None).doing("benchmark")
}

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
