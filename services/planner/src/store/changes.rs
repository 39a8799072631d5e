//! Row changes of a projection: which rows are new, and which states change, for any database.
//!
//! The rules that need no database are applied here and in `projection.rs`. One is left to the statements of a store, because
//! only the database knows the earlier state: a row in a terminal state never changes.

use phoenix_domain::{
    OrchestratorError, PlanId,
    action::ActionResult,
    approval::Approval,
    budget::Limits,
    plan::{AttemptOutcome, Plan, Task, TaskStatus},
    usage::ModelCall,
};

use crate::store::{
    plan_events::Events,
    projection::{
        Acceptance, AddedTasks, AttemptChanges, PlanChanges, PlanUpdate, Projection, Redrive, TaskChanges,
        TaskUpdate,
    },
    stored::value::micros,
};

/// Detail of an error that names the class of the last failure.
const ERROR_CLASS: &str = "error_class";

/// Changes of the rows of a batch.
#[derive(Debug, Default)]
pub(super) struct RowChanges<'a> {
    pub(super) plans: Vec<NewPlan<'a>>,
    pub(super) tasks: Vec<NewTask<'a>>,
    pub(super) attempts: Vec<NewAttempt<'a>>,
    /// Ends of attempts that started in an earlier batch.
    pub(super) attempt_ends: Vec<ChangedAttempt<'a>>,
    /// Updates of tasks and plans that were accepted in an earlier batch.
    pub(super) task_updates: Vec<ChangedTask<'a>>,
    pub(super) plan_updates: Vec<ChangedPlan<'a>>,
    /// New limits of plans that were accepted in an earlier batch.
    pub(super) plan_budgets: Vec<(PlanId, Limits)>,
    /// Approvals that tasks begin to wait for.
    pub(super) approvals: Vec<NewApproval<'a>>,
    /// Tasks that entries dead-letter, new or not.
    pub(super) dead_letters: Vec<(PlanId, usize)>,
    pub(super) redrives: Vec<Redrive<'a>>,
    pub(super) events: Vec<(PlanId, Events)>,
}

/// An accepted plan, in its state after the batch.
#[derive(Debug)]
pub(super) struct NewPlan<'a> {
    pub(super) planner: &'a str,
    pub(super) plan: &'a Plan,
    pub(super) status: &'static str,
    pub(super) ended_at: Option<i64>,
    pub(super) error: Option<&'a OrchestratorError>,
    pub(super) is_applied_early: bool,
}

/// A task of an accepted plan, in its state after the batch.
#[derive(Debug)]
pub(super) struct NewTask<'a> {
    pub(super) plan_id: PlanId,
    pub(super) ordinal: usize,
    pub(super) task: &'a Task,
    pub(super) state: TaskState<'a>,
}

/// State of a task after the batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct TaskState<'a> {
    pub(super) status: TaskStatus,
    pub(super) dispatched_at: Option<i64>,
    pub(super) ended_at: Option<i64>,
    pub(super) output: Option<&'a ActionResult>,
    pub(super) error: Option<&'a OrchestratorError>,
}

/// New state of an earlier task, unless it has ended.
#[derive(Debug)]
pub(super) struct ChangedTask<'a> {
    pub(super) plan_id: PlanId,
    pub(super) ordinal: usize,
    pub(super) state: TaskState<'a>,
}

/// New state of an earlier plan, unless it has ended.
#[derive(Debug)]
pub(super) struct ChangedPlan<'a> {
    pub(super) plan_id: PlanId,
    pub(super) status: &'static str,
    pub(super) ended_at: Option<i64>,
    pub(super) error: Option<&'a OrchestratorError>,
}

/// An attempt that starts in the batch. One with a number that is there already is dropped: the first counts.
#[derive(Debug)]
pub(super) struct NewAttempt<'a> {
    pub(super) plan_id: PlanId,
    pub(super) ordinal: usize,
    pub(super) number: u32,
    pub(super) started_at: i64,
    pub(super) worker: &'a str,
    pub(super) end: AttemptEnd<'a>,
    /// Whether the batch accepts its plan.
    pub(super) is_of_new_plan: bool,
}

/// The end of an earlier attempt, unless it has ended.
#[derive(Debug)]
pub(super) struct ChangedAttempt<'a> {
    pub(super) plan_id: PlanId,
    pub(super) ordinal: usize,
    pub(super) number: u32,
    pub(super) end: AttemptEnd<'a>,
}

/// An approval that a task, new or not, begins to wait for. It is open if the task waits after the batch.
#[derive(Debug)]
pub(super) struct NewApproval<'a> {
    pub(super) plan_id: PlanId,
    pub(super) ordinal: usize,
    pub(super) approval: &'a Approval,
}

/// End of an attempt, if it has ended.
#[derive(Debug, Default)]
pub(super) struct AttemptEnd<'a> {
    pub(super) ended_at: Option<i64>,
    pub(super) outcome: Option<&'a str>,
    pub(super) error_class: Option<&'a str>,
    pub(super) message: Option<&'a str>,
    pub(super) stderr_tail: Option<&'a str>,
    pub(super) model_calls: &'a [ModelCall],
}

impl<'a> RowChanges<'a> {
    /// The changes of every plan of `projection`.
    pub(super) fn of(projection: Projection<'a>) -> Self {
        let Projection { plans, redrives, .. } = projection;
        let mut changes = Self { redrives, ..Self::default() };
        plans.into_iter().for_each(|plan| changes.add(plan));
        changes
    }

    /// Adds the changes of one plan.
    pub(super) fn add(&mut self, plan: PlanChanges<'a>) {
        let PlanChanges { plan_id, accepted, is_applied_early, added, update, budget, tasks, events } = plan;
        self.plan_budgets.extend(budget.map(|budget| (plan_id, budget)));
        match (&accepted, &update) {
            (Some(accepted), _) => self.plans.push(NewPlan::of(*accepted, update.as_ref(), is_applied_early)),
            (None, Some(PlanUpdate { status, ended_at, result })) => self.plan_updates.push(ChangedPlan {
                plan_id,
                status: status.as_str(),
                ended_at: ended_at.map(micros),
                error: parts(*result).1,
            }),
            (None, None) => {}
        }
        self.add_tasks(plan_id, accepted, &added, &tasks);
        for TaskChanges { ordinal, dead_lettered, approvals, attempts, .. } in &tasks {
            let approval = |approval| NewApproval { plan_id, ordinal: *ordinal, approval };
            self.approvals.extend(approvals.iter().copied().map(approval));
            for attempt in attempts {
                self.add_attempt(plan_id, *ordinal, attempt, accepted.is_some());
            }
            self.dead_letters.extend(dead_lettered.then_some((plan_id, *ordinal)));
        }
        if events.count > 0 {
            self.events.push((plan_id, events));
        }
    }

    /// Adds the new tasks of a plan, and the updates of earlier ones.
    fn add_tasks(
        &mut self,
        plan_id: PlanId,
        accepted: Option<Acceptance<'a>>,
        added: &[AddedTasks<'a>],
        tasks: &[TaskChanges<'a>],
    ) {
        let first = accepted.map(|accepted| AddedTasks { first: 0, tasks: &accepted.plan.tasks });
        let mut is_new = vec![false; tasks.len()];
        for AddedTasks { first, tasks: new } in first.iter().chain(added) {
            for (index, task) in new.iter().enumerate() {
                let ordinal = first + index;
                let own = tasks.binary_search_by_key(&ordinal, |changes| changes.ordinal).ok();
                own.into_iter().for_each(|own| is_new[own] = true);
                let update = own.and_then(|own| tasks[own].update.as_ref());
                self.tasks.push(NewTask { plan_id, ordinal, task, state: TaskState::of_new(task, update) });
            }
        }
        let earlier = tasks.iter().zip(is_new).filter(|(_, is_new)| !is_new);
        for (TaskChanges { ordinal, update, .. }, _) in earlier {
            let update = update.as_ref().map(TaskState::of);
            self.task_updates.extend(update.map(|state| ChangedTask { plan_id, ordinal: *ordinal, state }));
        }
    }

    fn add_attempt(
        &mut self,
        plan_id: PlanId,
        ordinal: usize,
        attempt: &AttemptChanges<'a>,
        is_of_new_plan: bool,
    ) {
        let (number, end) = (attempt.number, AttemptEnd::of(attempt));
        match attempt.started {
            Some((at, worker)) => {
                let started_at = micros(at);
                self.attempts.push(NewAttempt {
                    plan_id,
                    ordinal,
                    number,
                    started_at,
                    worker,
                    end,
                    is_of_new_plan,
                });
            }
            None => self.attempt_ends.push(ChangedAttempt { plan_id, ordinal, number, end }),
        }
    }
}

impl<'a> NewPlan<'a> {
    fn of(
        Acceptance { planner, plan }: Acceptance<'a>,
        update: Option<&PlanUpdate<'a>>,
        is_applied_early: bool,
    ) -> Self {
        Self {
            planner,
            plan,
            status: update.map_or(plan.status, |update| update.status).as_str(),
            ended_at: update.and_then(|update| update.ended_at).map(micros),
            error: parts(update.and_then(|update| update.result)).1,
            is_applied_early,
        }
    }
}

impl<'a> TaskState<'a> {
    /// State of a task of an accepted plan.
    pub(super) fn of_new(task: &Task, update: Option<&TaskUpdate<'a>>) -> Self {
        let queued = TaskUpdate { status: task.status, dispatched_at: None, ended_at: None, result: None };
        Self::of(update.unwrap_or(&queued))
    }

    fn of(update: &TaskUpdate<'a>) -> Self {
        let TaskUpdate { status, dispatched_at, ended_at, result } = update;
        let (output, error) = parts(*result);
        Self {
            status: *status,
            dispatched_at: dispatched_at.map(micros),
            ended_at: ended_at.map(micros),
            output,
            error,
        }
    }

    /// Code of the error, and the class of the last failure.
    pub(super) fn failure(&self) -> (Option<&'static str>, Option<&'a str>) {
        let class = self.error.and_then(|error| error.details.get(ERROR_CLASS)).map(String::as_str);
        (self.error.map(|error| error.code.as_str()), class)
    }
}

impl<'a> AttemptEnd<'a> {
    pub(super) fn of(attempt: &AttemptChanges<'a>) -> Self {
        let Some((at, outcome)) = attempt.ended else { return Self::default() };
        let ended = Self { ended_at: Some(micros(at)), outcome: Some(outcome.as_str()), ..Self::default() };
        match outcome {
            AttemptOutcome::Failed { class, message, stderr_tail, model_calls } => Self {
                error_class: Some(class.as_str()),
                message: Some(message),
                stderr_tail: Some(stderr_tail),
                model_calls,
                ..ended
            },
            AttemptOutcome::Cancelled { reason } if !reason.is_empty() => {
                Self { message: Some(reason), ..ended }
            }
            AttemptOutcome::Succeeded | AttemptOutcome::Cancelled { .. } => ended,
        }
    }
}

/// The output and the error of a result.
fn parts<T>(result: Option<&Result<T, OrchestratorError>>) -> (Option<&T>, Option<&OrchestratorError>) {
    match result {
        Some(Ok(output)) => (Some(output), None),
        Some(Err(error)) => (None, Some(error)),
        None => (None, None),
    }
}
