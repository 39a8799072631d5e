//! Workers that die again and again are started more and more slowly, and that is a state one can see.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use metrics::{Counter, Gauge};
use phoenix_domain::{AgentName, FailureClass, retry::RetryPolicy};
use tokio::time::{Instant, sleep_until};

use crate::{
    failure::{AttemptFailure, seconds},
    metrics::AgentMeters,
};

/// A worker that lives this long shows that the agent works.
pub(super) const PROOF_OF_STABILITY: Duration = Duration::from_secs(10);

/// So many crashes in a row are a loop.
const LOOP: u32 = 3;

/// Between a crash and the next start.
const PAUSES: RetryPolicy = RetryPolicy {
    max_attempts: u32::MAX,
    initial_backoff: Duration::from_millis(100),
    max_backoff: Duration::from_secs(10),
};

/// The crashes of one agent's workers.
pub(crate) struct Crashes {
    agent: AgentName,
    state: Mutex<State>,
    total: Counter,
    looping: Gauge,
}

#[derive(Default)]
struct State {
    in_a_row: u32,
    /// No worker is started before.
    not_before: Option<Instant>,
}

impl Crashes {
    pub(crate) fn new(agent: AgentName, meters: &AgentMeters) -> Self {
        let (total, looping) = (meters.crashes.clone(), meters.crash_loop.clone());
        Self { agent, state: Mutex::default(), total, looping }
    }

    /// Waits until a worker may be started.
    pub(super) async fn pause(&self) {
        let not_before = self.lock().not_before;
        if let Some(not_before) = not_before {
            sleep_until(not_before).await;
        }
    }

    /// Whether a worker may be started before `deadline`.
    ///
    /// # Errors
    /// A failure that says nothing about the agent, when it may not: the crashes themselves were reported.
    pub(super) fn check(&self, deadline: Instant) -> Result<(), AttemptFailure> {
        let Some(not_before) = self.lock().not_before.filter(|time| *time >= deadline) else { return Ok(()) };
        let wait = seconds(not_before.saturating_duration_since(Instant::now()));
        let deed = format!("crashes again and again, and is started again only in {wait}");
        Err(AttemptFailure::new(FailureClass::Io, deed).neutral_if(true))
    }

    /// A worker died of itself. `after_proof`: it had lived long enough to count as the first again.
    pub(super) fn another(&self, after_proof: bool) {
        self.total.increment(1);
        let mut state = self.lock();
        state.in_a_row = if after_proof { 1 } else { state.in_a_row.saturating_add(1) };
        state.not_before = Some(Instant::now() + PAUSES.backoff(state.in_a_row, fastrand::f64()));
        if state.in_a_row == LOOP {
            self.looping.set(1.0);
            tracing::error!(agent = %self.agent, crashes = LOOP, "workers crash again and again; starting them slowly");
        }
    }

    /// A worker has lived for [`PROOF_OF_STABILITY`].
    pub(super) fn none_for_long(&self) {
        let earlier = std::mem::take(&mut *self.lock());
        if earlier.in_a_row >= LOOP {
            self.looping.set(0.0);
            tracing::info!(agent = %self.agent, "workers have stopped crashing");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing panics while the state is locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crashes() -> Crashes {
        let agent: AgentName = "a".parse().unwrap();
        let meters = AgentMeters::new(&agent, 1);
        Crashes::new(agent, &meters)
    }

    /// How long a start has to wait after one more crash, at most.
    fn wait_after_another(crashes: &Crashes, after_proof: bool) -> Duration {
        crashes.another(after_proof);
        let now = Instant::now();
        crashes.lock().not_before.unwrap().saturating_duration_since(now)
    }

    #[test]
    fn starts_become_slower_with_every_crash_and_quick_again_after_a_long_life() {
        let crashes = crashes();
        assert_eq!(crashes.lock().not_before, None, "the first start waits for nothing");
        for ceiling_ms in [100, 200, 400, 800] {
            assert!(wait_after_another(&crashes, false) <= Duration::from_millis(ceiling_ms), "{ceiling_ms}");
        }
        assert!(crashes.lock().in_a_row > LOOP);
        assert!(wait_after_another(&crashes, true) <= Duration::from_millis(100), "it had lived long");
        crashes.none_for_long();
        assert_eq!(crashes.lock().not_before, None);
    }

    #[test]
    fn nobody_waits_for_a_start_that_comes_too_late() {
        let crashes = crashes();
        (0..20).for_each(|_| crashes.another(false));
        let failure = crashes.check(Instant::now() + Duration::from_secs(1)).unwrap_err();
        assert_eq!(failure.class, FailureClass::Io);
        assert!(failure.deed.contains("crashes again and again"), "{}", failure.deed);
    }
}
