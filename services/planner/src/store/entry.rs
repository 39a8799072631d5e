//! What is written to a journal.

use std::sync::Arc;

use jiff::Timestamp;
use phoenix_domain::{
    BulkRedriveId, CorrelationId, OrchestratorError, PlanId,
    action::ActionResult,
    plan::{AttemptOutcome, Plan, PlanStatus, TaskStatus},
};
use uuid::Uuid;

use super::dead_letter::{DeadLetterFilter, Sweep};

/// Entries that become durable together or not at all.
pub type Entries = Arc<[Entry]>;

/// One step in the life of a plan, or of what is done about plans.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// A plan was accepted, with its tasks.
    PlanAccepted {
        /// The plan.
        plan: Arc<Plan>,
    },
    /// A request was named by its caller, who may send it again. Claims the key.
    KeyUsed {
        /// The name.
        key: IdempotencyKey,
        /// What it stands for from now on.
        subject: Uuid,
        /// When.
        at: Timestamp,
        /// A use of the key before this is forgotten.
        not_before: Timestamp,
    },
    /// A task was handed to an executor; with the first one, the plan runs.
    TaskDispatched {
        /// Which task.
        task: TaskRef,
        /// When.
        at: Timestamp,
    },
    /// A process was asked.
    AttemptStarted {
        /// Of which task.
        task: TaskRef,
        /// From 1.
        number: u32,
        /// When.
        at: Timestamp,
        /// The process.
        worker: String,
    },
    /// It answered, failed or was ended.
    AttemptEnded {
        /// Of which task.
        task: TaskRef,
        /// From 1.
        number: u32,
        /// When.
        at: Timestamp,
        /// How.
        outcome: AttemptOutcome,
        /// Whether another attempt follows.
        retried: bool,
    },
    /// A task reached a terminal state.
    TaskEnded {
        /// Which.
        task: TaskRef,
        /// A terminal state.
        status: TaskStatus,
        /// When.
        at: Timestamp,
        /// The agent's answer, or why there is none.
        result: Result<ActionResult, OrchestratorError>,
    },
    /// A plan reached a terminal state.
    PlanEnded {
        /// Which.
        plan_id: PlanId,
        /// A terminal state.
        status: PlanStatus,
        /// When.
        at: Timestamp,
        /// Why it did not succeed. The answer of one that did is its last task's.
        result: Result<(), OrchestratorError>,
    },
    /// A plan that has ended was taken up again by another, which was accepted in the same group. Its open dead letters are
    /// redriven by that. Claims the plan: it can be taken up once.
    PlanRedriven {
        /// Which.
        plan_id: PlanId,
        /// By which.
        redriven_as: PlanId,
        /// When.
        at: Timestamp,
        /// By which request.
        by: CorrelationId,
        /// Why; may be empty.
        reason: String,
        /// The sweep that did it. What a sweep does is of no effect when no dead letter of the plan is open any more.
        sweep: Option<BulkRedriveId>,
    },
    /// Open dead letters were selected, the oldest first: to be discarded by this, or to be redriven from now on. Those
    /// that another sweep is to redrive, or whose plan has not ended, are not selected to be redriven.
    SweepBegun {
        /// For what.
        sweep: Box<Sweep>,
        /// Which.
        filter: Box<DeadLetterFilter>,
        /// At most so many.
        limit: u32,
    },
    /// A sweep has been worked off.
    SweepEnded {
        /// Which.
        sweep_id: BulkRedriveId,
        /// When.
        at: Timestamp,
    },
}

impl Entry {
    /// Bytes that it takes in the log, roughly.
    #[must_use]
    pub fn weight(&self) -> usize {
        const FRAME: usize = 256;
        let error = |error: &OrchestratorError| {
            error.message.len()
                + error.details.iter().map(|(name, text)| name.len() + text.len()).sum::<usize>()
        };
        FRAME
            + match self {
                Self::PlanAccepted { plan } => plan.size(),
                Self::TaskEnded { result: Ok(answer), .. } => {
                    answer.data.text_len() + answer.metadata.text_len()
                }
                Self::TaskEnded { result: Err(problem), .. }
                | Self::PlanEnded { result: Err(problem), .. } => error(problem),
                Self::AttemptEnded {
                    outcome: AttemptOutcome::Failed { class: _, message, stderr_tail },
                    ..
                } => message.len() + stderr_tail.len(),
                Self::PlanRedriven { reason, .. } => reason.len(),
                Self::KeyUsed { .. }
                | Self::TaskDispatched { .. }
                | Self::AttemptStarted { .. }
                | Self::AttemptEnded { .. }
                | Self::PlanEnded { .. }
                | Self::SweepBegun { .. }
                | Self::SweepEnded { .. } => 0,
            }
    }

    /// The plan that it is a step of, if it is one of a plan.
    #[must_use]
    pub fn plan_id(&self) -> Option<PlanId> {
        match self {
            Self::PlanAccepted { plan } => Some(plan.plan_id),
            Self::PlanEnded { plan_id, .. } | Self::PlanRedriven { plan_id, .. } => Some(*plan_id),
            Self::TaskDispatched { task, .. }
            | Self::AttemptStarted { task, .. }
            | Self::AttemptEnded { task, .. }
            | Self::TaskEnded { task, .. } => Some(task.plan_id),
            Self::KeyUsed { .. } | Self::SweepBegun { .. } | Self::SweepEnded { .. } => None,
        }
    }
}

/// The name that a caller gave to a request it may send twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The name.
    pub key: String,
    /// What was asked for, as a digest.
    pub digest: String,
    /// The request that used it; none of a key from before this was kept.
    pub by: Option<CorrelationId>,
}

/// What a key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedKey {
    /// What the request made, or what it was about.
    pub subject: Uuid,
    /// What was asked for, as a digest.
    pub digest: String,
    /// As [`IdempotencyKey::by`].
    pub by: Option<CorrelationId>,
}

/// A task by its plan and its place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TaskRef {
    /// The plan.
    pub plan_id: PlanId,
    /// The task's place, from 0.
    pub ordinal: usize,
}
