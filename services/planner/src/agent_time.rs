//! Agent time of a plan: the time during which at least one of its attempts ran.
//!
//! The rest of a request's duration is overhead: queueing, backoff, the journal, the network. Attempts are measured by the
//! executor's clock, which is closest to them.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use jiff::Timestamp;
use phoenix_domain::plan::Attempt;

/// Agent time of attempts that the journal has. An attempt without an end adds nothing.
pub(crate) fn of_attempts<'a>(attempts: impl Iterator<Item = &'a Attempt>) -> Duration {
    let mut ended: Vec<_> =
        attempts.filter_map(|attempt| Some((attempt.started_at, attempt.ended_at?))).collect();
    ended.sort_unstable();
    let mut until = Timestamp::MIN;
    let mut total = Duration::ZERO;
    for (started, end) in ended {
        // Negative when the clock jumped, or when an earlier attempt ended later.
        total += Duration::try_from(end.duration_since(started.max(until))).unwrap_or_default();
        until = until.max(end);
    }
    total
}

/// Sums up the time of a plan's attempts, counting concurrent ones once. One task follows all attempts of a plan, so the
/// atomics are never contended. Times are in microseconds.
#[derive(Debug, Default)]
pub struct AgentTime {
    running: AtomicU32,
    /// When the first running attempt started.
    since: AtomicI64,
    /// End of the time that is summed up.
    until: AtomicI64,
    total: AtomicU64,
}

/// A running attempt. If it is dropped without [`RunningAttempt::ended`], it ends now.
#[derive(Debug)]
pub struct RunningAttempt<'a>(Option<&'a AgentTime>);

impl AgentTime {
    /// Starts an attempt.
    pub fn started(&self, at: Timestamp) -> RunningAttempt<'_> {
        if self.running.fetch_add(1, Relaxed) == 0 {
            // The start of an attempt may be reported after the end of a concurrent one.
            self.since.store(at.as_microsecond().max(self.until.load(Relaxed)), Relaxed);
        }
        RunningAttempt(Some(self))
    }

    /// The sum so far, without running attempts.
    #[must_use]
    pub fn total(&self) -> Duration {
        Duration::from_micros(self.total.load(Relaxed))
    }

    fn ended(&self, at: Timestamp) {
        if self.running.fetch_sub(1, Relaxed) == 1 {
            let since = self.since.load(Relaxed);
            // The clock may jump.
            let until = at.as_microsecond().max(since);
            self.total.fetch_add(until.abs_diff(since), Relaxed);
            self.until.store(until, Relaxed);
        }
    }
}

impl RunningAttempt<'_> {
    /// Ends the attempt.
    pub fn ended(mut self, at: Timestamp) {
        if let Some(time) = self.0.take() {
            time.ended(at);
        }
    }
}

impl Drop for RunningAttempt<'_> {
    fn drop(&mut self) {
        if let Some(time) = self.0.take() {
            time.ended(Timestamp::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_microsecond(1_700_000_000_000_000 + micros).unwrap()
    }

    #[test]
    fn concurrent_attempts_count_once() {
        let time = AgentTime::default();
        let first = time.started(at(0));
        let second = time.started(at(40));
        first.ended(at(100));
        assert_eq!(time.total(), Duration::ZERO, "the second attempt runs");
        second.ended(at(150));
        assert_eq!(time.total(), Duration::from_micros(150));
        // A pause, then a retry.
        time.started(at(200)).ended(at(210));
        assert_eq!(time.total(), Duration::from_micros(160));
    }

    #[test]
    fn attempts_of_the_journal_count_once_where_they_overlap() {
        let attempt = |started: i64, ended: Option<i64>| Attempt {
            number: 1,
            started_at: at(started),
            ended_at: ended.map(at),
            outcome: None,
            worker: String::new(),
        };
        let attempts = [
            attempt(200, Some(210)),
            attempt(0, Some(100)),
            attempt(40, Some(150)),
            attempt(50, Some(60)),
            attempt(400, None),
            // Its clock was set back.
            attempt(500, Some(450)),
        ];
        assert_eq!(of_attempts(attempts.iter()), Duration::from_micros(160));
        assert_eq!(of_attempts([].iter()), Duration::ZERO);
    }

    #[test]
    fn reordered_reports_and_clock_jumps_add_no_time() {
        let time = AgentTime::default();
        time.started(at(0)).ended(at(100));
        // Concurrent with the first.
        time.started(at(50)).ended(at(120));
        assert_eq!(time.total(), Duration::from_micros(120));
        time.started(at(200)).ended(at(130));
        assert_eq!(time.total(), Duration::from_micros(120));
    }

    #[test]
    fn dropped_attempt_ends_now() {
        let time = AgentTime::default();
        drop(time.started(Timestamp::now() - Duration::from_secs(5)));
        assert!(time.total() >= Duration::from_secs(5), "{:?}", time.total());
        assert!(time.total() < Duration::from_secs(60), "{:?}", time.total());
    }
}
