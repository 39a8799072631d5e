//! Progress of one task: its attempts, their numbers, and the entries that record them.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

use jiff::Timestamp;
use phoenix_domain::{
    OrchestratorError, OrchestratorErrorCode,
    action::ActionResult,
    plan::{AttemptOutcome, Task, TaskStatus},
};

use crate::{
    plan_metrics::PlanMetricsGuard,
    store::{entry::Entry, task_ref::TaskRef},
};

/// Dispatches of one task that may end with the loss of the executor; then the task fails.
pub(crate) const MAX_INTERRUPTIONS: u32 = 5;

/// Minimum size of the range of attempt numbers that each planner has for a task. One size for all agents, so that
/// `max_attempts` may change between two planners.
const NUMBERS_PER_PLANNER: u32 = 100;

/// Maximum number of attempts of one dispatch for which numbers are reserved.
const MAX_RESERVED_ATTEMPTS: u32 = 10_000;

/// Progress of a task. It can be read after the dispatch that updates it was dropped.
#[derive(Debug, Default)]
pub(crate) struct TaskProgress {
    /// Number of the running attempt; 0 for none.
    open_attempt: AtomicU32,
    /// Dispatches that broke without an acknowledgement of whether an attempt started.
    unacknowledged: AtomicU32,
    /// Highest attempt number so far.
    highest: AtomicU32,
    /// Number of attempts so far.
    attempts: AtomicU32,
    /// Highest attempt number that earlier planners recorded.
    highest_before: u32,
    /// Lowest number that no attempt can have used.
    next_number: AtomicU32,
    /// Maximum number of attempts of one dispatch so far.
    max_attempts: AtomicU32,
    /// When the task became ready.
    ready_at: OnceLock<Timestamp>,
    /// Whether the task was dispatched and the journal records it.
    is_dispatched: AtomicBool,
}

impl TaskProgress {
    /// Progress of a task as the journal records it.
    #[must_use]
    pub(crate) fn of(task: &Task) -> Self {
        let highest = task.attempts.iter().map(|attempt| attempt.number).max().unwrap_or(0);
        Self {
            highest: AtomicU32::new(highest),
            attempts: AtomicU32::new(u32::try_from(task.attempts.len()).unwrap_or(u32::MAX)),
            highest_before: highest,
            next_number: AtomicU32::new(highest.saturating_add(1)),
            is_dispatched: AtomicBool::new(task.dispatched_at.is_some()),
            ..Self::default()
        }
    }

    /// Sets the range of attempt numbers for a task with up to `max_attempts` attempts whose plan was taken over
    /// `takeovers` times.
    ///
    /// Attempts of earlier planners need not have reached the journal, and each planner may have dispatched the task up to
    /// [`MAX_INTERRUPTIONS`] times. Every planner therefore numbers from a base of its own (1, 101, 201 and so on): an agent
    /// never sees a number twice, and nothing has to be durable before an attempt starts.
    #[must_use]
    pub(crate) fn numbered(mut self, takeovers: u32, max_attempts: u32) -> Self {
        let max_attempts = max_attempts.clamp(1, MAX_RESERVED_ATTEMPTS);
        self.max_attempts = AtomicU32::new(max_attempts);
        if takeovers > 0 {
            let range = (max_attempts * MAX_INTERRUPTIONS).max(NUMBERS_PER_PLANNER);
            let base = takeovers.saturating_mul(range);
            // Exceeded only when an earlier planner ran with a larger `max_attempts`.
            let base =
                if self.highest_before > base { self.highest_before.saturating_add(range) } else { base };
            self.next_number = AtomicU32::new(base.saturating_add(1));
        }
        self
    }

    /// Reserves numbers for up to `max_attempts` attempts of each dispatch from now on: the agent may have changed.
    pub(crate) fn reserve(&self, max_attempts: u32) {
        self.max_attempts.fetch_max(max_attempts.min(MAX_RESERVED_ATTEMPTS), Relaxed);
    }

    /// Number of attempts so far.
    #[must_use]
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts.load(Relaxed)
    }

    /// How often the agent may have been started: recorded attempts and unacknowledged dispatches.
    #[must_use]
    pub(crate) fn possible_starts(&self) -> u32 {
        self.attempts() + self.unacknowledged.load(Relaxed)
    }

    /// Number of the next attempt.
    pub(crate) fn next_number(&self) -> u32 {
        self.next_number.load(Relaxed)
    }

    /// Records a dispatch that broke. It began with the number `first`, after `attempts` attempts. Attempts that it started
    /// since its last message have used a number each.
    pub(crate) fn dispatch_broke(&self, first: u32, attempts: u32) {
        if self.attempts() == attempts {
            self.unacknowledged.fetch_add(1, Relaxed);
        }
        self.next_number.fetch_max(first.saturating_add(self.max_attempts.load(Relaxed)), Relaxed);
    }

    /// Records when the last dependency of the task ended.
    pub(crate) fn became_ready(&self, at: Timestamp) {
        let _ = self.ready_at.set(at);
    }

    /// Whether the task was dispatched.
    #[must_use]
    pub(crate) fn is_dispatched(&self) -> bool {
        self.is_dispatched.load(Relaxed)
    }

    /// Marks the task as dispatched. Returns whether it was dispatched before.
    pub(crate) fn mark_dispatched(&self) -> bool {
        self.is_dispatched.swap(true, Relaxed)
    }

    /// Records that an attempt started; the first one ends the task's queue time in `plan`.
    pub(crate) fn attempt_started(&self, number: u32, at: Timestamp, plan: &PlanMetricsGuard) {
        self.open_attempt.store(number, Relaxed);
        let before = self.highest.fetch_max(number, Relaxed);
        if before < number {
            self.attempts.fetch_add(1, Relaxed);
            self.next_number.fetch_max(number.saturating_add(1), Relaxed);
        }
        if let (true, Some(ready_at)) = (before == self.highest_before, self.ready_at.get()) {
            plan.task_started(*ready_at, at);
        }
    }

    /// Records that the running attempt ended.
    pub(crate) fn attempt_ended(&self) {
        self.open_attempt.store(0, Relaxed);
    }

    /// The entry that closes the running attempt, if there is one.
    pub(crate) fn close_attempt(
        &self,
        task: TaskRef,
        outcome: AttemptOutcome,
        retried: bool,
    ) -> Option<Entry> {
        let number = self.open_attempt.swap(0, Relaxed);
        (number > 0).then(|| Entry::AttemptEnded { task, number, at: Timestamp::now(), outcome, retried })
    }

    /// The last entries of a task: the end of its running attempt, and its own.
    pub(crate) fn end(&self, task: TaskRef, result: &Result<ActionResult, OrchestratorError>) -> Vec<Entry> {
        let (status, outcome) = match result {
            Ok(_) => (TaskStatus::Succeeded, AttemptOutcome::Succeeded),
            Err(error) if error.code == OrchestratorErrorCode::Cancelled => {
                (TaskStatus::Cancelled, AttemptOutcome::Cancelled)
            }
            Err(_) => (TaskStatus::DeadLettered, AttemptOutcome::Cancelled),
        };
        let attempt = self.close_attempt(task, outcome, false);
        let ended = Entry::TaskEnded { task, status, at: Timestamp::now(), result: result.clone() };
        attempt.into_iter().chain([ended]).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use phoenix_domain::{
        TaskId,
        plan::{Attempt, OnFailure, TaskSpec},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::plan_metrics::PlanMetrics;

    fn task() -> Task {
        Task {
            task_id: TaskId::generate(),
            spec: TaskSpec {
                key: "a".into(),
                agent: "model".parse().unwrap(),
                action: "do".into(),
                payload: phoenix_domain::json::Object::new(),
                depends_on: Vec::new(),
                on_failure: OnFailure::Fail,
            },
            status: TaskStatus::Queued,
            queued_at: Timestamp::now(),
            dispatched_at: None,
            ended_at: None,
            output: None,
            error: None,
            attempts: Vec::new(),
        }
    }

    /// A dispatch: attempts that it started, how many of them reached the planner, and how many of those the journal.
    fn dispatch(max_attempts: u32) -> impl Strategy<Value = (u32, u32, u32)> {
        (0..=max_attempts).prop_flat_map(|started| {
            (0..=started).prop_flat_map(move |heard| (Just(started), Just(heard), 0..=heard))
        })
    }

    /// The `max_attempts` of a planner, and its dispatches in order.
    fn planner() -> impl Strategy<Value = (u32, Vec<(u32, u32, u32)>)> {
        (1u32..=20).prop_flat_map(|most| {
            (Just(most), prop::collection::vec(dispatch(most), 0..=MAX_INTERRUPTIONS as usize))
        })
    }

    proptest! {
        /// Whatever messages are lost, and however many planners take the task over.
        #[test]
        fn attempt_number_is_never_used_twice(
            planners in prop::collection::vec(planner(), 1..6)
        ) {
            let plan = PlanMetricsGuard::start(&PlanMetrics::new());
            let (mut task, mut used) = (task(), HashSet::new());
            for (takeovers, (max_attempts, dispatches)) in planners.into_iter().enumerate() {
                let progress = TaskProgress::of(&task).numbered(u32::try_from(takeovers).unwrap(), max_attempts);
                let mut durable = true;
                for (started, heard, journaled) in dispatches {
                    let (first, attempts) = (progress.next_number(), progress.attempts());
                    for number in first..first + started {
                        prop_assert!(used.insert(number), "{} again, by planner {}", number, takeovers);
                    }
                    for number in first..first + heard {
                        progress.attempt_started(number, Timestamp::now(), &plan);
                        // The journal has no entry after one that it lost.
                        durable &= number < first + journaled;
                        if durable {
                            let (started_at, worker) = (Timestamp::now(), String::new());
                            task.attempts.push(Attempt { number, started_at, ended_at: None, outcome: None, worker });
                        }
                    }
                    progress.dispatch_broke(first, attempts);
                }
            }
        }
    }
}
