//! Waits of one plan's tasks: for decisions about their approvals, for times before which they must not start, and for budgets
//! that are used up (pauses.rs).
//!
//! A task whose dependencies have ended passes a gate. First it is approved, then it waits for its time; so what runs at night
//! can be approved by day. A task that waits holds no permit, and the journal knows that it waits.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use phoenix_domain::{
    json::Object,
    plan::TaskStatus,
    wait::{Wait, WaitKind},
};
use phoenix_platform::spans::{WaitSpan, record_wait};

use crate::{
    plan_run::{
        active::{ActivePlan, LoadedPlan},
        approvals::{Gate, TaskApprovals, reached_if},
        pauses::TaskPauses,
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
    pub(super) pauses: TaskPauses,
}

impl TaskWaits {
    /// The waits that the journal knows.
    pub(super) fn of(loaded: &LoadedPlan) -> Self {
        let approvals = TaskApprovals::of(&loaded.plan);
        Self {
            approvals,
            timers: BTreeMap::new(),
            has_waited: BTreeSet::new(),
            pauses: TaskPauses::of(loaded),
        }
    }

    /// The first time at which a task stops waiting without a decision.
    pub(super) fn next_time(&self) -> Option<Timestamp> {
        let times = [self.approvals.next_expiry(), self.next_timer(), self.pauses.next_time()];
        times.into_iter().flatten().min()
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
            () = self.pauses.changed(handle) => {}
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
        match self.pause_gate(loaded, ordinal, &mut waits.pauses, entries) {
            Gate::Open => {}
            closed => return closed,
        }
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
            let ready_at = waits.approvals.decided_at(ordinal).unwrap_or_default();
            let since = self.ready_since(loaded, ordinal).max(ready_at);
            record_wait(WaitSpan::Timer, since, Some(&of_plan.spec.key), None);
            entries.push(Entry::TaskResumed { task, at: now, kind: WaitKind::Timer });
        }
        Gate::Open
    }

    /// Looks for tasks that may wait no more, and returns them: those whose time has come, else those with a decision, and those
    /// whose budget may be larger by now.
    pub(super) async fn look_at_waits(
        &self,
        loaded: &LoadedPlan,
        waits: &mut TaskWaits,
    ) -> Result<Vec<usize>, JournalError> {
        let mut found = waits.take_due();
        if found.is_empty() {
            found = self.look_at_approvals(&mut waits.approvals).await?;
            found.extend(self.look_at_pauses(loaded, &mut waits.pauses).await?);
        }
        Ok(found)
    }
}
