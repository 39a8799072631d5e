//! Statistics: what happened in a minute.

use std::{collections::BTreeMap, ops::AddAssign, time::Duration};

use phoenix_domain::usage::{Money, Usage};
use serde::{Deserialize, Serialize};

/// Buckets of a [`Histogram`] per doubling of the duration: a percentile is off by at most 5 %.
const BUCKETS_PER_DOUBLING: f64 = 8.0;

/// What happened in a minute, or in several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Plans that were accepted.
    pub accepted: u64,
    /// Plans that succeeded.
    pub succeeded: u64,
    /// Plans that failed.
    pub failed: u64,
    /// Plans that were cancelled.
    pub cancelled: u64,
    /// Time from acceptance to end, of the plans that ended.
    pub latency: Histogram,
    /// Time from acceptance to the first attempt, of the plans whose first task started.
    pub wait: Histogram,
    /// Cost of calls of models in billionths of a dollar, as far as it is known.
    pub cost_nanos: u64,
    /// Tokens of inputs of models.
    pub input_tokens: u64,
    /// Tokens of outputs of models.
    pub output_tokens: u64,
}

/// Durations, by logarithmic buckets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram(BTreeMap<u16, u64>);

/// Lengths in minutes of the periods for which counts are stored, each a multiple of the one before.
pub const LENGTHS: [i64; 3] = [1, 5, 10];

/// A minute or several, aligned to their length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period {
    /// Length in minutes, one of [`LENGTHS`].
    pub length: i64,
    /// Number of the period since 1970, in periods of its length.
    pub number: i64,
}

impl Period {
    /// The period of this length with a minute since 1970.
    #[must_use]
    pub const fn of(length: i64, minute: i64) -> Self {
        Self { length, number: minute.div_euclid(length) }
    }

    /// The first minute of the period, since 1970.
    #[must_use]
    pub const fn begin(self) -> i64 {
        self.number.saturating_mul(self.length)
    }
}

/// What a planner counted in a period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCounts {
    /// Number of the period, in periods of the length that was asked for.
    pub number: i64,
    /// Instance of the planner.
    pub planner: String,
    /// The counts.
    pub counts: Counts,
}

impl Counts {
    /// Adds what calls of models used.
    pub fn add_usage(&mut self, usage: Usage) {
        self.cost_nanos = self.cost_nanos.saturating_add(usage.cost.map_or(0, Money::nanos));
        self.input_tokens = self.input_tokens.saturating_add(usage.tokens.input);
        self.output_tokens = self.output_tokens.saturating_add(usage.tokens.output);
    }
}

impl AddAssign<&Self> for Counts {
    fn add_assign(&mut self, other: &Self) {
        let Self {
            accepted,
            succeeded,
            failed,
            cancelled,
            latency,
            wait,
            cost_nanos,
            input_tokens,
            output_tokens,
        } = other;
        for (own, more) in [
            (&mut self.accepted, accepted),
            (&mut self.succeeded, succeeded),
            (&mut self.failed, failed),
            (&mut self.cancelled, cancelled),
            (&mut self.cost_nanos, cost_nanos),
            (&mut self.input_tokens, input_tokens),
            (&mut self.output_tokens, output_tokens),
        ] {
            *own = own.saturating_add(*more);
        }
        self.latency += latency;
        self.wait += wait;
    }
}

impl AddAssign<&Self> for Histogram {
    fn add_assign(&mut self, other: &Self) {
        for (bucket, count) in &other.0 {
            let own = self.0.entry(*bucket).or_default();
            *own = own.saturating_add(*count);
        }
    }
}

impl Histogram {
    /// Adds a duration; those below a millisecond count as one.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 512")]
    pub fn add(&mut self, duration: Duration) {
        let millis = (duration.as_secs_f64() * 1_000.0).max(1.0);
        *self.0.entry((millis.log2() * BUCKETS_PER_DOUBLING).round() as u16).or_default() += 1;
    }

    /// The duration in milliseconds that a share of all durations, from 0 to 1, does not exceed; `None` without durations.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "of counts")]
    pub fn percentile(&self, share: f64) -> Option<f64> {
        let count: u64 = self.0.values().sum();
        let wanted = count as f64 * share;
        let mut sum = 0;
        let found = self.0.iter().find(|(_, count)| {
            sum += **count;
            sum as f64 >= wanted
        });
        found.map(|(bucket, _)| (f64::from(*bucket) / BUCKETS_PER_DOUBLING).exp2())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_is_within_5_percent_of_the_duration() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(0.5), None);
        (1..=1_000).for_each(|millis| histogram.add(Duration::from_millis(millis)));
        for (share, expected) in [(0.5, 500.0), (0.95, 950.0), (0.99, 990.0), (1.0, 1_000.0)] {
            let found = histogram.percentile(share).unwrap();
            assert!((found / expected - 1.0).abs() < 0.05, "{share}: {found}");
        }
        histogram.add(Duration::MAX);
        assert!(histogram.percentile(1.0).unwrap() > 1e9);
    }

    #[test]
    fn counts_add_up_and_survive_their_stored_form() {
        let mut counts = Counts { accepted: 3, succeeded: 2, cost_nanos: 7, ..Counts::default() };
        counts.latency.add(Duration::from_millis(40));
        let text = serde_json::to_string(&counts).unwrap();
        let mut sum: Counts = serde_json::from_str(&text).unwrap();
        assert_eq!(sum, counts);
        sum += &counts;
        assert_eq!((sum.accepted, sum.succeeded, sum.cost_nanos), (6, 4, 14));
        assert_eq!(serde_json::from_str::<Counts>("{}").unwrap(), Counts::default());
    }
}
