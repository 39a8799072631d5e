//! Bodies of approvals: that of a task, a decision, and a page of what waits.

use jiff::Timestamp;
use phoenix_domain::{
    CorrelationId, PlanId,
    approval::{ApprovalKind, ApprovalState, OnExpiry},
};
use phoenix_proto::{
    InvalidField,
    action::raw_json,
    id, optional,
    planner::{self, DecideApprovalResponse, ListApprovalsResponse},
    required, required_timestamp,
};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::{ToSchema, openapi::schema::Object};

use super::{
    approval_request::OnExpiryV1,
    schemas::{as_text, states},
};

/// The approval that a task waits or waited for.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApprovalV1 {
    /// State of the approval.
    #[schema(schema_with = approval_states)]
    #[serde(serialize_with = "as_text")]
    state: ApprovalState,
    /// When the task began to wait.
    #[schema(value_type = String, format = DateTime)]
    requested_at: Timestamp,
    /// When the approval expires, or expired.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    /// Effect of the expiry on the task.
    on_expiry: OnExpiryV1,
    /// Reason of the question.
    #[schema(required)]
    reason: Option<String>,
    /// Role or person that is asked to decide. Not enforced: every holder of the token may decide.
    #[schema(required)]
    approver: Option<String>,
    /// Input with which the task waits, with all references resolved; null when it is too large for a view.
    #[schema(value_type = Option<Object>, required)]
    input: Option<Box<RawValue>>,
    /// SHA-256 of the input in hexadecimal digits: of its compact JSON with the members of every object sorted by name.
    #[schema(examples("44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"))]
    input_hash: String,
    /// The decision; null while there is none.
    #[schema(required)]
    decision: Option<ApprovalDecisionV1>,
}

/// A decision about an approval, or its expiry.
#[derive(Debug, Serialize, ToSchema)]
struct ApprovalDecisionV1 {
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Name that the request gave; null for an expiry.
    #[schema(required)]
    actor: Option<String>,
    /// Reason that the request gave.
    #[schema(required)]
    reason: Option<String>,
    /// Correlation id of the request; null for an expiry.
    #[schema(value_type = Option<String>, format = Uuid, required)]
    correlation_id: Option<CorrelationId>,
    /// Input with which the task runs instead; null when it runs as it asked to, or when it is too large for a view.
    #[schema(value_type = Option<Object>, required)]
    input: Option<Box<RawValue>>,
}

/// An approval that is decided.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DecidedV1 {
    /// Identifier of the plan.
    #[schema(value_type = String, format = Uuid)]
    pub(crate) plan_id: PlanId,
    /// Key of the task.
    pub(crate) task: String,
    /// The approval with its decision.
    pub(crate) approval: ApprovalV1,
}

/// One page of approvals.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ApprovalPageV1 {
    /// Tasks that wait, the longest wait first.
    approvals: Vec<WaitingApprovalV1>,
    /// `page_token` of the next page; null on the last.
    #[schema(required)]
    next_page_token: Option<String>,
}

/// A task that waits for an approval or a budget.
#[derive(Debug, Serialize, ToSchema)]
struct WaitingApprovalV1 {
    /// What is approved: the `input` of the task, or more than a `budget` that is used up.
    #[schema(schema_with = approval_kinds)]
    kind: String,
    /// Identifier of the plan.
    #[schema(value_type = String, format = Uuid)]
    plan_id: PlanId,
    /// Correlation id of the request that created the plan.
    #[schema(value_type = String, format = Uuid)]
    correlation_id: CorrelationId,
    /// Key of the task, unique within its plan.
    #[schema(examples("commit"))]
    task: String,
    /// Agent of the task.
    #[schema(examples("git_agent"))]
    agent: String,
    /// Action of the agent.
    #[schema(examples("git_commit"))]
    action: String,
    /// When the task began to wait.
    #[schema(value_type = String, format = DateTime)]
    requested_at: Timestamp,
    /// Seconds since then.
    age_secs: u64,
    /// When the approval expires.
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    /// Effect of the expiry on the task.
    on_expiry: OnExpiryV1,
    /// Reason of the question.
    #[schema(required)]
    reason: Option<String>,
    /// Role or person that is asked to decide. Not enforced: every holder of the token may decide.
    #[schema(required)]
    approver: Option<String>,
    /// The first 500 characters of the input as JSON. `GET /api/v1/plans/{plan_id}` has all of it.
    input_preview: String,
    /// SHA-256 of the input, as in the approval.
    input_hash: String,
}

fn approval_kinds() -> Object {
    states("What is approved.", ApprovalKind::ALL.iter().map(|kind| kind.as_str()))
}

fn approval_states() -> Object {
    states("State of the approval.", ApprovalState::ALL.iter().map(|state| state.as_str()))
}

fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn on_expiry(name: &str) -> Result<OnExpiryV1, InvalidField> {
    let known = OnExpiry::from_name(name).ok_or_else(|| InvalidField::new("on_expiry", "is unknown"))?;
    Ok(known.into())
}

fn optional_json(field: &'static str, text: String) -> Result<Option<Box<RawValue>>, InvalidField> {
    given(text).map(|text| raw_json(field, text)).transpose()
}

impl TryFrom<planner::Approval> for ApprovalV1 {
    type Error = InvalidField;

    fn try_from(wire: planner::Approval) -> Result<Self, InvalidField> {
        let planner::Approval {
            state,
            requested_at,
            expires_at,
            reason,
            approver,
            on_expiry: expiry,
            input_json,
            input_hash,
            decision,
        } = wire;
        Ok(Self {
            state: ApprovalState::from_name(&state)
                .ok_or_else(|| InvalidField::new("state", "is unknown"))?,
            requested_at: required_timestamp("requested_at", requested_at)?,
            expires_at: required_timestamp("expires_at", expires_at)?,
            on_expiry: on_expiry(&expiry)?,
            reason: given(reason),
            approver: given(approver),
            input: optional_json("input_json", input_json)?,
            input_hash,
            decision: decision.map(ApprovalDecisionV1::try_from).transpose()?,
        })
    }
}

impl TryFrom<planner::approval::Decision> for ApprovalDecisionV1 {
    type Error = InvalidField;

    fn try_from(wire: planner::approval::Decision) -> Result<Self, InvalidField> {
        let planner::approval::Decision { at, actor, reason, correlation_id, input_json } = wire;
        Ok(Self {
            at: required_timestamp("at", at)?,
            actor: given(actor),
            reason: given(reason),
            correlation_id: optional("correlation_id", &correlation_id)?,
            input: optional_json("input_json", input_json)?,
        })
    }
}

impl DecidedV1 {
    /// The response to a decision about a task of a plan.
    pub(crate) fn of(plan_id: PlanId, wire: DecideApprovalResponse) -> Result<Self, InvalidField> {
        let DecideApprovalResponse { task_key, approval, replay_of: _ } = wire;
        Ok(Self { plan_id, task: task_key, approval: required("approval", approval)?.try_into()? })
    }
}

impl ApprovalPageV1 {
    /// A page as it is at `now`.
    pub(crate) fn at(now: Timestamp, wire: ListApprovalsResponse) -> Result<Self, InvalidField> {
        let ListApprovalsResponse { approvals, next_page_token } = wire;
        let approvals = approvals.into_iter().map(|waiting| WaitingApprovalV1::at(now, waiting));
        Ok(Self { approvals: approvals.collect::<Result<_, _>>()?, next_page_token: given(next_page_token) })
    }
}

impl WaitingApprovalV1 {
    fn at(now: Timestamp, wire: planner::WaitingApproval) -> Result<Self, InvalidField> {
        let planner::WaitingApproval {
            kind,
            plan_id,
            correlation_id,
            key,
            agent,
            action,
            requested_at,
            expires_at,
            on_expiry: expiry,
            reason,
            approver,
            input_hash,
            input_preview,
        } = wire;
        let requested_at = required_timestamp("requested_at", requested_at)?;
        Ok(Self {
            plan_id: id("plan_id", &plan_id)?,
            correlation_id: id("correlation_id", &correlation_id)?,
            kind,
            task: key,
            agent,
            action,
            requested_at,
            // The clock of the planner may be ahead.
            age_secs: u64::try_from(now.duration_since(requested_at).as_secs()).unwrap_or(0),
            expires_at: required_timestamp("expires_at", expires_at)?,
            on_expiry: on_expiry(&expiry)?,
            reason: given(reason),
            approver: given(approver),
            input_preview,
            input_hash,
        })
    }
}
