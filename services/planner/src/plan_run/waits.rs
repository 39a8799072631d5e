//! Waits of one plan's tasks: for decisions about their approvals, and for times before which they must not start.
//!
//! A task whose dependencies have ended passes a gate. First it is approved, then it waits for its time; so what runs at night
//! can be approved by day. A task that waits holds no permit, and the journal knows that it waits.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use phoenix_domain::{
    json::Object,
    plan::{Plan, TaskStatus},
    wait::{Wait, WaitKind},
};

use crate::{
    plan_run::{
        active::{ActivePlan, LoadedPlan},
        approvals::{Gate, TaskApprovals, reached_if},
        registry::CancelHandle,
        task_state::TaskState,
    },
    store::{entry::Entry, error::JournalError},
};

/// Waits of a run, by the ordinals of their tasks.
pub(super) struct TaskWaits {
    pub(super) approvals: TaskApprovals,
    /// When tasks that wait for a time may start.
    timers: BTreeMap<usize, Timestamp>,
    /// Tasks of which this run has recorded that they wait for a time.
    has_waited: BTreeSet<usize>,
}

impl TaskWaits {
    /// The waits that the journal knows.
    pub(super) fn of(plan: &Plan) -> Self {
        Self { approvals: TaskApprovals::of(plan), timers: BTreeMap::new(), has_waited: BTreeSet::new() }
    }

    /// The first time at which a task stops waiting without a decision.
    pub(super) fn next_time(&self) -> Option<Timestamp> {
        self.approvals.next_expiry().into_iter().chain(self.next_timer()).min()
    }

    fn next_timer(&self) -> Option<Timestamp> {
        self.timers.values().min().copied()
    }

    /// Whether that time has come.
    pub(super) fn is_due(&self) -> bool {
        self.next_time().is_some_and(|at| at <= Timestamp::now())
    }

    /// The input with which a task runs, if it was approved.
    pub(super) fn approved_input(&self, ordinal: usize) -> Option<Object> {
        self.approvals.approved_input(ordinal)
    }

    /// Waits until a task may have stopped waiting. For ever while no task waits.
    pub(super) async fn changed(&self, handle: &CancelHandle) {
        tokio::select! {
            () = self.approvals.changed(handle) => {}
            () = reached_if(self.next_timer()) => {}
        }
    }

    /// Takes the tasks whose time has come.
    fn take_due(&mut self) -> Vec<usize> {
        let now = Timestamp::now();
        let is_due = |(ordinal, at): (&usize, &Timestamp)| (*at <= now).then_some(*ordinal);
        let due: Vec<usize> = self.timers.iter().filter_map(is_due).collect();
        self.timers.retain(|_, at| *at > now);
        due
    }
}

impl ActivePlan {
    /// Whether a task whose dependencies have ended may start. Adds the entries that record its waits.
    pub(super) fn gate(
        &self,
        loaded: &LoadedPlan,
        ordinal: usize,
        states: &[TaskState],
        waits: &mut TaskWaits,
        entries: &mut Vec<Entry>,
    ) -> Gate {
        match self.approval_gate(loaded, ordinal, states, &mut waits.approvals, entries) {
            Gate::Open => self.timer_gate(loaded, ordinal, waits, entries),
            closed => closed,
        }
    }

    fn timer_gate(
        &self,
        loaded: &LoadedPlan,
        ordinal: usize,
        waits: &mut TaskWaits,
        entries: &mut Vec<Entry>,
    ) -> Gate {
        let (task, now) = (self.task_ref(ordinal), Timestamp::now());
        let of_plan = &loaded.plan.tasks[ordinal];
        let Some(start) = of_plan.spec.start.not_before else { return Gate::Open };
        // An earlier run may have recorded that it waits; this one has if it comes here again.
        let is_recorded = of_plan.status == TaskStatus::AwaitingTime || waits.has_waited.contains(&ordinal);
        if start > now {
            if !is_recorded {
                let wait = Wait { kind: WaitKind::Timer, until: Some(start) };
                entries.push(Entry::TaskWaits { task, at: now, wait });
                waits.has_waited.insert(ordinal);
                tracing::info!(key = of_plan.spec.key, until = %start, "task waits for its time");
            }
            waits.timers.insert(ordinal, start);
            return Gate::Waits(WaitKind::Timer);
        }
        if is_recorded {
            entries.push(Entry::TaskResumed { task, at: now, kind: WaitKind::Timer });
        }
        Gate::Open
    }

    /// Looks for tasks that wait no more, and returns them: those whose time has come, else those with a decision.
    pub(super) async fn look_at_waits(&self, waits: &mut TaskWaits) -> Result<Vec<usize>, JournalError> {
        let due = waits.take_due();
        if due.is_empty() { self.look_at_approvals(&mut waits.approvals).await } else { Ok(due) }
    }
}
