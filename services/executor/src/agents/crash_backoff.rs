//! Backoff between starts of workers that crash, and the state "crash loop" on a metric.

use std::time::Duration;

use metrics::{Counter, Gauge};
use parking_lot::{Mutex, MutexGuard};
use phoenix_domain::{AgentName, FailureClass, retry::RetryPolicy};
use tokio::time::{Instant, sleep_until};

use crate::{
    failure::{AttemptFailure, format_duration},
    metrics::AgentMetrics,
};

/// Lifetime after which a worker counts as stable.
pub(super) const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Consecutive crashes that make a crash loop.
const LOOP_THRESHOLD: u32 = 3;

/// Pause between a crash and the next start.
const BACKOFF: RetryPolicy = RetryPolicy {
    max_attempts: u32::MAX,
    initial_backoff: Duration::from_millis(100),
    max_backoff: Duration::from_secs(10),
};

/// The crashes of one agent's workers.
pub(crate) struct CrashBackoff {
    agent: AgentName,
    state: Mutex<State>,
    total: Counter,
    looping: Gauge,
}

#[derive(Default)]
struct State {
    consecutive: u32,
    /// Moment before which no worker is started.
    not_before: Option<Instant>,
}

impl CrashBackoff {
    pub(crate) fn new(agent: AgentName, metrics: &AgentMetrics) -> Self {
        let (total, looping) = (metrics.crashes.clone(), metrics.crash_loop.clone());
        Self { agent, state: Mutex::default(), total, looping }
    }

    /// Waits until a worker may be started.
    pub(super) async fn wait(&self) {
        let not_before = self.lock().not_before;
        if let Some(not_before) = not_before {
            sleep_until(not_before).await;
        }
    }

    /// Whether a worker may be started before `deadline`.
    ///
    /// # Errors
    /// A failure that is neutral for the agent's health when none may: the crashes themselves were reported.
    pub(super) fn check(&self, deadline: Instant) -> Result<(), AttemptFailure> {
        let Some(not_before) = self.lock().not_before.filter(|time| *time >= deadline) else { return Ok(()) };
        let wait = format_duration(not_before.saturating_duration_since(Instant::now()));
        let description = format!("crashes again and again; the next start is in {wait}");
        Err(AttemptFailure::new(FailureClass::Io, description).neutral_if(true))
    }

    /// Counts a crash. `was_stable`: the worker had lived for [`STABLE_AFTER`], so the crash is the first of a new series.
    pub(super) fn record_crash(&self, was_stable: bool) {
        self.total.increment(1);
        let mut state = self.lock();
        state.consecutive = if was_stable { 1 } else { state.consecutive.saturating_add(1) };
        state.not_before = Some(Instant::now() + BACKOFF.backoff(state.consecutive, fastrand::f64()));
        if state.consecutive == LOOP_THRESHOLD {
            self.looping.set(1.0);
            tracing::error!(
                agent = %self.agent,
                crashes = LOOP_THRESHOLD,
                "workers crash again and again; starting them slowly"
            );
        }
    }

    /// Ends the series of crashes: a worker has lived for [`STABLE_AFTER`].
    pub(super) fn reset(&self) {
        let earlier = std::mem::take(&mut *self.lock());
        if earlier.consecutive >= LOOP_THRESHOLD {
            self.looping.set(0.0);
            tracing::info!(agent = %self.agent, "workers have stopped crashing");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crashes() -> CrashBackoff {
        let agent: AgentName = "a".parse().unwrap();
        let metrics = AgentMetrics::new(&agent, 1);
        CrashBackoff::new(agent, &metrics)
    }

    /// The longest wait for a start after one more crash.
    fn wait_after_crash(crashes: &CrashBackoff, was_stable: bool) -> Duration {
        crashes.record_crash(was_stable);
        let now = Instant::now();
        crashes.lock().not_before.unwrap().saturating_duration_since(now)
    }

    #[test]
    fn backoff_grows_with_each_crash_and_resets_when_stable() {
        let crashes = crashes();
        assert_eq!(crashes.lock().not_before, None, "the first start does not wait");
        for ceiling_ms in [100, 200, 400, 800] {
            assert!(wait_after_crash(&crashes, false) <= Duration::from_millis(ceiling_ms), "{ceiling_ms}");
        }
        assert!(crashes.lock().consecutive > LOOP_THRESHOLD);
        assert!(wait_after_crash(&crashes, true) <= Duration::from_millis(100), "the worker was stable");
        crashes.reset();
        assert_eq!(crashes.lock().not_before, None);
    }

    #[test]
    fn start_after_the_deadline_fails_without_waiting() {
        let crashes = crashes();
        (0..20).for_each(|_| crashes.record_crash(false));
        let failure = crashes.check(Instant::now() + Duration::from_secs(1)).unwrap_err();
        assert_eq!(failure.class, FailureClass::Io);
        assert!(failure.description.contains("crashes again and again"), "{}", failure.description);
    }
}
