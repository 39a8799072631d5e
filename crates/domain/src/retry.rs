//! Retry policy and backoff.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Retries of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Limit of attempts including the first; at least 1.
    pub max_attempts: u32,
    /// Backoff before the second attempt.
    pub initial_backoff: Duration,
    /// Upper bound of the backoff.
    pub max_backoff: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            initial_backoff: Duration::from_millis(500),
            max_backoff: Duration::from_secs(5),
        }
    }
}

impl RetryPolicy {
    /// Backoff after the failed attempt number `attempt`, from 1: `initial · 2^(attempt-1)`, capped, of which the upper half is
    /// random ("equal jitter", <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>), so that tasks that
    /// failed together are not retried together. `random` is a fraction in `0.0..=1.0`.
    #[must_use]
    pub fn backoff(&self, attempt: u32, random: f64) -> Duration {
        let ceiling = self.backoff_ceiling(attempt);
        let half = ceiling / 2;
        half + (ceiling - half).mul_f64(random.clamp(0.0, 1.0))
    }

    /// Upper bound of [`Self::backoff`] for `attempt`.
    #[must_use]
    pub fn backoff_ceiling(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        self.initial_backoff.saturating_mul(1 << doublings).min(self.max_backoff)
    }

    /// Whether another attempt follows number `attempt`.
    #[must_use]
    pub const fn allows_another(&self, attempt: u32) -> bool {
        attempt < self.max_attempts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn backoff_is_between_half_and_full_growing_ceiling(
            initial_ms in 0u64..100_000, max_ms in 0u64..1_000_000, attempt in 1u32..2_000, random in 0.0f64..=1.0,
        ) {
            let policy = RetryPolicy {
                max_attempts: 3,
                initial_backoff: Duration::from_millis(initial_ms),
                max_backoff: Duration::from_millis(max_ms),
            };
            let ceiling = policy.backoff_ceiling(attempt);
            let wait = policy.backoff(attempt, random);
            prop_assert!(wait <= ceiling && wait >= ceiling / 2);
            prop_assert!(ceiling <= policy.max_backoff);
            prop_assert!(policy.backoff_ceiling(attempt + 1) >= ceiling);
        }
    }

    #[test]
    fn backoff_doubles_from_the_initial_one() {
        let policy = RetryPolicy::default();
        let ceilings: Vec<_> = (1..=6).map(|n| policy.backoff_ceiling(n).as_millis()).collect();
        assert_eq!(ceilings, [500, 1000, 2000, 4000, 5000, 5000]);
    }
}
