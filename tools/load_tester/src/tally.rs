//! Counts and latencies of a run.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;

use crate::outcome::Outcome;

/// Three significant digits, in microseconds; grows as needed.
const DIGITS: u8 = 3;

/// What one run, or one of its connections, counted and timed.
#[derive(Debug, Clone)]
pub struct Tally {
    /// From the first request's turn to the last one's end.
    pub elapsed: Duration,
    outcomes: BTreeMap<Outcome, u64>,
    /// Of requests that succeeded or timed out, in microseconds.
    micros: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        #[expect(clippy::expect_used, reason = "fails for more than five digits only")]
        let micros = Histogram::new(DIGITS).expect("three digits are allowed");
        Self { elapsed: Duration::ZERO, outcomes: BTreeMap::new(), micros }
    }
}

impl Tally {
    /// Counts a request that ended `took` after it was due. Latencies are those of requests that succeeded or timed
    /// out: a refusal, however quick, does not make a server look fast.
    pub fn record(&mut self, outcome: Outcome, took: Duration) {
        *self.outcomes.entry(outcome).or_default() += 1;
        if outcome.is_success() || outcome == Outcome::TIMEOUT {
            // Can't fail: it resizes itself.
            let _ = self.micros.record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
    }

    /// Adds the counts of another connection.
    pub fn add(&mut self, other: &Self) {
        for (&outcome, count) in &other.outcomes {
            *self.outcomes.entry(outcome).or_default() += count;
        }
        // Can't fail: both resize themselves.
        let _ = self.micros.add(&other.micros);
    }

    /// Requests that ended.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.outcomes.values().sum()
    }

    /// Requests that succeeded.
    #[must_use]
    pub fn ok(&self) -> u64 {
        self.outcomes.iter().filter(|(outcome, _)| outcome.is_success()).map(|(_, count)| count).sum()
    }

    /// Number of requests by outcome.
    pub fn outcomes(&self) -> impl Iterator<Item = (Outcome, u64)> {
        self.outcomes.iter().map(|(&outcome, &count)| (outcome, count))
    }

    /// Requests that succeeded, per second.
    #[must_use]
    pub fn ok_per_sec(&self) -> f64 {
        let secs = self.elapsed.as_secs_f64();
        if secs > 0.0 { self.ok() as f64 / secs } else { 0.0 }
    }

    /// The latency in milliseconds that `share` (0 to 1) of the requests stay within; `None` without a sample.
    #[must_use]
    pub fn latency_ms(&self, share: f64) -> Option<f64> {
        (!self.micros.is_empty()).then(|| self.micros.value_at_quantile(share) as f64 / 1000.0)
    }

    /// The longest latency in milliseconds; `None` without a sample.
    #[must_use]
    pub fn max_ms(&self) -> Option<f64> {
        (!self.micros.is_empty()).then(|| self.micros.max() as f64 / 1000.0)
    }
}
