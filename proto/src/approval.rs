//! Approvals on the wire.

use std::time::Duration;

use phoenix_domain::approval::{Approval, ApprovalTerms, Decision, OnExpiry, WaitingApproval};

use crate::{InvalidField, planner, preview::PreviewBudget, to_timestamp};

impl TryFrom<planner::ApprovalTerms> for ApprovalTerms {
    type Error = InvalidField;

    fn try_from(wire: planner::ApprovalTerms) -> Result<Self, InvalidField> {
        let planner::ApprovalTerms { reason, approver, timeout_ms, on_expiry } = wire;
        let on_expiry = match &*on_expiry {
            "" => OnExpiry::default(),
            name => OnExpiry::from_name(name).ok_or_else(|| {
                InvalidField::new("on_expiry", format!("must be `fail`, `reject` or `approve`, not `{name}`"))
            })?,
        };
        let timeout = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms));
        Ok(Self { reason, approver, timeout, on_expiry })
    }
}

impl From<ApprovalTerms> for planner::ApprovalTerms {
    fn from(ApprovalTerms { reason, approver, timeout, on_expiry }: ApprovalTerms) -> Self {
        let timeout = timeout.unwrap_or_default().as_millis();
        let timeout_ms = u64::try_from(timeout).unwrap_or(u64::MAX);
        Self { reason, approver, timeout_ms, on_expiry: on_expiry.as_str().into() }
    }
}

/// A view of one approval.
#[must_use]
pub fn wire_approval(approval: Approval) -> planner::Approval {
    approval_view(approval, &mut PreviewBudget::new())
}

/// A view of an approval, without inputs that are too large.
pub(crate) fn approval_view(approval: Approval, budget: &mut PreviewBudget) -> planner::Approval {
    let Approval {
        kind: _,
        requested_at,
        expires_at,
        reason,
        approver,
        on_expiry,
        input,
        input_hash,
        state,
        decision,
    } = approval;
    planner::Approval {
        state: state.as_str().into(),
        requested_at: Some(to_timestamp(requested_at)),
        expires_at: Some(to_timestamp(expires_at)),
        reason,
        approver,
        on_expiry: on_expiry.as_str().into(),
        input_json: budget.whole(&input).unwrap_or_default(),
        input_hash,
        decision: decision.map(|decision| decision_view(decision, budget)),
    }
}

fn decision_view(decision: Decision, budget: &mut PreviewBudget) -> planner::approval::Decision {
    let Decision { at, actor, reason, by, input } = decision;
    planner::approval::Decision {
        at: Some(to_timestamp(at)),
        actor,
        reason,
        correlation_id: by.map(|by| by.to_string()).unwrap_or_default(),
        input_json: input.and_then(|input| budget.whole(&input)).unwrap_or_default(),
    }
}

impl From<WaitingApproval> for planner::WaitingApproval {
    fn from(waiting: WaitingApproval) -> Self {
        let WaitingApproval {
            kind,
            plan_id,
            correlation_id,
            key,
            agent,
            action,
            requested_at,
            expires_at,
            on_expiry,
            reason,
            approver,
            input_hash,
            input_preview,
        } = waiting;
        Self {
            plan_id: plan_id.to_string(),
            correlation_id: correlation_id.to_string(),
            key,
            agent: agent.into(),
            action,
            requested_at: Some(to_timestamp(requested_at)),
            expires_at: Some(to_timestamp(expires_at)),
            on_expiry: on_expiry.as_str().into(),
            reason,
            approver,
            input_hash,
            input_preview,
            kind: kind.as_str().into(),
        }
    }
}
