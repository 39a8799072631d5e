//! Progress of one task: its attempts, their numbers, and the entries that record them.

use std::sync::{
    OnceLock,
    atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use phoenix_domain::{
    OrchestratorError, OrchestratorErrorCode,
    action::ActionResult,
    plan::{AttemptOutcome, Task, TaskStatus},
    usage::ModelCall,
};

use crate::{
    budgets::Hold,
    plan_metrics::PlanMetricsGuard,
    store::{budget::Verdict, entry::Entry, task_ref::TaskRef},
};

/// Dispatches of one task that may end with the loss of the executor; then the task fails.
pub(crate) const MAX_INTERRUPTIONS: u32 = 5;

/// Size of the range of attempt numbers that each planner has for a task. One size for all agents, because `max_attempts` may
/// differ between two planners, and between a planner and an executor that has restarted.
const NUMBERS_PER_PLANNER: u32 = 100;

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
    /// Highest attempt number of this planner.
    last_number: u32,
    /// Numbers that are reserved for the present dispatch.
    reserved: AtomicU32,
    /// When the task became ready.
    ready_at: OnceLock<Timestamp>,
    /// Whether the task was dispatched and the journal records it.
    is_dispatched: AtomicBool,
    /// What is reserved for its call.
    hold: Mutex<Option<Hold>>,
    /// Its last failed attempt, when this planner decides about the next one.
    failure: Mutex<Failure>,
}

/// A failed attempt.
#[derive(Debug, Default)]
pub(crate) struct Failure {
    /// Calls of models that it reported.
    pub(crate) model_calls: Vec<ModelCall>,
    /// Whether another attempt may follow.
    pub(crate) is_repeated: bool,
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
            last_number: NUMBERS_PER_PLANNER,
            is_dispatched: AtomicBool::new(task.dispatched_at.is_some()),
            ..Self::default()
        }
    }

    /// Sets the range of attempt numbers for a task whose plan was taken over `takeovers` times.
    ///
    /// Attempts of earlier planners need not have reached the journal. Every planner therefore has a range of its own (from 1,
    /// 101, 201 and so on), which it never leaves: an agent never sees a number twice, and nothing has to be durable before an
    /// attempt starts.
    #[must_use]
    pub(crate) fn numbered(mut self, takeovers: u32) -> Self {
        if takeovers > 0 {
            let base = takeovers.saturating_mul(NUMBERS_PER_PLANNER);
            // Exceeded only by planners of versions without a fixed range.
            let above = self.highest_before.saturating_add(NUMBERS_PER_PLANNER);
            let base = if self.highest_before > base { above } else { base };
            self.next_number = AtomicU32::new(base.saturating_add(1));
            self.last_number = base.saturating_add(NUMBERS_PER_PLANNER);
        }
        self
    }

    /// Reserves numbers for up to `max_attempts` attempts of the next dispatch. Returns how many: fewer when the range of this
    /// planner ends before, none when it has ended. The executor makes no more attempts than that.
    pub(crate) fn reserve(&self, max_attempts: u32) -> Option<u32> {
        let left = self.last_number.saturating_add(1).saturating_sub(self.next_number());
        let reserved = max_attempts.max(1).min(left);
        self.reserved.store(reserved, Relaxed);
        (reserved > 0).then_some(reserved)
    }

    /// Numbers that are reserved for the present dispatch.
    pub(crate) fn reserved(&self) -> u32 {
        self.reserved.load(Relaxed)
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
        self.next_number.fetch_max(first.saturating_add(self.reserved()), Relaxed);
    }

    /// Records when the last dependency of the task ended.
    pub(crate) fn became_ready(&self, at: Timestamp) {
        let _ = self.ready_at.set(at);
    }

    /// When a task that was not dispatched before began to wait for its place.
    pub(crate) fn waited_since(&self) -> Option<Timestamp> {
        self.ready_at.get().copied().filter(|_| !self.is_dispatched())
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

    /// Records a reservation, before it is made.
    pub(crate) fn hold(&self, hold: Hold) {
        *self.hold.lock() = Some(hold);
    }

    /// Records that the reservation is made.
    pub(crate) fn granted(&self, verdicts: &[Verdict]) {
        if let Some(hold) = &mut *self.hold.lock() {
            hold.granted(verdicts);
        }
    }

    /// The reservation, if there is one.
    pub(crate) fn held(&self) -> Option<Hold> {
        self.hold.lock().clone()
    }

    /// Records that the reservation is settled.
    pub(crate) fn release(&self) {
        *self.hold.lock() = None;
    }

    /// Records a failed attempt.
    pub(crate) fn failed_with(&self, failure: Failure) {
        *self.failure.lock() = failure;
    }

    /// Takes the last failed attempt.
    pub(crate) fn take_failure(&self) -> Failure {
        std::mem::take(&mut self.failure.lock())
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
                (TaskStatus::Cancelled, AttemptOutcome::Cancelled { reason: String::new() })
            }
            Err(_) => (TaskStatus::DeadLettered, AttemptOutcome::Cancelled { reason: String::new() }),
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
        plan::{Attempt, OnFailure, StartConditions, TaskSpec},
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
                start: StartConditions::default(),
            },
            status: TaskStatus::Queued,
            queued_at: Timestamp::now(),
            dispatched_at: None,
            ended_at: None,
            output: None,
            error: None,
            approval: None,
            pause: None,
            attempts: Vec::new(),
        }
    }

    /// A dispatch: attempts that the executor would start, how many of them reached the planner, and how many of those the journal.
    fn dispatch(max_attempts: u32) -> impl Strategy<Value = (u32, u32, u32)> {
        (0..=max_attempts).prop_flat_map(|started| {
            (0..=started).prop_flat_map(move |heard| (Just(started), Just(heard), 0..=heard))
        })
    }

    /// The `max_attempts` that a planner knows, and its dispatches in order, to executors that may have restarted with another one.
    fn planner() -> impl Strategy<Value = (u32, Vec<(u32, u32, u32)>)> {
        let dispatches = (1u32..=150).prop_flat_map(|of_executor| {
            prop::collection::vec(dispatch(of_executor), 0..=MAX_INTERRUPTIONS as usize)
        });
        (1u32..=150, dispatches)
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
                let progress = TaskProgress::of(&task).numbered(u32::try_from(takeovers).unwrap());
                let mut durable = true;
                for (started, heard, journaled) in dispatches {
                    let Some(reserved) = progress.reserve(max_attempts) else { break };
                    let [started, heard, journaled] = [started, heard, journaled].map(|count| count.min(reserved));
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

    #[test]
    fn reservation_ends_with_the_range_of_the_planner() {
        let progress = TaskProgress::of(&task()).numbered(2);
        let mut reserved = Vec::new();
        while let Some(count) = progress.reserve(30) {
            reserved.push((progress.next_number(), count));
            progress.dispatch_broke(progress.next_number(), progress.attempts());
        }
        assert_eq!(reserved, [(201, 30), (231, 30), (261, 30), (291, 10)]);
    }
}
