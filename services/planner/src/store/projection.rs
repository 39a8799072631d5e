//! Projection of journal entries: what a batch of commits changes, plan by plan, for any database.
//!
//! Each plan, task and attempt is written once per batch, however often it changes in it. A chat that is accepted and
//! finished within one batch is inserted in its final state.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;
use phoenix_domain::{
    CorrelationId, OrchestratorError, PlanId,
    action::ActionResult,
    approval::{Approval, ApprovalState},
    budget::Limits,
    budget_pause,
    plan::{AttemptOutcome, Plan, PlanStatus, Task, TaskStatus},
    wait::{Wait, WaitKind},
};

use crate::store::{
    entry::{ApprovalOutcome, Entries, Entry},
    plan_events::{
        Accepted, Added, ApprovalDecided, ApprovalRequested, AttemptEnded, AttemptStarted, Ended, Events,
        NoFacts, Output, Part, Redriven, WaitEnded, WaitStarted,
    },
    query::TASK_OUTPUT,
    task_ref::TaskRef,
};

/// Groups of entries that one planner committed together.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) planner: String,
    pub(super) groups: Vec<Entries>,
}

/// Changes of a batch of commits.
#[derive(Debug, Default)]
pub(super) struct Projection<'a> {
    /// In the order of their first entries, which is nearly that of their ids: rows are adjacent then.
    pub(super) plans: Vec<PlanChanges<'a>>,
    indices: HashMap<PlanId, usize>,
    pub(super) redrives: Vec<Redrive<'a>>,
}

/// A plan whose open dead letters a redrive resolves.
#[derive(Debug)]
pub(super) struct Redrive<'a> {
    pub(super) plan_id: PlanId,
    pub(super) at: Timestamp,
    pub(super) by: CorrelationId,
    pub(super) reason: &'a str,
    /// Whether a bulk operation redrives it, which requires an open dead letter.
    pub(super) is_bulk: bool,
}

/// Changes of a plan.
#[derive(Debug)]
pub(super) struct PlanChanges<'a> {
    pub(super) plan_id: PlanId,
    /// Set when the batch accepts the plan.
    pub(super) accepted: Option<Acceptance<'a>>,
    /// Whether the batch holds entries that follow it in the log.
    pub(super) is_applied_early: bool,
    /// Tasks that the batch adds, each part after those before.
    pub(super) added: Vec<AddedTasks<'a>>,
    pub(super) update: Option<PlanUpdate<'a>>,
    /// New limits.
    pub(super) budget: Option<Limits>,
    /// Changed tasks, by ordinal.
    pub(super) tasks: Vec<TaskChanges<'a>>,
    pub(super) events: Events,
}

/// An accepted plan, and the planner that accepted it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acceptance<'a> {
    pub(super) planner: &'a str,
    pub(super) plan: &'a Plan,
}

/// Tasks that are added to a plan: the ordinal of the first, and all of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct AddedTasks<'a> {
    pub(super) first: usize,
    pub(super) tasks: &'a [Task],
}

/// New state of a plan.
#[derive(Debug)]
pub(super) struct PlanUpdate<'a> {
    pub(super) status: PlanStatus,
    pub(super) ended_at: Option<Timestamp>,
    pub(super) result: Option<&'a Result<(), OrchestratorError>>,
}

/// Changes of a task.
#[derive(Debug)]
pub(super) struct TaskChanges<'a> {
    pub(super) ordinal: usize,
    pub(super) update: Option<TaskUpdate<'a>>,
    /// Whether an entry dead-letters the task.
    pub(super) dead_lettered: bool,
    /// The approvals that it begins to wait for, of different kinds.
    pub(super) approvals: Vec<&'a Approval>,
    pub(super) attempts: Vec<AttemptChanges<'a>>,
}

/// New state of a task.
#[derive(Debug)]
pub(super) struct TaskUpdate<'a> {
    pub(super) status: TaskStatus,
    pub(super) dispatched_at: Option<Timestamp>,
    pub(super) ended_at: Option<Timestamp>,
    pub(super) result: Option<&'a Result<ActionResult, OrchestratorError>>,
}

/// An attempt that starts in the batch, ends in it, or both.
#[derive(Debug)]
pub(super) struct AttemptChanges<'a> {
    pub(super) number: u32,
    /// Time of the start, and the process.
    pub(super) started: Option<(Timestamp, &'a str)>,
    pub(super) ended: Option<(Timestamp, &'a AttemptOutcome)>,
}

impl Commit {
    /// The entries in commit order.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.groups.iter().flat_map(|group| group.iter())
    }
}

impl<'a> Projection<'a> {
    /// Projects `commits`, without the steps of the plans in `applied_early`, which earlier batches have applied already.
    pub(super) fn of(commits: &'a [Arc<Commit>], applied_early: &HashSet<PlanId>) -> Self {
        let mut projection = Self::default();
        let is_applied = |entry: &Entry| {
            !matches!(entry, Entry::PlanRedriven { .. })
                && entry.plan_id().is_some_and(|plan_id| applied_early.contains(&plan_id))
        };
        for commit in commits {
            let entries = commit.entries();
            for entry in entries.filter(|entry| applied_early.is_empty() || !is_applied(entry)) {
                projection.add(&commit.planner, entry);
            }
        }
        projection
    }

    /// Applies entries of `later` commits early, for plans of one task that this batch accepts and that end there without a
    /// dead letter. Returns those plans. Each of them is written once, however small the batches are.
    pub(super) fn apply_early(&mut self, later: &'a [Arc<Commit>]) -> HashSet<PlanId> {
        let open = self.plans.iter().filter(|plan| plan.accepted.is_some() && !plan.has_ended());
        let mut open: HashMap<PlanId, Vec<&Entry>> = open.map(|plan| (plan.plan_id, Vec::new())).collect();
        let mut applied = HashSet::new();
        for commit in later {
            if open.is_empty() {
                break;
            }
            for entry in commit.entries() {
                let Some(plan_id) = entry.plan_id() else { continue };
                let Some(entries) = open.get_mut(&plan_id) else { continue };
                entries.push(entry);
                if !matches!(entry, Entry::PlanEnded { .. }) {
                    continue;
                }
                let entries = open.remove(&plan_id).unwrap_or_default();
                if self.plan(plan_id).can_be_completed_with(&entries) {
                    entries.into_iter().for_each(|entry| self.add(&commit.planner, entry));
                    self.plan(plan_id).is_applied_early = true;
                    applied.insert(plan_id);
                }
            }
        }
        applied
    }

    fn add(&mut self, planner: &'a str, entry: &'a Entry) {
        match entry {
            Entry::PlanAccepted { plan, trace } => {
                let Plan { plan_id, correlation_id, created_at, tasks, redrive_of, .. } = &**plan;
                let (tasks, redrive_of) = (tasks.len(), *redrive_of);
                let facts = Accepted {
                    correlation_id: *correlation_id,
                    tasks,
                    redrive_of,
                    traceparent: trace.as_deref(),
                };
                let changes = self.plan(*plan_id);
                changes.accepted = Some(Acceptance { planner, plan });
                changes.events.add(None, "plan_accepted", *created_at, &facts);
            }
            Entry::TasksAdded { plan_id, first, at, tasks } => {
                let keys = tasks.iter().map(|task| task.spec.key.as_str()).collect();
                let changes = self.plan(*plan_id);
                changes.added.push(AddedTasks { first: *first, tasks });
                changes.events.add(None, "tasks_added", *at, &Added { tasks: tasks.len(), keys });
            }
            Entry::PlanRedriven { plan_id, redriven_as, at, by, reason, bulk } => {
                let is_bulk = bulk.is_some();
                self.redrives.push(Redrive { plan_id: *plan_id, at: *at, by: *by, reason, is_bulk });
                let (plan, sweep_id) = (*redriven_as, *bulk);
                let facts = Redriven { plan_id: plan, correlation_id: *by, reason, sweep_id };
                self.plan(*plan_id).events.add(None, "plan_redriven", *at, &facts);
            }
            // Written in the transaction of their commit.
            Entry::KeyUsed { .. } | Entry::BulkStarted { .. } | Entry::BulkEnded { .. } => {}
            Entry::TaskDispatched { task, at } => {
                let changes = self.plan(task.plan_id);
                changes.task_progressed(task.ordinal, TaskStatus::Dispatched, *at);
                changes.events.add(Some(task.ordinal), "task_dispatched", *at, &NoFacts {});
            }
            Entry::AttemptStarted { task, number, at, worker } => {
                let changes = self.plan(task.plan_id);
                changes.task_progressed(task.ordinal, TaskStatus::InProgress, *at);
                let attempts = &mut changes.task(task.ordinal).attempts;
                // An executor that repeats a number must not stop the journal: its first attempt counts.
                if !attempts.iter().any(|known| known.number == *number && known.started.is_some()) {
                    let started = Some((*at, worker.as_str()));
                    attempts.push(AttemptChanges { number: *number, started, ended: None });
                }
                let facts = AttemptStarted { attempt: *number, worker };
                changes.events.add(Some(task.ordinal), "attempt_started", *at, &facts);
            }
            Entry::AttemptEnded { task, number, at, outcome, retried } => {
                self.end_attempt(*task, *number, *at, outcome, *retried);
            }
            Entry::TaskOutput { task, number, at, parts } => {
                let facts = Output { attempt: *number, parts: parts.iter().map(Part::from).collect() };
                self.plan(task.plan_id).events.add(Some(task.ordinal), TASK_OUTPUT, *at, &facts);
            }
            Entry::ApprovalRequested { task, approval } => self.request_approval(*task, approval),
            Entry::ApprovalDecided { task, at, outcome } => self.decide_approval(*task, *at, outcome),
            Entry::TaskWaits { task, at, wait: Wait { kind, until } } => {
                let changes = self.plan(task.plan_id);
                changes.task_waits(task.ordinal, kind.status());
                let facts = WaitStarted { kind: kind.as_str(), until: *until, reached: None };
                changes.events.add(Some(task.ordinal), "wait_started", *at, &facts);
            }
            Entry::BudgetReached { task, pause } => self.reach_budget(*task, pause),
            Entry::BudgetDecided { task, at, outcome, budget } => {
                self.decide_budget(*task, *at, outcome, *budget);
            }
            Entry::TaskResumed { task, at, kind } => {
                let changes = self.plan(task.plan_id);
                changes.task_waits(task.ordinal, TaskStatus::Queued);
                changes.events.add(Some(task.ordinal), "wait_ended", *at, &WaitEnded::of(*kind));
            }
            Entry::TaskEnded { task, status, at, result } => {
                let changes = self.plan(task.plan_id);
                let own = changes.task(task.ordinal);
                let update = own.update.get_or_insert_default();
                if !update.status.is_terminal() {
                    (update.status, update.ended_at, update.result) = (*status, Some(*at), Some(result));
                }
                own.dead_lettered |= *status == TaskStatus::DeadLettered;
                changes.events.add(Some(task.ordinal), "task_ended", *at, &Ended { status: status.as_str() });
            }
            Entry::PlanEnded { plan_id, status, at, result } => {
                let changes = self.plan(*plan_id);
                if !changes.has_ended() {
                    let (ended_at, result) = (Some(*at), Some(result));
                    changes.update = Some(PlanUpdate { status: *status, ended_at, result });
                }
                changes.events.add(None, "plan_ended", *at, &Ended { status: status.as_str() });
            }
        }
    }

    fn request_approval(&mut self, task: TaskRef, approval: &'a Approval) {
        let Approval { requested_at, expires_at, reason, approver, on_expiry, input_hash, .. } = approval;
        let changes = self.plan(task.plan_id);
        changes.task_waits(task.ordinal, TaskStatus::AwaitingApproval);
        // The first request counts.
        let approvals = &mut changes.task(task.ordinal).approvals;
        if approvals.iter().all(|known| known.kind != approval.kind) {
            approvals.push(approval);
        }
        let (expires_at, on_expiry) = (*expires_at, on_expiry.as_str());
        let facts = ApprovalRequested { input_hash, expires_at, on_expiry, reason, approver };
        changes.events.add(Some(task.ordinal), "approval_requested", *requested_at, &facts);
    }

    fn reach_budget(&mut self, task: TaskRef, pause: &'a Approval) {
        let changes = self.plan(task.plan_id);
        changes.task_waits(task.ordinal, TaskStatus::AwaitingBudget);
        // The last pause counts.
        let approvals = &mut changes.task(task.ordinal).approvals;
        approvals.retain(|known| known.kind != pause.kind);
        approvals.push(pause);
        let until = Some(budget_pause::until(pause));
        let facts = WaitStarted { kind: WaitKind::Budget.as_str(), until, reached: Some(&pause.input) };
        changes.events.add(Some(task.ordinal), "wait_started", pause.requested_at, &facts);
    }

    fn decide_budget(
        &mut self,
        task: TaskRef,
        at: Timestamp,
        outcome: &'a ApprovalOutcome,
        budget: Option<Limits>,
    ) {
        let changes = self.plan(task.plan_id);
        if outcome.runs {
            changes.task_waits(task.ordinal, TaskStatus::Queued);
        }
        changes.budget = budget.or(changes.budget);
        let limits = budget.map(|limits| budget_pause::limits_input(&limits));
        let facts = WaitEnded {
            decision: Some(outcome.state.as_str()),
            actor: &outcome.actor,
            reason: &outcome.reason,
            budget: limits.as_ref(),
            ..WaitEnded::of(WaitKind::Budget)
        };
        changes.events.add(Some(task.ordinal), "wait_ended", at, &facts);
    }

    fn decide_approval(&mut self, task: TaskRef, at: Timestamp, outcome: &'a ApprovalOutcome) {
        let ApprovalOutcome { state, runs, actor, reason, input_hash, new_input_hash } = outcome;
        let changes = self.plan(task.plan_id);
        if *runs {
            changes.task_waits(task.ordinal, TaskStatus::Queued);
        }
        let kind = match state {
            ApprovalState::Approved => "approved",
            ApprovalState::Rejected => "rejected",
            ApprovalState::Expired | ApprovalState::Waiting | ApprovalState::Withdrawn => "approval_expired",
        };
        let facts = ApprovalDecided { input_hash, new_input_hash: new_input_hash.as_deref(), actor, reason };
        changes.events.add(Some(task.ordinal), kind, at, &facts);
    }

    fn end_attempt(
        &mut self,
        task: TaskRef,
        number: u32,
        at: Timestamp,
        outcome: &'a AttemptOutcome,
        retried: bool,
    ) {
        let changes = self.plan(task.plan_id);
        let end = (at, outcome);
        let attempts = &mut changes.task(task.ordinal).attempts;
        let is_known = attempts.iter().any(|known| known.number == number);
        match attempts.iter_mut().find(|known| known.number == number && known.started.is_some()) {
            Some(attempt) => drop(attempt.ended.get_or_insert(end)),
            // The first end counts.
            None if is_known => {}
            None => attempts.push(AttemptChanges { number, started: None, ended: Some(end) }),
        }
        if retried {
            changes.task_progressed(task.ordinal, TaskStatus::Retried, at);
        }
        let (name, error_class) = match outcome {
            AttemptOutcome::Failed { class, .. } => (outcome.as_str(), Some(class.as_str())),
            AttemptOutcome::Succeeded | AttemptOutcome::Cancelled { .. } => (outcome.as_str(), None),
        };
        let facts =
            AttemptEnded { attempt: number, outcome: name, error_class, retried, reason: outcome.reason() };
        changes.events.add(Some(task.ordinal), "attempt_ended", at, &facts);
    }

    fn plan(&mut self, plan_id: PlanId) -> &mut PlanChanges<'a> {
        let index = *self.indices.entry(plan_id).or_insert_with(|| {
            let (accepted, update, budget, events) = (None, None, None, Events::default());
            let (added, tasks) = (Vec::new(), Vec::new());
            let is_applied_early = false;
            self.plans.push(PlanChanges {
                plan_id,
                accepted,
                is_applied_early,
                added,
                update,
                budget,
                tasks,
                events,
            });
            self.plans.len() - 1
        });
        &mut self.plans[index]
    }
}

impl<'a> PlanChanges<'a> {
    fn has_ended(&self) -> bool {
        self.update.as_ref().is_some_and(|update| update.status.is_terminal())
    }

    /// Whether `entries` complete the plan: one task that has succeeded or was cancelled.
    fn can_be_completed_with(&self, entries: &[&Entry]) -> bool {
        let starts = |entry: &&Entry, number: u32| matches!(entry, Entry::AttemptStarted { number: started, .. } if *started == number);
        let attempts = || self.tasks.iter().flat_map(|task| &task.attempts);
        let fits = |entry: &&Entry| match entry {
            Entry::AttemptEnded { number, .. } => {
                attempts().any(|attempt| attempt.number == *number)
                    || entries.iter().any(|entry| starts(entry, *number))
            }
            Entry::TaskEnded { status, .. } => *status != TaskStatus::DeadLettered,
            Entry::PlanRedriven { .. }
            | Entry::ApprovalRequested { .. }
            | Entry::TasksAdded { .. }
            | Entry::BudgetReached { .. } => false,
            _ => true,
        };
        self.added.is_empty()
            && self.accepted.is_some_and(|accepted| accepted.plan.tasks.len() == 1)
            && attempts().all(|attempt| attempt.started.is_some())
            && self.tasks.iter().all(|task| !task.dead_lettered && task.approvals.is_empty())
            && self
                .accepted
                .is_some_and(|accepted| accepted.plan.tasks.iter().all(|task| task.spec.start.is_empty()))
            && entries.iter().any(|entry| matches!(entry, Entry::TaskEnded { .. }))
            && entries.iter().all(fits)
    }

    fn task(&mut self, ordinal: usize) -> &mut TaskChanges<'a> {
        let found = self.tasks.binary_search_by_key(&ordinal, |task| task.ordinal);
        let index = found.unwrap_or_else(|index| {
            let (update, attempts) = (None, Vec::new());
            self.tasks.insert(
                index,
                TaskChanges { ordinal, update, dead_lettered: false, approvals: Vec::new(), attempts },
            );
            index
        });
        &mut self.tasks[index]
    }

    /// A task waits in this state. Its plan does not change.
    fn task_waits(&mut self, ordinal: usize, status: TaskStatus) {
        let update = self.task(ordinal).update.get_or_insert_default();
        if !update.status.is_terminal() {
            update.status = status;
        }
    }

    /// A task progressed. Its first step dispatches it, which makes its plan `running`.
    fn task_progressed(&mut self, ordinal: usize, status: TaskStatus, at: Timestamp) {
        let update = self.task(ordinal).update.get_or_insert_default();
        if !update.status.is_terminal() {
            update.status = status;
            update.dispatched_at.get_or_insert(at);
        }
        let running = PlanUpdate { status: PlanStatus::Running, ended_at: None, result: None };
        self.update.get_or_insert(running);
    }
}

impl Default for TaskUpdate<'_> {
    fn default() -> Self {
        Self { status: TaskStatus::Queued, dispatched_at: None, ended_at: None, result: None }
    }
}
