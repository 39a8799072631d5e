//! Version 1 of the records.

mod approval;
mod bulk;
mod outcome;
mod output;
mod plan;
mod value;

use std::sync::Arc;

use jiff::Timestamp;
use phoenix_domain::{
    BulkRedriveId, CorrelationId, PlanId,
    approval::{Approval, ApprovalKind},
    budget::Limits,
    plan::{AttemptOutcome, PlanStatus, TaskStatus},
    wait::{Wait, WaitKind},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) use self::{
    approval::ConditionsV1,
    outcome::{AnswerV1, CallV1, ErrorV1},
};
use self::{
    approval::{ApprovalOutcomeV1, ApprovalV1},
    bulk::{FilterV1, SweepV1},
    outcome::OutcomeV1,
    output::PartV1,
    plan::{PlanV1, TaskV1},
    value::named,
};
use crate::store::{
    entry::{Entry, IdempotencyKey},
    record::unusable::Unusable,
    task_ref::TaskRef,
};

/// Stored names of the record kinds.
pub(super) const KINDS: [&str; 18] = [
    "plan_accepted",
    "tasks_added",
    "key_used",
    "task_dispatched",
    "attempt_started",
    "attempt_ended",
    "task_output",
    "approval_requested",
    "approval_decided",
    "task_waits",
    "budget_reached",
    "budget_decided",
    "task_resumed",
    "task_ended",
    "plan_ended",
    "plan_redriven",
    "sweep_begun",
    "sweep_ended",
];

/// A stored entry.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RecordV1 {
    PlanAccepted {
        plan: PlanV1,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<Box<str>>,
    },
    TasksAdded {
        plan_id: PlanId,
        first: usize,
        at: Timestamp,
        tasks: Vec<TaskV1>,
    },
    KeyUsed {
        key: KeyV1,
        subject: Uuid,
        at: Timestamp,
        not_before: Timestamp,
    },
    TaskDispatched {
        task: TaskRefV1,
        at: Timestamp,
    },
    AttemptStarted {
        task: TaskRefV1,
        number: u32,
        at: Timestamp,
        worker: String,
    },
    AttemptEnded {
        task: TaskRefV1,
        number: u32,
        at: Timestamp,
        outcome: OutcomeV1,
        retried: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    TaskOutput {
        task: TaskRefV1,
        number: u32,
        at: Timestamp,
        parts: Vec<PartV1>,
    },
    ApprovalRequested {
        task: TaskRefV1,
        approval: ApprovalV1,
    },
    ApprovalDecided {
        task: TaskRefV1,
        at: Timestamp,
        outcome: ApprovalOutcomeV1,
    },
    TaskWaits {
        task: TaskRefV1,
        at: Timestamp,
        kind: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<Timestamp>,
    },
    BudgetReached {
        task: TaskRefV1,
        pause: ApprovalV1,
    },
    BudgetDecided {
        task: TaskRefV1,
        at: Timestamp,
        outcome: ApprovalOutcomeV1,
        /// As in `PlanV1`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        budget: Option<[Option<u64>; 4]>,
    },
    TaskResumed {
        task: TaskRefV1,
        at: Timestamp,
        kind: String,
    },
    TaskEnded {
        task: TaskRefV1,
        status: String,
        at: Timestamp,
        result: Result<AnswerV1, ErrorV1>,
    },
    PlanEnded {
        plan_id: PlanId,
        status: String,
        at: Timestamp,
        result: Result<PlanResultV1, ErrorV1>,
    },
    PlanRedriven {
        plan_id: PlanId,
        redriven_as: PlanId,
        at: Timestamp,
        by: CorrelationId,
        reason: String,
        sweep: Option<BulkRedriveId>,
    },
    SweepBegun {
        sweep: SweepV1,
        filter: FilterV1,
        limit: u32,
    },
    SweepEnded {
        sweep_id: BulkRedriveId,
        at: Timestamp,
    },
}

/// Version 0.1.0 stored the plan's output here. It is that of the last task, and is read from there.
#[derive(Debug, Serialize, Deserialize)]
#[serde(from = "serde::de::IgnoredAny", into = "()")]
pub(super) struct PlanResultV1;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct TaskRefV1 {
    plan_id: PlanId,
    ordinal: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeyV1 {
    key: String,
    digest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<CorrelationId>,
}

impl From<&Entry> for RecordV1 {
    fn from(entry: &Entry) -> Self {
        match entry {
            Entry::PlanAccepted { plan, trace } => {
                Self::PlanAccepted { plan: (&**plan).into(), trace: trace.clone() }
            }
            Entry::TasksAdded { plan_id, first, at, tasks } => Self::TasksAdded {
                plan_id: *plan_id,
                first: *first,
                at: *at,
                tasks: tasks.iter().map(Into::into).collect(),
            },
            Entry::KeyUsed { key: IdempotencyKey { key, digest, by }, subject, at, not_before } => {
                Self::KeyUsed {
                    key: KeyV1 { key: key.clone(), digest: digest.clone(), by: *by },
                    subject: *subject,
                    at: *at,
                    not_before: *not_before,
                }
            }
            Entry::TaskDispatched { task, at } => Self::TaskDispatched { task: (*task).into(), at: *at },
            Entry::AttemptStarted { task, number, at, worker } => Self::AttemptStarted {
                task: (*task).into(),
                number: *number,
                at: *at,
                worker: worker.clone(),
            },
            Entry::AttemptEnded { task, number, at, outcome, retried } => Self::AttemptEnded {
                task: (*task).into(),
                number: *number,
                at: *at,
                outcome: outcome.into(),
                retried: *retried,
                reason: outcome.reason().map(str::to_owned),
            },
            Entry::TaskOutput { task, number, at, parts } => Self::TaskOutput {
                task: (*task).into(),
                number: *number,
                at: *at,
                parts: parts.iter().map(Into::into).collect(),
            },
            Entry::ApprovalRequested { task, approval } => {
                Self::ApprovalRequested { task: (*task).into(), approval: (&**approval).into() }
            }
            Entry::ApprovalDecided { task, at, outcome } => {
                Self::ApprovalDecided { task: (*task).into(), at: *at, outcome: outcome.into() }
            }
            Entry::TaskWaits { task, at, wait: Wait { kind, until } } => {
                Self::TaskWaits { task: (*task).into(), at: *at, kind: kind.as_str().into(), until: *until }
            }
            Entry::BudgetReached { task, pause } => {
                Self::BudgetReached { task: (*task).into(), pause: (&**pause).into() }
            }
            Entry::BudgetDecided { task, at, outcome, budget } => Self::BudgetDecided {
                task: (*task).into(),
                at: *at,
                outcome: outcome.into(),
                budget: budget.map(|limits| limits.values()),
            },
            Entry::TaskResumed { task, at, kind } => {
                Self::TaskResumed { task: (*task).into(), at: *at, kind: kind.as_str().into() }
            }
            Entry::TaskEnded { task, status, at, result } => Self::TaskEnded {
                task: (*task).into(),
                status: status.as_str().into(),
                at: *at,
                result: result.as_ref().map(Into::into).map_err(Into::into),
            },
            Entry::PlanEnded { plan_id, status, at, result } => Self::PlanEnded {
                plan_id: *plan_id,
                status: status.as_str().into(),
                at: *at,
                result: result.as_ref().map(|()| PlanResultV1).map_err(Into::into),
            },
            Entry::PlanRedriven { plan_id, redriven_as, at, by, reason, bulk } => Self::PlanRedriven {
                plan_id: *plan_id,
                redriven_as: *redriven_as,
                at: *at,
                by: *by,
                reason: reason.clone(),
                sweep: *bulk,
            },
            Entry::BulkStarted { operation, filter, limit } => {
                Self::SweepBegun { sweep: (&**operation).into(), filter: (&**filter).into(), limit: *limit }
            }
            Entry::BulkEnded { sweep_id, at } => Self::SweepEnded { sweep_id: *sweep_id, at: *at },
        }
    }
}

impl TryFrom<RecordV1> for Entry {
    type Error = Unusable;

    fn try_from(record: RecordV1) -> Result<Self, Unusable> {
        Ok(match record {
            RecordV1::PlanAccepted { plan, trace } => {
                Self::PlanAccepted { plan: Arc::new(plan.try_into()?), trace }
            }
            RecordV1::TasksAdded { plan_id, first, at, tasks } => Self::TasksAdded {
                plan_id,
                first,
                at,
                tasks: tasks.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            },
            RecordV1::KeyUsed { key: KeyV1 { key, digest, by }, subject, at, not_before } => {
                Self::KeyUsed { key: IdempotencyKey { key, digest, by }, subject, at, not_before }
            }
            RecordV1::TaskDispatched { task, at } => Self::TaskDispatched { task: task.into(), at },
            RecordV1::AttemptStarted { task, number, at, worker } => {
                Self::AttemptStarted { task: task.into(), number, at, worker }
            }
            RecordV1::AttemptEnded { task, number, at, outcome, retried, reason } => {
                let mut outcome: AttemptOutcome = outcome.try_into()?;
                if let (AttemptOutcome::Cancelled { reason }, Some(stored)) = (&mut outcome, reason) {
                    *reason = stored;
                }
                Self::AttemptEnded { task: task.into(), number, at, outcome, retried }
            }
            RecordV1::TaskOutput { task, number, at, parts } => Self::TaskOutput {
                task: task.into(),
                number,
                at,
                parts: parts.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            },
            RecordV1::ApprovalRequested { task, approval } => {
                Self::ApprovalRequested { task: task.into(), approval: Arc::new(approval.try_into()?) }
            }
            RecordV1::ApprovalDecided { task, at, outcome } => {
                Self::ApprovalDecided { task: task.into(), at, outcome: outcome.try_into()? }
            }
            RecordV1::TaskWaits { task, at, kind, until } => {
                let kind = named("kind", &kind, WaitKind::from_name)?;
                Self::TaskWaits { task: task.into(), at, wait: Wait { kind, until } }
            }
            RecordV1::BudgetReached { task, pause } => {
                let pause = Approval { kind: ApprovalKind::Budget, ..pause.try_into()? };
                Self::BudgetReached { task: task.into(), pause: Arc::new(pause) }
            }
            RecordV1::BudgetDecided { task, at, outcome, budget } => Self::BudgetDecided {
                task: task.into(),
                at,
                outcome: outcome.try_into()?,
                budget: budget.map(Limits::new),
            },
            RecordV1::TaskResumed { task, at, kind } => {
                Self::TaskResumed { task: task.into(), at, kind: named("kind", &kind, WaitKind::from_name)? }
            }
            RecordV1::TaskEnded { task, status, at, result } => Self::TaskEnded {
                task: task.into(),
                status: named("status", &status, TaskStatus::from_name)?,
                at,
                result: match result {
                    Ok(answer) => Ok(answer.try_into()?),
                    Err(error) => Err(error.try_into()?),
                },
            },
            RecordV1::PlanEnded { plan_id, status, at, result } => Self::PlanEnded {
                plan_id,
                status: named("status", &status, PlanStatus::from_name)?,
                at,
                result: match result {
                    Ok(PlanResultV1) => Ok(()),
                    Err(error) => Err(error.try_into()?),
                },
            },
            RecordV1::PlanRedriven { plan_id, redriven_as, at, by, reason, sweep } => {
                Self::PlanRedriven { plan_id, redriven_as, at, by, reason, bulk: sweep }
            }
            RecordV1::SweepBegun { sweep, filter, limit } => Self::BulkStarted {
                operation: Box::new(sweep.into()),
                filter: Box::new(filter.try_into()?),
                limit,
            },
            RecordV1::SweepEnded { sweep_id, at } => Self::BulkEnded { sweep_id, at },
        })
    }
}

impl From<TaskRef> for TaskRefV1 {
    fn from(TaskRef { plan_id, ordinal }: TaskRef) -> Self {
        Self { plan_id, ordinal }
    }
}

impl From<TaskRefV1> for TaskRef {
    fn from(TaskRefV1 { plan_id, ordinal }: TaskRefV1) -> Self {
        Self { plan_id, ordinal }
    }
}

impl From<serde::de::IgnoredAny> for PlanResultV1 {
    fn from(_: serde::de::IgnoredAny) -> Self {
        Self
    }
}

impl From<PlanResultV1> for () {
    fn from(_: PlanResultV1) -> Self {}
}

impl Clone for PlanResultV1 {
    fn clone(&self) -> Self {
        Self
    }
}
