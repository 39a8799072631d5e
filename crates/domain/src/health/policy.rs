//! Policy of a circuit breaker.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Largest value of [`BreakerPolicy::window_calls`]. It bounds what is stored for an agent.
pub const MAX_WINDOW_CALLS: u32 = 1000;

/// Smallest value of [`BreakerPolicy::min_tasks`]: the attempts of a single task never open a circuit.
pub const MIN_TASKS: u32 = 2;

/// Slices of the time of a window. Calls are forgotten by the slice.
pub(super) const SLICES: i64 = 20;

/// Part by which a doubled open time is extended at random, at most.
const JITTER: f64 = 0.2;

/// Policy of a circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BreakerPolicy {
    /// Consecutive failures, of at least two tasks, that open the circuit; at least 1. The failure rate opens it only when the
    /// window has as many failures.
    pub failure_threshold: u32,
    /// Time for which the circuit stays open before a probe is allowed.
    pub cooldown: Duration,
    /// Longest time for which the circuit stays open: each failed probe doubles the time. A longer `cooldown` counts as this.
    pub max_cooldown: Duration,
    /// Successes after the opening that close the circuit; at least 1.
    pub success_threshold: u32,
    /// Time of the window over which rates are computed.
    pub window: Duration,
    /// Calls of the window: the newest ones; at most [`MAX_WINDOW_CALLS`].
    pub window_calls: u32,
    /// Calls in the window without which no rate opens the circuit.
    pub min_calls: u32,
    /// Tasks of the failed or slow calls without which no rate opens the circuit; at least [`MIN_TASKS`].
    pub min_tasks: u32,
    /// Failed calls in percent of all that open the circuit; 0 for never.
    pub failure_percent: u32,
    /// Time from which on a call is slow; zero for never.
    pub slow_call: Duration,
    /// Slow calls in percent of all that open the circuit; 0 for never.
    pub slow_percent: u32,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            failure_threshold: 3,
            cooldown: Duration::from_secs(60),
            max_cooldown: Duration::from_secs(300),
            success_threshold: 1,
            window: Duration::from_secs(60),
            window_calls: 100,
            min_calls: 20,
            min_tasks: MIN_TASKS,
            failure_percent: 80,
            slow_call: Duration::ZERO,
            slow_percent: 80,
        }
    }
}

impl BreakerPolicy {
    /// Whether a call that took `time` is slow.
    #[must_use]
    pub fn is_slow(&self, time: Duration) -> bool {
        !self.slow_call.is_zero() && self.slow_percent > 0 && time >= self.slow_call
    }

    /// Time for which the circuit stays open after opening number `opening` (1 for the first one after it was closed). The
    /// first lasts for the cooldown, each later one twice as long as the one before it, and up to a fifth longer for a `jitter`
    /// from 0 to 1.
    #[must_use]
    pub fn open_time(&self, opening: u32, jitter: f64) -> Duration {
        if opening <= 1 {
            return self.cooldown;
        }
        let doubled = self.cooldown.saturating_mul(2u32.saturating_pow(opening - 1));
        let extension = doubled.as_secs_f64() * JITTER * jitter.clamp(0.0, 1.0);
        let extension = Duration::try_from_secs_f64(extension).unwrap_or(Duration::MAX);
        doubled.saturating_add(extension).min(self.max_cooldown.max(self.cooldown))
    }

    /// Length of a slice of the window in microseconds.
    pub(super) fn slice_us(&self) -> i64 {
        i64::try_from(self.window.as_micros() / SLICES.unsigned_abs() as u128).unwrap_or(i64::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_time_doubles_with_jitter_up_to_its_maximum() {
        let second = Duration::from_secs(1);
        let policy =
            BreakerPolicy { cooldown: 10 * second, max_cooldown: 60 * second, ..BreakerPolicy::default() };
        let seconds = |opening, jitter| policy.open_time(opening, jitter).as_secs();
        assert_eq!([1, 2, 3, 4, 99, u32::MAX].map(|n| seconds(n, 0.0)), [10, 20, 40, 60, 60, 60]);
        assert_eq!([1, 2, 3, 4].map(|n| seconds(n, 1.0)), [10, 24, 48, 60]);
        let long = BreakerPolicy { cooldown: 90 * second, ..policy };
        assert_eq!(long.open_time(7, 1.0), 90 * second, "the cooldown is the shortest open time");
        assert_eq!(policy.open_time(2, f64::NAN), policy.open_time(2, f64::NAN));
    }
}
