//! One task with a place: handed over, and again when the executor went away under it or had no place after all.

use std::time::{Duration, Instant};

use phoenix_domain::{OrchestratorError, action::ActionResult, plan::AttemptOutcome};
use phoenix_platform::metrics::record_counter;
use serde_json::{Map, Value};

use super::Run;
use crate::{
    execution::{Driven, Handover, Progress},
    make::Waits,
    metrics::REDISPATCHED,
    store::JournalError,
};

/// A task that took its executor down so often is not handed over again.
const MAX_INTERRUPTIONS: u32 = 5;

/// The waits before a task is handed over again to an executor that went away.
const AWAY: Pauses = Pauses { first: Duration::from_millis(100), longest: Duration::from_secs(5) };

/// The same for an executor that others have filled: each try costs it a call, and places come free all the time.
const FULL: Pauses = Pauses { first: Duration::from_millis(50), longest: Duration::from_secs(1) };

/// How long a caller who waits is kept waiting for an executor that went away in the middle.
const CALLER_PATIENCE: Duration = Duration::from_secs(10);

impl Run<'_> {
    /// Runs one task, which has a place, to its end.
    ///
    /// - An executor that went away: again, for as long as whoever waits has patience.
    /// - An executor that has no place, because others use it too: again until it has one. The task keeps its place here, so
    ///   that none that came later goes first; a caller is not told `overloaded` of a plan that is journalled.
    pub(super) async fn run_task(
        &self,
        ordinal: usize,
        payload: Result<Map<String, Value>, OrchestratorError>,
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
            let pause = match self.planner.runner().drive(handover, progress, admitted, &self.context).await?
            {
                Driven::Ended(result) => return Ok(result),
                Driven::Refused => patience.after_refusal(),
                Driven::Interrupted(error) => {
                    if let Some(entry) = progress.close(task_ref, AttemptOutcome::Cancelled, true) {
                        self.planner.journal().note(entry).await?;
                    }
                    match patience.after_interruption(progress.beginnings()) {
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

/// How often a task is handed over again, and when.
struct Patience {
    waits: Waits,
    since: Instant,
    beginnings: u32,
    interruptions: u32,
    /// Pauses since the executor last took the task.
    pauses: u32,
}

impl Patience {
    fn new(waits: Waits, beginnings: u32) -> Self {
        Self { waits, since: Instant::now(), beginnings, interruptions: 0, pauses: 0 }
    }

    /// The wait before the next handover; none when it is enough. `beginnings` tells whether the agent may have been
    /// started.
    fn after_interruption(&mut self, beginnings: u32) -> Option<Duration> {
        if beginnings > self.beginnings {
            self.beginnings = beginnings;
            self.interruptions += 1;
            self.pauses = 0;
        }
        let patient = match self.waits {
            Waits::Nobody => true,
            // A caller is told at once that nothing can be started; what was started is seen through.
            Waits::Caller => self.interruptions > 0 && self.since.elapsed() < CALLER_PATIENCE,
        };
        (patient && self.interruptions < MAX_INTERRUPTIONS).then(|| self.pause(&AWAY))
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
