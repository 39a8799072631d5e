//! Entries of the journal.

use std::sync::Arc;

use jiff::Timestamp;
use phoenix_domain::{
    BulkRedriveId, CorrelationId, OrchestratorError, PlanId,
    action::ActionResult,
    approval::{Approval, ApprovalState, input_hash},
    budget::Limits,
    json::Object,
    plan::{AttemptOutcome, Plan, PlanStatus, Task, TaskStatus},
    wait::{Wait, WaitKind},
};
use uuid::Uuid;

use crate::store::{
    dead_letter::{BulkOperation, DeadLetterFilter},
    task_ref::TaskRef,
};

/// Entries that become durable together or not at all.
pub type Entries = Arc<[Entry]>;

/// Identity of a batch of groups that are appended together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchId {
    /// Identity of the planner.
    pub planner: String,
    /// Number of the planner's writer, from 0.
    pub writer: u32,
    /// Grows with every batch of the writer.
    pub sequence: u64,
}

/// A step of a plan, or of a bulk operation.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// A plan was accepted, with its tasks.
    PlanAccepted {
        /// The plan.
        plan: Arc<Plan>,
        /// The `traceparent` of the span in which it was accepted, if that is exported.
        trace: Option<Box<str>>,
    },
    /// A request used an idempotency key. Reserves the key.
    KeyUsed {
        /// The key.
        key: IdempotencyKey,
        /// Identifier of what the key names from now on.
        subject: Uuid,
        /// Time of the use.
        at: Timestamp,
        /// Uses of the key before this time have expired.
        not_before: Timestamp,
    },
    /// A task was dispatched to an executor. The first one makes its plan `running`.
    TaskDispatched {
        /// The task.
        task: TaskRef,
        /// Time of the dispatch.
        at: Timestamp,
    },
    /// An attempt started.
    AttemptStarted {
        /// The task.
        task: TaskRef,
        /// Number of the attempt, from 1.
        number: u32,
        /// Time of the start.
        at: Timestamp,
        /// Process that runs the attempt.
        worker: String,
    },
    /// An attempt ended.
    AttemptEnded {
        /// The task.
        task: TaskRef,
        /// Number of the attempt, from 1.
        number: u32,
        /// Time of the end.
        at: Timestamp,
        /// Outcome of the attempt.
        outcome: AttemptOutcome,
        /// Whether another attempt follows.
        retried: bool,
    },
    /// The agent said something before it ends, which a reader of the plan can read again.
    TaskOutput {
        /// The task.
        task: TaskRef,
        /// Number of the attempt, from 1.
        number: u32,
        /// Time at which the last part was received.
        at: Timestamp,
        /// What was said since the last entry of this kind, in order.
        parts: Vec<OutputPart>,
    },
    /// A task began to wait for an approval.
    ApprovalRequested {
        /// The task.
        task: TaskRef,
        /// The approval, which is waiting.
        approval: Arc<Approval>,
    },
    /// A task took notice of the decision about its approval. One that was approved is queued again.
    ApprovalDecided {
        /// The task.
        task: TaskRef,
        /// Time of the notice.
        at: Timestamp,
        /// The decision.
        outcome: ApprovalOutcome,
    },
    /// A task began to wait for a time.
    TaskWaits {
        /// The task.
        task: TaskRef,
        /// When it began.
        at: Timestamp,
        /// What it waits for.
        wait: Wait,
    },
    /// A task began to wait for a decision about a budget that is used up.
    BudgetReached {
        /// The task.
        task: TaskRef,
        /// The decision that it waits for.
        pause: Arc<Approval>,
    },
    /// A task took notice of the decision about its budget. Unless it was refused, the task is queued again.
    BudgetDecided {
        /// The task.
        task: TaskRef,
        /// Time of the notice.
        at: Timestamp,
        /// The decision.
        outcome: ApprovalOutcome,
        /// New limits of the plan, if the decision changes them.
        budget: Option<Limits>,
    },
    /// A task does not wait any more, and is queued again.
    TaskResumed {
        /// The task.
        task: TaskRef,
        /// When the wait ended.
        at: Timestamp,
        /// What it waited for.
        kind: WaitKind,
    },
    /// A plan received further tasks, after those that it has.
    TasksAdded {
        /// The plan.
        plan_id: PlanId,
        /// Number of the tasks that it has.
        first: usize,
        /// Time of the addition.
        at: Timestamp,
        /// The tasks, all queued.
        tasks: Arc<[Task]>,
    },
    /// A task reached a terminal state.
    TaskEnded {
        /// The task.
        task: TaskRef,
        /// Terminal status.
        status: TaskStatus,
        /// Time of the end.
        at: Timestamp,
        /// Output of the agent, or the error.
        result: Result<ActionResult, OrchestratorError>,
    },
    /// A plan reached a terminal state.
    PlanEnded {
        /// The plan.
        plan_id: PlanId,
        /// Terminal status.
        status: PlanStatus,
        /// Time of the end.
        at: Timestamp,
        /// The error, if there is one. The output of a plan is that of its last task.
        result: Result<(), OrchestratorError>,
    },
    /// A terminal plan was redriven as another plan, which the same group accepts; this resolves its open dead letters.
    /// Reserves the plan: it can be redriven once.
    PlanRedriven {
        /// The redriven plan.
        plan_id: PlanId,
        /// The new plan.
        redriven_as: PlanId,
        /// Time of the redrive.
        at: Timestamp,
        /// Correlation id of the request.
        by: CorrelationId,
        /// Reason; may be empty.
        reason: String,
        /// Bulk operation that redrove the plan. It has no effect when no dead letter of the plan is open any more.
        bulk: Option<BulkRedriveId>,
    },
    /// A bulk operation selected open dead letters, oldest first, and discarded them or marked them for redrive. Dead letters
    /// that another operation has marked, or whose plan has not ended, are not selected for redrive.
    BulkStarted {
        /// The operation.
        operation: Box<BulkOperation>,
        /// Dead letters to select.
        filter: Box<DeadLetterFilter>,
        /// Maximum number of dead letters.
        limit: u32,
    },
    /// A bulk operation has processed every selected dead letter.
    BulkEnded {
        /// The operation.
        sweep_id: BulkRedriveId,
        /// Time of the end.
        at: Timestamp,
    },
}

/// A part of what an agent says before it ends.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputPart {
    /// Text.
    pub text: String,
    /// The same part in the shape of OpenAI's deltas.
    pub delta: Option<Object>,
}

impl Entry {
    /// Approximate size in the log, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        const FRAME: usize = 256;
        let error = |error: &OrchestratorError| {
            error.message.len()
                + error.details.iter().map(|(name, text)| name.len() + text.len()).sum::<usize>()
        };
        FRAME
            + match self {
                Self::PlanAccepted { plan, trace: _ } => plan.size(),
                Self::TasksAdded { tasks, .. } => tasks.iter().map(|task| FRAME + task.spec.size()).sum(),
                Self::TaskEnded { result: Ok(answer), .. } => {
                    answer.data.text_len() + answer.metadata.text_len()
                }
                Self::TaskEnded { result: Err(problem), .. }
                | Self::PlanEnded { result: Err(problem), .. } => error(problem),
                Self::AttemptEnded {
                    outcome: AttemptOutcome::Failed { class: _, message, stderr_tail, model_calls },
                    ..
                } => message.len() + stderr_tail.len() + FRAME * model_calls.len(),
                Self::TaskOutput { parts, .. } => parts
                    .iter()
                    .map(|part| part.text.len() + part.delta.as_ref().map_or(0, Object::text_len))
                    .sum(),
                Self::PlanRedriven { reason, .. } => reason.len(),
                Self::ApprovalRequested { approval, .. } | Self::BudgetReached { pause: approval, .. } => {
                    approval.input.text_len() + approval.reason.len() + approval.approver.len()
                }
                Self::ApprovalDecided { outcome, .. } | Self::BudgetDecided { outcome, .. } => {
                    outcome.actor.len() + outcome.reason.len()
                }
                Self::KeyUsed { .. }
                | Self::TaskDispatched { .. }
                | Self::AttemptStarted { .. }
                | Self::TaskWaits { .. }
                | Self::TaskResumed { .. }
                | Self::AttemptEnded { .. }
                | Self::PlanEnded { .. }
                | Self::BulkStarted { .. }
                | Self::BulkEnded { .. } => 0,
            }
    }

    /// The plan that the entry is a step of, if there is one.
    #[must_use]
    pub fn plan_id(&self) -> Option<PlanId> {
        match self {
            Self::PlanAccepted { plan, .. } => Some(plan.plan_id),
            Self::TasksAdded { plan_id, .. }
            | Self::PlanEnded { plan_id, .. }
            | Self::PlanRedriven { plan_id, .. } => Some(*plan_id),
            Self::TaskDispatched { task, .. }
            | Self::AttemptStarted { task, .. }
            | Self::AttemptEnded { task, .. }
            | Self::TaskOutput { task, .. }
            | Self::ApprovalRequested { task, .. }
            | Self::ApprovalDecided { task, .. }
            | Self::TaskWaits { task, .. }
            | Self::BudgetReached { task, .. }
            | Self::BudgetDecided { task, .. }
            | Self::TaskResumed { task, .. }
            | Self::TaskEnded { task, .. } => Some(task.plan_id),
            Self::KeyUsed { .. } | Self::BulkStarted { .. } | Self::BulkEnded { .. } => None,
        }
    }
}

/// The decision about an approval, without inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalOutcome {
    /// State of the approval.
    pub state: ApprovalState,
    /// Whether the task runs.
    pub runs: bool,
    /// Name of the person or program that decided; empty for an expiry.
    pub actor: String,
    /// Reason; may be empty.
    pub reason: String,
    /// Hash of the input that was decided about.
    pub input_hash: String,
    /// Hash of the input with which the task runs instead, if it was replaced.
    pub new_input_hash: Option<String>,
}

impl ApprovalOutcome {
    /// The outcome of an approval that was decided.
    #[must_use]
    pub fn of(approval: &Approval) -> Self {
        let decision = approval.decision.as_ref();
        let new_input = decision.and_then(|decision| decision.input.as_ref());
        Self {
            state: approval.state,
            runs: approval.approved_input().is_some(),
            actor: decision.map(|decision| decision.actor.clone()).unwrap_or_default(),
            reason: decision.map(|decision| decision.reason.clone()).unwrap_or_default(),
            input_hash: approval.input_hash.clone(),
            new_input_hash: new_input.map(input_hash),
        }
    }
}

/// Idempotency key of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// Key that the caller chose.
    pub key: String,
    /// Digest of the request.
    pub digest: String,
    /// Correlation id of the request; absent for keys of versions that did not store it.
    pub by: Option<CorrelationId>,
}

/// First use of an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedKey {
    /// Identifier of what the request created or changed.
    pub subject: Uuid,
    /// Digest of the request.
    pub digest: String,
    /// As [`IdempotencyKey::by`].
    pub by: Option<CorrelationId>,
}
