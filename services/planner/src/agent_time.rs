//! How long agents worked for one plan: the time during which at least one attempt ran.
//!
//! What remains of a request's time is what it cost to have them work: waiting for a place, pauses between attempts, the
//! journal, the way there and back. Attempts are timed by the executor's clock, which is nearest to them.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use jiff::Timestamp;

/// Adds up the time of one plan's attempts, each moment once. All of a plan's attempts are followed by one task, so that
/// nothing here is ever contended; times are microseconds.
#[derive(Debug, Default)]
pub struct AgentTime {
    running: AtomicU32,
    /// When the first of those that run began.
    since: AtomicI64,
    /// Until when time has been added up.
    until: AtomicI64,
    total: AtomicU64,
}

/// An attempt that runs. Dropped without [`RunningAttempt::ended`] it ends now.
#[derive(Debug)]
pub struct RunningAttempt<'a>(Option<&'a AgentTime>);

impl AgentTime {
    /// An attempt began.
    pub fn began(&self, at: Timestamp) -> RunningAttempt<'_> {
        if self.running.fetch_add(1, Relaxed) == 0 {
            // News of an attempt may come after that of the end of another that it began beside.
            self.since.store(at.as_microsecond().max(self.until.load(Relaxed)), Relaxed);
        }
        RunningAttempt(Some(self))
    }

    /// The time so far, without attempts that still run.
    #[must_use]
    pub fn total(&self) -> Duration {
        Duration::from_micros(self.total.load(Relaxed))
    }

    fn ended(&self, at: Timestamp) {
        if self.running.fetch_sub(1, Relaxed) == 1 {
            let since = self.since.load(Relaxed);
            // Clocks jump.
            let until = at.as_microsecond().max(since);
            self.total.fetch_add(until.abs_diff(since), Relaxed);
            self.until.store(until, Relaxed);
        }
    }
}

impl RunningAttempt<'_> {
    /// It ended.
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
    fn a_moment_counts_once_however_many_attempts_run() {
        let time = AgentTime::default();
        let first = time.began(at(0));
        let second = time.began(at(40));
        first.ended(at(100));
        assert_eq!(time.total(), Duration::ZERO, "one still runs");
        second.ended(at(150));
        assert_eq!(time.total(), Duration::from_micros(150));
        // A pause, then a retry.
        time.began(at(200)).ended(at(210));
        assert_eq!(time.total(), Duration::from_micros(160));
    }

    #[test]
    fn news_in_the_wrong_order_and_clocks_that_jump_make_it_neither_longer_nor_negative() {
        let time = AgentTime::default();
        time.began(at(0)).ended(at(100));
        // It began beside the other.
        time.began(at(50)).ended(at(120));
        assert_eq!(time.total(), Duration::from_micros(120));
        time.began(at(200)).ended(at(130));
        assert_eq!(time.total(), Duration::from_micros(120));
    }

    #[test]
    fn an_attempt_that_nobody_follows_any_more_has_ended() {
        let time = AgentTime::default();
        drop(time.began(Timestamp::now() - Duration::from_secs(5)));
        assert!(time.total() >= Duration::from_secs(5), "{:?}", time.total());
        assert!(time.total() < Duration::from_secs(60), "{:?}", time.total());
    }
}
