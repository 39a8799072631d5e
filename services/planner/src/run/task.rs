//! One task with a place: handed over, and again when the executor went away under it or had no place after all.

use std::time::{Duration, Instant};

use phoenix_domain::{OrchestratorError, action::ActionResult, json::Object, plan::AttemptOutcome};
use phoenix_platform::{
    client::{CONNECT_TIMEOUT, PING_EVERY, PING_TIMEOUT},
    metrics::record_counter,
};

use super::Run;
use crate::{
    execution::{Driven, Handover, MAX_INTERRUPTIONS, Progress},
    make::Waits,
    metrics::REDISPATCHED,
    store::JournalError,
};

/// The waits before a task is handed over again to an executor that went away.
const AWAY: Pauses = Pauses { first: Duration::from_millis(100), longest: Duration::from_secs(5) };

/// The same for an executor that others have filled: each try costs it a call, and places come free all the time.
const FULL: Pauses = Pauses { first: Duration::from_millis(50), longest: Duration::from_secs(1) };

/// How long a caller waits for another executor, from the moment at which one went away that had begun the task.
const BEGUN_PATIENCE: Duration = Duration::from_secs(10);

/// The same, from the handover, when the executor went away without a word about the task.
const UNHEARD_PATIENCE: Duration = Duration::from_secs(5);

/// It takes so long, at most, to find out that a peer has gone: it was there that long ago.
const FOUND_OUT_WITHIN: Duration = PING_EVERY.saturating_add(PING_TIMEOUT);

impl Run<'_> {
    /// Runs one task, which has a place, to its end.
    ///
    /// - An executor that went away: again, for as long as whoever waits has patience.
    /// - An executor that has no place, because others use it too: again until it has one. The task keeps its place here, so
    ///   that none that came later goes first; a caller is not told `overloaded` of a plan that is journalled.
    pub(super) async fn run_task(
        &self,
        ordinal: usize,
        payload: Result<Object, OrchestratorError>,
        progress: &Progress,
    ) -> Result<Result<ActionResult, OrchestratorError>, JournalError> {
        let payload = match payload {
            Ok(payload) => payload,
            Err(error) => return Ok(Err(error)),
        };
        let task = &self.plan.tasks[ordinal];
        let task_ref = self.task_ref(ordinal);
        let mut patience = Patience::new(self.waits, progress.beginnings());
        loop {
            let admitted = match self.planner.health().admit(&task.spec.agent, &self.context).await {
                Ok(admitted) => admitted,
                Err(error) => return Ok(Err(error)),
            };
            let handover = Handover {
                plan: self.counted,
                task,
                task_ref,
                payload: &payload,
                context: &self.plan.context,
            };
            let handed_over_at = Instant::now();
            let pause = match self.planner.runner().drive(handover, progress, admitted, &self.context).await?
            {
                Driven::Ended(result) => return Ok(result),
                Driven::Refused => patience.after_refusal(),
                Driven::Interrupted { error, heard_at } => {
                    if let Some(entry) = progress.close(task_ref, AttemptOutcome::Cancelled, true) {
                        self.planner.journal().note(entry).await?;
                    }
                    let outage = Outage { handed_over_at, heard_at, beginnings: progress.beginnings() };
                    match patience.after_interruption(&outage, Instant::now()) {
                        Some(pause) => pause,
                        None => return Ok(Err(error)),
                    }
                }
            };
            tokio::time::sleep(pause).await;
            record_counter(&REDISPATCHED, 1);
        }
    }
}

/// Pauses that double, up to a longest.
struct Pauses {
    first: Duration,
    longest: Duration,
}

/// An executor that went away.
struct Outage {
    handed_over_at: Instant,
    /// When it last said something about the task, if it did.
    heard_at: Option<Instant>,
    /// How often the agent may have been started by now.
    beginnings: u32,
}

/// How often a task is handed over again, and when. A caller's wait has one end, which only a beginning of the task moves.
struct Patience {
    waits: Waits,
    beginnings: u32,
    interruptions: u32,
    /// Pauses since the executor last took the task.
    pauses: u32,
    /// When a caller is told that it is enough; at once while nothing may have been started.
    give_up_at: Option<Instant>,
}

impl Patience {
    fn new(waits: Waits, beginnings: u32) -> Self {
        Self { waits, beginnings, interruptions: 0, pauses: 0, give_up_at: None }
    }

    /// The wait before the next handover; none when it is enough.
    fn after_interruption(&mut self, outage: &Outage, now: Instant) -> Option<Duration> {
        let Outage { handed_over_at, heard_at, beginnings } = *outage;
        if beginnings > self.beginnings {
            self.beginnings = beginnings;
            self.interruptions += 1;
            self.pauses = 0;
            let unheard = || self.give_up_at.unwrap_or(handed_over_at + UNHEARD_PATIENCE);
            self.give_up_at = Some(heard_at.map_or_else(unheard, |heard_at| {
                let was_there = now.checked_sub(FOUND_OUT_WITHIN).unwrap_or(heard_at);
                heard_at.max(was_there) + BEGUN_PATIENCE
            }));
        }
        if self.interruptions >= MAX_INTERRUPTIONS {
            return None;
        }
        let pause = self.pause(&AWAY);
        match self.waits {
            Waits::Nobody => Some(pause),
            // A caller is told at once that nothing can be started. What was started is seen through, as long as there is
            // time to find out whether another executor is there.
            Waits::Caller => {
                let left = self.give_up_at?.checked_duration_since(now)?.checked_sub(CONNECT_TIMEOUT)?;
                Some(pause.min(left))
            }
        }
    }

    fn after_refusal(&mut self) -> Duration {
        self.pause(&FULL)
    }

    fn pause(&mut self, pauses: &Pauses) -> Duration {
        let doubled = pauses.first.saturating_mul(1 << self.pauses.min(16));
        self.pauses += 1;
        doubled.min(pauses.longest).mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// When a caller hears that it is enough, counted from the handover: the executor goes away `after` so long, having last
    /// been heard of at `heard`, and is not there any more.
    fn told_after(after: Duration, heard: Option<Duration>) -> Duration {
        let begun = Instant::now();
        let (mut now, mut patience) = (begun + after, Patience::new(Waits::Caller, 0));
        let mut outage =
            Outage { handed_over_at: begun, heard_at: heard.map(|heard| begun + heard), beginnings: 1 };
        while let Some(pause) = patience.after_interruption(&outage, now) {
            now += pause;
            outage = Outage { handed_over_at: now, heard_at: None, beginnings: 1 };
            // Frozen, so that each try takes as long as one can.
            now += CONNECT_TIMEOUT;
        }
        now - begun
    }

    #[test]
    fn wait_for_a_gone_executor_has_one_budget() {
        let found_out = FOUND_OUT_WITHIN;
        assert_eq!(told_after(found_out, None), found_out, "frozen, nothing heard: as soon as it is known");
        assert!(told_after(SECOND / 10, None) <= UNHEARD_PATIENCE);
        assert!(told_after(SECOND / 10, None) >= UNHEARD_PATIENCE - 2 * CONNECT_TIMEOUT, "others are tried");
        for heard in [Duration::ZERO, SECOND, 59 * SECOND] {
            let told = told_after(heard + found_out, Some(heard));
            assert!(told <= heard + BEGUN_PATIENCE, "{told:?} after {heard:?}");
            assert!(told > heard + found_out + SECOND, "{told:?} after {heard:?}: others are tried");
        }
        // A long task whose executor is killed: the outage counts, not the task.
        let told = told_after(60 * SECOND, Some(Duration::ZERO));
        assert!(told > 62 * SECOND && told <= 70 * SECOND, "{told:?}");
    }

    #[test]
    fn caller_of_an_unreachable_executor_is_told_at_once() {
        let now = Instant::now();
        let outage = Outage { handed_over_at: now, heard_at: None, beginnings: 0 };
        assert_eq!(Patience::new(Waits::Caller, 0).after_interruption(&outage, now), None);
        assert!(Patience::new(Waits::Nobody, 0).after_interruption(&outage, now).is_some());
    }
}
