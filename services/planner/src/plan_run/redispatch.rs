//! Redispatch: when a task is sent to the executor again after the executor disconnected or was at capacity.

use std::time::{Duration, Instant};

use phoenix_platform::client::{CONNECT_TIMEOUT, PING_EVERY, PING_TIMEOUT};

use crate::{plan_run::progress::MAX_INTERRUPTIONS, planning::request::WaitMode};

/// Backoff before a dispatch to an executor that disconnected.
const DISCONNECTED: Backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(5) };

/// Backoff before a dispatch to an executor that other planners have filled. Each try costs it a call, and its capacity frees
/// up all the time.
const AT_CAPACITY: Backoff = Backoff { first: Duration::from_millis(50), longest: Duration::from_secs(1) };

/// How long a synchronous plan waits for another executor after one disconnected that had started the task.
const STARTED_BUDGET: Duration = Duration::from_secs(10);

/// The same, from the dispatch, when the executor disconnected without a message about the task.
const UNHEARD_BUDGET: Duration = Duration::from_secs(5);

/// Upper bound of the time until a lost peer is detected: it was alive that long before.
const DETECTION_TIME: Duration = PING_EVERY.saturating_add(PING_TIMEOUT);

/// A backoff that doubles up to a longest pause.
struct Backoff {
    first: Duration,
    longest: Duration,
}

/// The loss of an executor during a dispatch.
pub(crate) struct Outage {
    pub(crate) dispatched_at: Instant,
    /// When the executor last sent a message about the task, if it did.
    pub(crate) heard_at: Option<Instant>,
    /// How often the agent may have been started so far.
    pub(crate) possible_starts: u32,
    /// Whether another executor offers the agent.
    pub(crate) has_alternative: bool,
}

/// Decides whether and when a task is dispatched again. A synchronous plan waits up to one deadline, which only a start of
/// the task moves.
pub(crate) struct RedispatchPolicy {
    wait_mode: WaitMode,
    possible_starts: u32,
    interruptions: u32,
    /// Pauses since the executor last accepted the task.
    pauses: u32,
    /// When a synchronous plan gives up; none while nothing may have been started, which gives up at once.
    give_up_at: Option<Instant>,
}

impl RedispatchPolicy {
    pub(crate) fn new(wait_mode: WaitMode, possible_starts: u32) -> Self {
        Self { wait_mode, possible_starts, interruptions: 0, pauses: 0, give_up_at: None }
    }

    /// Pause before the next dispatch; none when the task fails.
    pub(crate) fn after_interruption(&mut self, outage: &Outage, now: Instant) -> Option<Duration> {
        let Outage { dispatched_at, heard_at, possible_starts, has_alternative } = *outage;
        if possible_starts > self.possible_starts {
            self.possible_starts = possible_starts;
            self.interruptions += 1;
            self.pauses = 0;
            let unheard = || self.give_up_at.unwrap_or(dispatched_at + UNHEARD_BUDGET);
            self.give_up_at = Some(heard_at.map_or_else(unheard, |heard_at| {
                let was_alive_at = now.checked_sub(DETECTION_TIME).unwrap_or(heard_at);
                heard_at.max(was_alive_at) + STARTED_BUDGET
            }));
            if has_alternative {
                // A frozen executor is noticed late; another one is tried all the same.
                self.give_up_at = self.give_up_at.max(Some(now + UNHEARD_BUDGET));
            }
        }
        if self.interruptions >= MAX_INTERRUPTIONS {
            return None;
        }
        let pause = self.pause(&DISCONNECTED);
        // Another executor is tried at once, and then as long as it takes to notice that it is lost, too.
        let pause = if has_alternative && self.pauses == 1 { Duration::ZERO } else { pause };
        if has_alternative {
            self.give_up_at.get_or_insert(dispatched_at + UNHEARD_BUDGET);
        }
        match self.wait_mode {
            WaitMode::Async => Some(pause),
            // Fails at once when nothing can be started. A started task is continued while there is time to find out
            // whether another executor is available.
            WaitMode::Sync => {
                let left = self.give_up_at?.checked_duration_since(now)?.checked_sub(CONNECT_TIMEOUT)?;
                Some(pause.min(left))
            }
        }
    }

    /// Pause before the next dispatch to an executor at capacity.
    pub(crate) fn after_rejection(&mut self) -> Duration {
        self.pause(&AT_CAPACITY)
    }

    fn pause(&mut self, backoff: &Backoff) -> Duration {
        let doubled = backoff.first.saturating_mul(1 << self.pauses.min(16));
        self.pauses += 1;
        doubled.min(backoff.longest).mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// When a synchronous plan gives up, counted from the dispatch: the executor disconnects after `after`, its last message
    /// came at `heard`, and it does not return.
    fn gives_up_after(after: Duration, heard: Option<Duration>) -> Duration {
        let start = Instant::now();
        let (mut now, mut policy) = (start + after, RedispatchPolicy::new(WaitMode::Sync, 0));
        let heard_at = heard.map(|heard| start + heard);
        let mut outage =
            Outage { dispatched_at: start, heard_at, possible_starts: 1, has_alternative: false };
        while let Some(pause) = policy.after_interruption(&outage, now) {
            now += pause;
            outage = Outage { dispatched_at: now, heard_at: None, ..outage };
            // Frozen, so each try takes the longest time.
            now += CONNECT_TIMEOUT;
        }
        now - start
    }

    #[test]
    fn wait_for_a_lost_executor_has_one_budget() {
        let detected = DETECTION_TIME;
        assert_eq!(gives_up_after(detected, None), detected, "frozen, unheard: on detection");
        assert!(gives_up_after(SECOND / 10, None) <= UNHEARD_BUDGET);
        assert!(
            gives_up_after(SECOND / 10, None) >= UNHEARD_BUDGET - 2 * CONNECT_TIMEOUT,
            "others are tried"
        );
        for heard in [Duration::ZERO, SECOND, 59 * SECOND] {
            let waited = gives_up_after(heard + detected, Some(heard));
            assert!(waited <= heard + STARTED_BUDGET, "{waited:?} after {heard:?}");
            assert!(waited > heard + detected + SECOND, "{waited:?} after {heard:?}: others are tried");
        }
        // A long task whose executor is killed: the outage counts, not the task.
        let waited = gives_up_after(60 * SECOND, Some(Duration::ZERO));
        assert!(waited > 62 * SECOND && waited <= 70 * SECOND, "{waited:?}");
    }

    #[test]
    fn sync_plan_gives_up_at_once_when_nothing_can_start() {
        let now = Instant::now();
        let outage =
            Outage { dispatched_at: now, heard_at: None, possible_starts: 0, has_alternative: false };
        assert_eq!(RedispatchPolicy::new(WaitMode::Sync, 0).after_interruption(&outage, now), None);
        assert!(RedispatchPolicy::new(WaitMode::Async, 0).after_interruption(&outage, now).is_some());
    }

    #[test]
    fn frozen_executor_leaves_time_for_another() {
        let start = Instant::now();
        let outage =
            Outage { dispatched_at: start, heard_at: None, possible_starts: 1, has_alternative: true };
        let mut policy = RedispatchPolicy::new(WaitMode::Sync, 0);
        assert_eq!(policy.after_interruption(&outage, start + DETECTION_TIME), Some(Duration::ZERO));
    }

    #[test]
    fn another_executor_is_tried_at_once_and_not_for_ever() {
        let start = Instant::now();
        for possible_starts in [0, 1] {
            let mut policy = RedispatchPolicy::new(WaitMode::Sync, 0);
            let mut now = start;
            let outage =
                Outage { dispatched_at: start, heard_at: None, possible_starts, has_alternative: true };
            assert_eq!(policy.after_interruption(&outage, now), Some(Duration::ZERO));
            while let Some(pause) = policy.after_interruption(&outage, now) {
                assert!(!pause.is_zero(), "a loop without a pause");
                // Each try takes some time.
                now += pause + Duration::from_millis(1);
            }
            assert!(now - start <= UNHEARD_BUDGET, "{:?}", now - start);
        }
    }
}
