//! Conversions of messages about approvals.

use phoenix_domain::{CorrelationId, OrchestratorError, budget::Limits};
use phoenix_proto::{
    InvalidField,
    action::json_object,
    id, optional,
    planner::{
        ApprovalDecision, DecideApprovalRequest, DecideApprovalResponse, ListApprovalsRequest,
        ListApprovalsResponse,
    },
    wire_approval,
};

use crate::{
    approvals::{Decided, DecisionRequest},
    grpc::{
        decode::{idempotency_key_of, page_size},
        encode::text,
    },
    journal::Journal,
    store::approval::ApprovalQuery,
};

pub(super) fn decision_request(
    request: DecideApprovalRequest,
    by: CorrelationId,
) -> Result<DecisionRequest, InvalidField> {
    let is_approved = match request.decision() {
        ApprovalDecision::Approve => true,
        ApprovalDecision::Reject => false,
        ApprovalDecision::Unspecified => return Err(InvalidField::new("decision", "is missing")),
    };
    let DecideApprovalRequest {
        plan_id,
        task_key,
        decision: _,
        actor,
        reason,
        input_hash,
        input_json,
        idempotency_key,
        idempotency_digest,
        budget,
    } = request;
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(DecisionRequest {
        plan_id: id("plan_id", &plan_id)?,
        task_key: given(task_key),
        is_approved,
        actor,
        reason,
        input_hash: given(input_hash).map(|hash| hash.to_ascii_lowercase()),
        input: given(input_json).map(|input| json_object("input_json", &input)).transpose()?,
        budget: budget.map(Limits::from),
        by,
        key: idempotency_key_of(idempotency_key, idempotency_digest, by)?,
    })
}

pub(super) fn decided(Decided { task_key, approval, replay_of }: Decided) -> DecideApprovalResponse {
    DecideApprovalResponse { task_key, approval: Some(wire_approval(approval)), replay_of: text(replay_of) }
}

pub(super) async fn list(
    journal: &Journal,
    request: ListApprovalsRequest,
) -> Result<ListApprovalsResponse, OrchestratorError> {
    let ListApprovalsRequest { page_size: size, page_token } = request;
    let query = ApprovalQuery { after: optional("page_token", &page_token)?, limit: page_size(size)? };
    let page = journal.approvals(&query).await?;
    let next_page_token = page.last.map(|last| last.to_string()).unwrap_or_default();
    let approvals = page.items.into_iter().map(Into::into).collect();
    Ok(ListApprovalsResponse { approvals, next_page_token })
}
