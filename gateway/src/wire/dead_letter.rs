//! Bodies of dead letters: a page of them, and requests to redrive or discard many.

use jiff::Timestamp;
use phoenix_domain::{BulkRedriveId, CorrelationId, PlanId, TaskId, dead_letter::DeadLetterState};
use phoenix_proto::{
    InvalidField, id, optional,
    planner::{self, DiscardDeadLettersResponse, RedriveDeadLettersResponse},
    required, required_timestamp,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    dead_letter_filter::DeadLetterFilterV1,
    error::ErrorBody,
    schemas::{self, as_text, states},
};
use crate::members::{Members, Whole};

/// The largest number of dead letters in one request, and the default.
const MAX_DEAD_LETTERS: u64 = 10_000;

/// Default of plans that are redriven per second.
const DEFAULT_RATE: f64 = 10.0;

/// Limit of the number of dead letters in one request.
pub(crate) type Limit = Whole<1, MAX_DEAD_LETTERS>;

/// One page of dead letters.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeadLetterPageV1 {
    /// Dead letters, newest first.
    pub(crate) dead_letters: Vec<DeadLetterV1>,
    /// `page_token` of the next page; null on the last.
    #[schema(required)]
    pub(crate) next_page_token: Option<String>,
}

/// A task that failed for good.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeadLetterV1 {
    /// Identifier of the plan.
    #[schema(value_type = String, format = Uuid)]
    pub(crate) plan_id: PlanId,
    /// Correlation id of the request that created the plan.
    #[schema(value_type = String, format = Uuid)]
    pub(crate) correlation_id: CorrelationId,
    /// Identifier of the task.
    #[schema(value_type = String, format = Uuid)]
    pub(crate) task_id: TaskId,
    /// Key of the task, unique within its plan; the only task of a chat has the key `chat`.
    #[schema(examples("status"))]
    pub(crate) key: String,
    /// Agent of the task.
    #[schema(examples("git_agent"))]
    pub(crate) agent: String,
    /// Action of the agent.
    pub(crate) action: String,
    /// Error of the task.
    pub(crate) error: ErrorBody,
    /// Number of attempts; 0 for a task that failed before its first attempt.
    pub(crate) attempts: u32,
    /// When the task failed for good.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) dead_lettered_at: Timestamp,
    /// State of the dead letter.
    #[schema(schema_with = dead_letter_states)]
    #[serde(serialize_with = "as_text")]
    pub(crate) state: DeadLetterState,
    /// The decision about the dead letter; null while it is open.
    #[schema(required)]
    pub(crate) settled: Option<SettledV1>,
}

/// The decision about a dead letter.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SettledV1 {
    /// When the decision was made.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) at: Timestamp,
    /// Correlation id of the request that made the decision.
    #[schema(value_type = String, format = Uuid)]
    pub(crate) correlation_id: CorrelationId,
    /// Reason that the request gave.
    #[schema(required)]
    pub(crate) reason: Option<String>,
    /// The plan that redrives the task; null when the dead letter was discarded.
    #[schema(value_type = Option<String>, format = Uuid, required)]
    pub(crate) redriven_as: Option<PlanId>,
}

/// A request to redrive dead letters at a rate. Unknown fields are rejected.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RedriveDeadLettersV1 {
    /// Filter of dead letters; `{}` matches all that are open.
    #[schema(value_type = DeadLetterFilterV1)]
    pub(crate) filter: Members<DeadLetterFilterV1>,
    /// Largest number of plans that are redriven per second.
    #[serde(skip_serializing_if = "is_default_rate")]
    #[schema(minimum = 0.001, maximum = 1000, default = 10)]
    pub(crate) rate_per_second: Option<f64>,
    /// Largest number of dead letters, the oldest first.
    #[serde(skip_serializing_if = "is_default_limit")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 10_000, default = 10_000)]
    pub(crate) limit: Option<Limit>,
    /// Reason of the redrive, kept in the journal: at most 1024 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024)]
    pub(crate) reason: Option<String>,
}

/// A redrive of many dead letters, which runs in the background.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RedriveBegunV1 {
    /// Identifier of the redrive.
    #[schema(value_type = String, format = Uuid)]
    pub(crate) sweep_id: BulkRedriveId,
    /// Number of dead letters that will be redriven.
    pub(crate) selected: u64,
    /// Correlation id of the request; `GET /api/v1/plans?correlation_id=…` lists the new plans.
    #[schema(value_type = String, format = Uuid)]
    pub(crate) correlation_id: CorrelationId,
}

/// A request to discard dead letters. Unknown fields are rejected.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiscardDeadLettersV1 {
    /// Filter of dead letters; `{}` matches all that are open.
    #[schema(value_type = DeadLetterFilterV1)]
    pub(crate) filter: Members<DeadLetterFilterV1>,
    /// Largest number of dead letters, the oldest first.
    #[serde(skip_serializing_if = "is_default_limit")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 10_000, default = 10_000)]
    pub(crate) limit: Option<Limit>,
    /// Reason of the discard, kept with each dead letter: at most 1024 bytes, not blank.
    #[schema(schema_with = schemas::reason)]
    pub(crate) reason: String,
}

/// Dead letters that were discarded.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DiscardedV1 {
    /// Identifier of the discard.
    #[schema(value_type = String, format = Uuid)]
    pub(crate) sweep_id: BulkRedriveId,
    /// Number of dead letters that were discarded.
    pub(crate) discarded: u64,
    /// Correlation id of the request.
    #[schema(value_type = String, format = Uuid)]
    pub(crate) correlation_id: CorrelationId,
}

#[expect(clippy::ref_option, reason = "serde hands fields over by reference")]
fn is_default_limit(limit: &Option<Limit>) -> bool {
    limit.is_none_or(|limit| limit.get() == MAX_DEAD_LETTERS)
}

#[expect(clippy::ref_option, reason = "serde hands fields over by reference")]
fn is_default_rate(rate: &Option<f64>) -> bool {
    rate.is_none_or(|rate| rate.to_bits() == DEFAULT_RATE.to_bits())
}

fn dead_letter_states() -> utoipa::openapi::schema::Object {
    states("State of the dead letter.", DeadLetterState::ALL.iter().map(|state| state.as_str()))
}

impl TryFrom<planner::DeadLetter> for DeadLetterV1 {
    type Error = InvalidField;

    fn try_from(wire: planner::DeadLetter) -> Result<Self, InvalidField> {
        let state = wire.state().into();
        let planner::DeadLetter {
            plan_id,
            correlation_id,
            task_id,
            key,
            agent,
            action,
            error,
            attempts,
            dead_lettered_at,
            state: _,
            settled,
        } = wire;
        Ok(Self {
            plan_id: id("plan_id", &plan_id)?,
            correlation_id: id("correlation_id", &correlation_id)?,
            task_id: id("task_id", &task_id)?,
            key,
            agent,
            action,
            error: required("error", error)?.into(),
            attempts,
            dead_lettered_at: required_timestamp("dead_lettered_at", dead_lettered_at)?,
            state,
            settled: settled.map(SettledV1::try_from).transpose()?,
        })
    }
}

impl TryFrom<planner::dead_letter::Settled> for SettledV1 {
    type Error = InvalidField;

    fn try_from(wire: planner::dead_letter::Settled) -> Result<Self, InvalidField> {
        let planner::dead_letter::Settled { at, correlation_id, reason, redriven_as } = wire;
        Ok(Self {
            at: required_timestamp("at", at)?,
            correlation_id: id("correlation_id", &correlation_id)?,
            reason: Some(reason).filter(|reason| !reason.is_empty()),
            redriven_as: optional("redriven_as", &redriven_as)?,
        })
    }
}

impl TryFrom<RedriveDeadLettersResponse> for RedriveBegunV1 {
    type Error = InvalidField;

    fn try_from(wire: RedriveDeadLettersResponse) -> Result<Self, InvalidField> {
        let RedriveDeadLettersResponse { sweep_id, selected, correlation_id, replay_of: _ } = wire;
        let (sweep_id, correlation_id) = (id("sweep_id", &sweep_id)?, id("correlation_id", &correlation_id)?);
        Ok(Self { sweep_id, selected, correlation_id })
    }
}

impl TryFrom<DiscardDeadLettersResponse> for DiscardedV1 {
    type Error = InvalidField;

    fn try_from(wire: DiscardDeadLettersResponse) -> Result<Self, InvalidField> {
        let DiscardDeadLettersResponse { sweep_id, discarded, correlation_id, replay_of: _ } = wire;
        let (sweep_id, correlation_id) = (id("sweep_id", &sweep_id)?, id("correlation_id", &correlation_id)?);
        Ok(Self { sweep_id, discarded, correlation_id })
    }
}
