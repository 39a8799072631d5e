//! Stored conditions of tasks, approvals and what was decided about them.

use std::time::Duration;

use jiff::Timestamp;
use phoenix_domain::{
    approval::{Approval, ApprovalKind, ApprovalState, ApprovalTerms, OnExpiry},
    budget::OnBudget,
    json::Object,
    plan::StartConditions,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::store::{
    entry::ApprovalOutcome,
    record::{
        unusable::Unusable,
        v1::value::{named, raw},
    },
};

/// Conditions on which a task starts, in a record and in a column.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ConditionsV1 {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    approval: Option<TermsV1>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<Timestamp>,
    /// Absent for a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    on_budget: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct TermsV1 {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    approver: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    timeout_ms: Option<u64>,
    on_expiry: String,
}

/// An approval that waits.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ApprovalV1 {
    requested_at: Timestamp,
    expires_at: Timestamp,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    approver: String,
    on_expiry: String,
    input: Box<RawValue>,
    input_hash: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ApprovalOutcomeV1 {
    state: String,
    runs: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    actor: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    input_hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    new_input_hash: Option<String>,
}

impl From<&StartConditions> for ConditionsV1 {
    fn from(StartConditions { approval, not_before, on_budget }: &StartConditions) -> Self {
        let on_budget = (*on_budget != OnBudget::Fail).then(|| on_budget.as_str().into());
        Self { approval: approval.as_ref().map(Into::into), not_before: *not_before, on_budget }
    }
}

impl TryFrom<ConditionsV1> for StartConditions {
    type Error = Unusable;

    fn try_from(ConditionsV1 { approval, not_before, on_budget }: ConditionsV1) -> Result<Self, Unusable> {
        let on_budget = on_budget.map(|name| named("on_budget", &name, OnBudget::from_name)).transpose()?;
        let approval = approval.map(TryInto::try_into).transpose()?;
        Ok(Self { approval, not_before, on_budget: on_budget.unwrap_or_default() })
    }
}

impl From<&ApprovalTerms> for TermsV1 {
    fn from(ApprovalTerms { reason, approver, timeout, on_expiry }: &ApprovalTerms) -> Self {
        Self {
            reason: reason.clone(),
            approver: approver.clone(),
            timeout_ms: timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
            on_expiry: on_expiry.as_str().into(),
        }
    }
}

impl TryFrom<TermsV1> for ApprovalTerms {
    type Error = Unusable;

    fn try_from(TermsV1 { reason, approver, timeout_ms, on_expiry }: TermsV1) -> Result<Self, Unusable> {
        let on_expiry = named("on_expiry", &on_expiry, OnExpiry::from_name)?;
        Ok(Self { reason, approver, timeout: timeout_ms.map(Duration::from_millis), on_expiry })
    }
}

impl From<&Approval> for ApprovalV1 {
    fn from(approval: &Approval) -> Self {
        let Approval {
            // The record's kind says it.
            kind: _,
            requested_at,
            expires_at,
            reason,
            approver,
            on_expiry,
            input,
            input_hash,
            // An approval is recorded when it is asked for; its decision has a record of its own.
            state: _,
            decision: _,
        } = approval;
        Self {
            requested_at: *requested_at,
            expires_at: *expires_at,
            reason: reason.clone(),
            approver: approver.clone(),
            on_expiry: on_expiry.as_str().into(),
            input: raw(input),
            input_hash: input_hash.clone(),
        }
    }
}

impl TryFrom<ApprovalV1> for Approval {
    type Error = Unusable;

    fn try_from(stored: ApprovalV1) -> Result<Self, Unusable> {
        let ApprovalV1 { requested_at, expires_at, reason, approver, on_expiry, input, input_hash } = stored;
        Ok(Self {
            kind: ApprovalKind::Input,
            requested_at,
            expires_at,
            reason,
            approver,
            on_expiry: named("on_expiry", &on_expiry, OnExpiry::from_name)?,
            input: Object::parse_stored(input.get())?,
            input_hash,
            state: ApprovalState::Waiting,
            decision: None,
        })
    }
}

impl From<&ApprovalOutcome> for ApprovalOutcomeV1 {
    fn from(outcome: &ApprovalOutcome) -> Self {
        let ApprovalOutcome { state, runs, actor, reason, input_hash, new_input_hash } = outcome;
        Self {
            state: state.as_str().into(),
            runs: *runs,
            actor: actor.clone(),
            reason: reason.clone(),
            input_hash: input_hash.clone(),
            new_input_hash: new_input_hash.clone(),
        }
    }
}

impl TryFrom<ApprovalOutcomeV1> for ApprovalOutcome {
    type Error = Unusable;

    fn try_from(stored: ApprovalOutcomeV1) -> Result<Self, Unusable> {
        let ApprovalOutcomeV1 { state, runs, actor, reason, input_hash, new_input_hash } = stored;
        let state = named("state", &state, ApprovalState::from_name)?;
        Ok(Self { state, runs, actor, reason, input_hash, new_input_hash })
    }
}
