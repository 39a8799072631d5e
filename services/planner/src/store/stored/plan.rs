//! Plans, tasks and attempts, as rows.

use std::{iter::Peekable, vec};

use phoenix_domain::{
    FailureClass, PlanId,
    approval::ApprovalKind,
    budget::Limits,
    json::Object,
    plan::{
        Attempt, AttemptOutcome, OnFailure, Plan, PlanKind, PlanStatus, StartConditions, Task, TaskSpec,
        TaskStatus,
    },
};
use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};

use crate::store::{
    error::JournalError,
    listing::Listed,
    record,
    stored::{
        approval::ApprovalRow,
        text::Text,
        value::{damaged, from_json, parse, stored_error, time, unreadable},
    },
};

#[derive(FromRow)]
pub(in crate::store) struct PlanRow {
    pub(in crate::store) plan_id: String,
    correlation_id: String,
    kind: String,
    status: String,
    created_at: i64,
    deadline_at: Option<i64>,
    ended_at: Option<i64>,
    context: Text,
    budget: Option<Text>,
    output: Option<Text>,
    error: Option<Text>,
    redrive_of: Option<String>,
    redriven_as: Option<String>,
}

impl PlanRow {
    pub(in crate::store) fn with(self, rows: RowsOfPlan) -> Result<Plan, JournalError> {
        let RowsOfPlan { tasks, attempts, approvals } = rows;
        let mut plan = self.read()?;
        plan.tasks = tasks.into_iter().map(TaskRow::read).collect::<Result<_, _>>()?;
        if plan.status == PlanStatus::Succeeded && plan.output.is_none() {
            plan.output = plan.last_output();
        }
        for row in attempts {
            let ordinal = usize::try_from(row.ordinal).unwrap_or(usize::MAX);
            let task = plan.tasks.get_mut(ordinal).ok_or_else(|| damaged("attempts.ordinal", row.ordinal))?;
            task.attempts.push(row.read()?);
        }
        for row in approvals {
            let ordinal = usize::try_from(row.ordinal).unwrap_or(usize::MAX);
            let task =
                plan.tasks.get_mut(ordinal).ok_or_else(|| damaged("approvals.ordinal", row.ordinal))?;
            let approval = Box::new(row.read()?);
            match approval.kind {
                ApprovalKind::Input => task.approval = Some(approval),
                ApprovalKind::Budget => task.pause = Some(approval),
            }
        }
        Ok(plan)
    }

    pub(in crate::store) fn read(self) -> Result<Plan, JournalError> {
        let Self {
            plan_id,
            correlation_id,
            kind,
            status,
            created_at,
            deadline_at,
            ended_at,
            context,
            budget,
            output,
            error,
            redrive_of,
            redriven_as,
        } = self;
        Ok(Plan {
            plan_id: parse("plans.plan_id", &plan_id)?,
            correlation_id: parse("plans.correlation_id", &correlation_id)?,
            kind: PlanKind::from_name(&kind).ok_or_else(|| damaged("plans.kind", &kind))?,
            status: PlanStatus::from_name(&status).ok_or_else(|| damaged("plans.status", &status))?,
            created_at: time(created_at)?,
            deadline_at: deadline_at.map(time).transpose()?,
            ended_at: ended_at.map(time).transpose()?,
            context: context.0,
            budget: budget
                .map_or(Ok(Limits::NONE), |text| record::read_budget(&text.0))
                .map_err(|problem| unreadable("plans.budget", &problem))?,
            output: output.map(|output| output.0),
            error: stored_error(error.as_ref().map(|error| &*error.0))?,
            redrive_of: redrive_of.map(|id| parse("plans.redrive_of", &id)).transpose()?,
            redriven_as: redriven_as.map(|id| parse("plans.plan_id", &id)).transpose()?,
            tasks: Vec::new(),
        })
    }
}

/// A row of a listing of plans.
pub(in crate::store) fn listed<'r, R>(row: &'r R) -> Listed<Plan, PlanId>
where
    R: Row,
    PlanRow: FromRow<'r, R>,
    &'r str: Decode<'r, R::Database> + Type<R::Database>,
    &'static str: ColumnIndex<R>,
{
    let cursor = || row.try_get::<&str, _>("plan_id").ok()?.parse().ok();
    let item = PlanRow::from_row(row).map_err(JournalError::from).and_then(PlanRow::read);
    Listed::of(row, cursor(), item)
}

/// A task.
#[derive(FromRow)]
pub(in crate::store) struct TaskRow {
    pub(in crate::store) plan_id: String,
    task_id: String,
    pub(in crate::store) key: Text,
    agent: String,
    action: Text,
    payload: Text,
    depends_on: Text,
    on_failure: String,
    status: String,
    queued_at: i64,
    dispatched_at: Option<i64>,
    ended_at: Option<i64>,
    output: Option<Text>,
    error: Option<Text>,
    conditions: Option<Text>,
}

impl TaskRow {
    fn read(self) -> Result<Task, JournalError> {
        let Self {
            plan_id: _,
            task_id,
            key,
            agent,
            action,
            payload,
            depends_on,
            on_failure,
            status,
            queued_at,
            dispatched_at,
            ended_at,
            output,
            error,
            conditions,
        } = self;
        Ok(Task {
            task_id: parse("tasks.task_id", &task_id)?,
            spec: TaskSpec {
                key: key.0,
                agent: parse("tasks.agent", &agent)?,
                action: action.0,
                payload: Object::parse_stored(&payload.0)
                    .map_err(|error| unreadable("tasks.payload", &error))?,
                depends_on: from_json("tasks.depends_on", &depends_on.0)?,
                on_failure: match on_failure.as_str() {
                    "fail" => OnFailure::Fail,
                    "continue" => OnFailure::Continue,
                    other => return Err(damaged("tasks.on_failure", other)),
                },
                start: conditions
                    .map_or_else(|| Ok(StartConditions::default()), |text| record::read_conditions(&text.0))
                    .map_err(|problem| unreadable("tasks.conditions", &problem))?,
            },
            status: TaskStatus::from_name(&status).ok_or_else(|| damaged("tasks.status", &status))?,
            queued_at: time(queued_at)?,
            dispatched_at: dispatched_at.map(time).transpose()?,
            ended_at: ended_at.map(time).transpose()?,
            output: output
                .map(|text| record::read_output(&text.0))
                .transpose()
                .map_err(|problem| unreadable("tasks.output", &problem))?,
            error: stored_error(error.as_ref().map(|error| &*error.0))?,
            approval: None,
            pause: None,
            attempts: Vec::new(),
        })
    }
}

/// An attempt.
#[derive(FromRow)]
pub(in crate::store) struct AttemptRow {
    pub(in crate::store) plan_id: String,
    ordinal: i64,
    number: i64,
    started_at: i64,
    ended_at: Option<i64>,
    outcome: Option<String>,
    error_class: Option<String>,
    message: Option<Text>,
    stderr_tail: Option<Text>,
    model_calls: Option<Text>,
    worker: Text,
}

impl AttemptRow {
    fn read(self) -> Result<Attempt, JournalError> {
        let Self {
            plan_id: _,
            ordinal: _,
            number,
            started_at,
            ended_at,
            outcome,
            error_class,
            message,
            stderr_tail,
            model_calls,
            worker,
        } = self;
        let outcome = match outcome.as_deref() {
            None => None,
            Some("succeeded") => Some(AttemptOutcome::Succeeded),
            Some("cancelled") => Some(AttemptOutcome::Cancelled { reason: message.unwrap_or_default().0 }),
            Some("failed") => {
                let class = error_class.unwrap_or_default();
                Some(AttemptOutcome::Failed {
                    class: FailureClass::from_name(&class)
                        .ok_or_else(|| damaged("attempts.error_class", &class))?,
                    message: message.unwrap_or_default().0,
                    stderr_tail: stderr_tail.unwrap_or_default().0,
                    model_calls: model_calls
                        .map_or_else(|| Ok(Vec::new()), |text| record::read_calls(&text.0))
                        .map_err(|problem| unreadable("attempts.model_calls", &problem))?,
                })
            }
            Some(other) => return Err(damaged("attempts.outcome", other)),
        };
        Ok(Attempt {
            number: u32::try_from(number).map_err(|_| damaged("attempts.number", number))?,
            started_at: time(started_at)?,
            ended_at: ended_at.map(time).transpose()?,
            outcome,
            worker: worker.0,
        })
    }
}

/// Tasks, attempts and approvals of several plans, in the order of the plans' ids.
pub(in crate::store) struct RowsByPlan {
    tasks: Peekable<vec::IntoIter<TaskRow>>,
    attempts: Peekable<vec::IntoIter<AttemptRow>>,
    approvals: Peekable<vec::IntoIter<ApprovalRow>>,
}

/// Tasks, attempts and approvals of one plan.
pub(in crate::store) struct RowsOfPlan {
    pub(in crate::store) tasks: Vec<TaskRow>,
    pub(in crate::store) attempts: Vec<AttemptRow>,
    pub(in crate::store) approvals: Vec<ApprovalRow>,
}

impl RowsByPlan {
    pub(in crate::store) fn new(
        tasks: Vec<TaskRow>,
        attempts: Vec<AttemptRow>,
        approvals: Vec<ApprovalRow>,
    ) -> Self {
        Self {
            tasks: tasks.into_iter().peekable(),
            attempts: attempts.into_iter().peekable(),
            approvals: approvals.into_iter().peekable(),
        }
    }

    /// The rows of a plan. Called in the order of the ids; rows of plans in between are dropped.
    pub(in crate::store) fn of(&mut self, plan_id: &str) -> RowsOfPlan {
        let Self { tasks, attempts, approvals } = self;
        RowsOfPlan {
            tasks: rows_of(tasks, plan_id, |row| &row.plan_id),
            attempts: rows_of(attempts, plan_id, |row| &row.plan_id),
            approvals: rows_of(approvals, plan_id, |row| &row.plan_id),
        }
    }
}

fn rows_of<T>(rows: &mut Peekable<vec::IntoIter<T>>, plan_id: &str, id: impl Fn(&T) -> &str) -> Vec<T> {
    while rows.next_if(|row| id(row) < plan_id).is_some() {}
    std::iter::from_fn(|| rows.next_if(|row| id(row) == plan_id)).collect()
}
