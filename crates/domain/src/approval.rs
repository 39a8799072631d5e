//! Approvals: a task that waits for a decision about its exact input before it runs.
//!
//! ```text
//! waiting → approved | rejected | expired | withdrawn
//! ```
//!
//! An approval is about the rendered input of one task, named by its hash. The first decision counts.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    agent_name::AgentName,
    error::{OrchestratorError, OrchestratorErrorCode as Code},
    ids::{CorrelationId, PlanId},
    json::{Json, Object},
    limits::{
        MAX_ACTOR_CHARS, MAX_FILLED_INPUT_BYTES, MAX_REASON_BYTES, check_bytes, check_chars, check_depth,
        check_text,
    },
    pattern::matches_pattern,
    states::states,
};

/// Time after which an approval expires unless a setting or a task says otherwise: 7 days.
pub const DEFAULT_APPROVAL_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Limit of the time until an approval expires in milliseconds: 365 days.
pub const MAX_APPROVAL_TIMEOUT_MS: u64 = 31_536_000_000;

states! {
    /// State of an approval.
    ApprovalState {
        /// No decision has been made.
        Waiting = "waiting",
        /// The task may run.
        Approved = "approved",
        /// The task must not run.
        Rejected = "rejected",
        /// No decision was made in time.
        Expired = "expired",
        /// The task ended before a decision was made, with its plan.
        Withdrawn = "withdrawn",
    }
}

states! {
    /// What is approved.
    #[derive(Default)]
    ApprovalKind {
        /// The input of the task.
        #[default]
        Input = "input",
        /// More than the budget that is used up ([`crate::budget_pause`]).
        Budget = "budget",
    }
}

states! {
    /// Effect of an approval's expiry on its task.
    #[derive(Default)]
    OnExpiry {
        /// The task fails with `timeout`.
        #[default]
        Fail = "fail",
        /// The task is cancelled, as after a rejection.
        Reject = "reject",
        /// The task runs.
        Approve = "approve",
    }
}

/// Terms on which a task waits for an approval.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ApprovalTerms {
    /// Reason of the question, for the person who decides; may be empty.
    pub reason: String,
    /// Role or person that is asked to decide, as free text; may be empty. It is shown and not enforced: every holder of the
    /// token may decide.
    pub approver: String,
    /// Time until the approval expires; the agent's own when absent.
    pub timeout: Option<Duration>,
    /// Effect of the expiry.
    pub on_expiry: OnExpiry,
}

/// Actions of an agent that need an approval, by configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalPolicy {
    /// Patterns of the names of actions, in which `*` stands for any text. No action when empty.
    pub actions: Vec<String>,
    /// Time until an approval expires.
    pub timeout: Duration,
}

/// An approval of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// What is approved.
    pub kind: ApprovalKind,
    /// When the task began to wait.
    pub requested_at: Timestamp,
    /// When the approval expires.
    pub expires_at: Timestamp,
    /// As [`ApprovalTerms::reason`].
    pub reason: String,
    /// As [`ApprovalTerms::approver`].
    pub approver: String,
    /// Effect of the expiry.
    pub on_expiry: OnExpiry,
    /// Input of the task with all references resolved.
    pub input: Object,
    /// [`input_hash`] of the input.
    pub input_hash: String,
    /// State.
    pub state: ApprovalState,
    /// The decision, or the expiry; absent while the approval is waiting or withdrawn.
    pub decision: Option<Decision>,
}

/// A decision about an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// When it was made.
    pub at: Timestamp,
    /// Name of the person or program that decided, as it gave it; empty for an expiry.
    pub actor: String,
    /// Reason; may be empty.
    pub reason: String,
    /// Correlation id of the request; absent for an expiry.
    pub by: Option<CorrelationId>,
    /// Input with which the task runs instead of the one it asked for.
    pub input: Option<Object>,
}

/// A task that waits for an approval, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingApproval {
    /// What is approved.
    pub kind: ApprovalKind,
    /// Plan of the task.
    pub plan_id: PlanId,
    /// Correlation id of the request that created the plan.
    pub correlation_id: CorrelationId,
    /// Key of the task in its plan.
    pub key: String,
    /// Agent of the task.
    pub agent: AgentName,
    /// Action of the task.
    pub action: String,
    /// When the task began to wait.
    pub requested_at: Timestamp,
    /// When the approval expires.
    pub expires_at: Timestamp,
    /// Effect of the expiry.
    pub on_expiry: OnExpiry,
    /// As [`ApprovalTerms::reason`].
    pub reason: String,
    /// As [`ApprovalTerms::approver`].
    pub approver: String,
    /// As [`Approval::input_hash`].
    pub input_hash: String,
    /// The first characters of the input as JSON.
    pub input_preview: String,
}

impl Default for ApprovalPolicy {
    fn default() -> Self {
        Self { actions: Vec::new(), timeout: DEFAULT_APPROVAL_TIMEOUT }
    }
}

impl ApprovalPolicy {
    /// Whether the action needs an approval.
    #[must_use]
    pub fn requires(&self, action: &str) -> bool {
        self.actions.iter().any(|pattern| matches_pattern(pattern, action))
    }

    /// Adds the actions of another policy; its timeout counts if it is shorter.
    pub fn add(&mut self, other: &Self) {
        if other.actions.is_empty() {
            return;
        }
        self.timeout = if self.actions.is_empty() { other.timeout } else { self.timeout.min(other.timeout) };
        let added = other.actions.iter().filter(|pattern| !self.actions.contains(pattern));
        let added: Vec<_> = added.cloned().collect();
        self.actions.extend(added);
    }
}

impl ApprovalTerms {
    /// Checks the limits of the terms. `field` is their path in the request.
    ///
    /// # Errors
    /// `validation_failed` that names the field, the limit and the value found.
    pub fn check(&self, field: &str) -> Result<(), OrchestratorError> {
        check_text(&format!("{field}.reason"), &self.reason, MAX_REASON_BYTES)?;
        check_chars(&format!("{field}.approver"), &self.approver, MAX_ACTOR_CHARS)?;
        let Some(timeout) = self.timeout else { return Ok(()) };
        if timeout.is_zero() || timeout > Duration::from_millis(MAX_APPROVAL_TIMEOUT_MS) {
            let found = timeout.as_millis();
            let problem = format!("must be from 1 to {MAX_APPROVAL_TIMEOUT_MS}, not {found}");
            return Err(OrchestratorError::invalid(&format!("{field}.timeout_ms"), problem));
        }
        Ok(())
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.reason.len() + self.approver.len()
    }
}

impl Approval {
    /// An approval of `input` that is asked for at `at`, on these terms and by the policy of the agent. What the policy
    /// requires expires no later than the policy says, and does not run without a decision.
    #[must_use]
    pub fn requested(
        at: Timestamp,
        input: Object,
        terms: Option<&ApprovalTerms>,
        policy: &ApprovalPolicy,
        is_required: bool,
    ) -> Self {
        let ApprovalTerms { reason, approver, timeout, on_expiry } = terms.cloned().unwrap_or_default();
        let timeout = match timeout {
            Some(timeout) if is_required => timeout.min(policy.timeout),
            Some(timeout) => timeout,
            None => policy.timeout,
        };
        let on_expiry =
            if is_required && on_expiry == OnExpiry::Approve { OnExpiry::Fail } else { on_expiry };
        Self { approver, on_expiry, ..Self::waiting(ApprovalKind::Input, at, timeout, reason, input) }
    }

    /// An approval that waits from `at` for `timeout` without a named approver, whose expiry fails the task. Its times have the
    /// precision of the journal, which tells it from an earlier one by them.
    pub(crate) fn waiting(
        kind: ApprovalKind,
        at: Timestamp,
        timeout: Duration,
        reason: String,
        input: Object,
    ) -> Self {
        let at = Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at);
        Self {
            kind,
            requested_at: at,
            expires_at: at.checked_add(timeout).unwrap_or(Timestamp::MAX),
            reason,
            approver: String::new(),
            on_expiry: OnExpiry::Fail,
            input_hash: input_hash(&input),
            input,
            state: ApprovalState::Waiting,
            decision: None,
        }
    }

    /// The input with which the task runs, once it may.
    #[must_use]
    pub fn approved_input(&self) -> Option<&Object> {
        let may_run = match self.state {
            ApprovalState::Approved => true,
            ApprovalState::Expired => self.on_expiry == OnExpiry::Approve,
            ApprovalState::Waiting | ApprovalState::Rejected | ApprovalState::Withdrawn => false,
        };
        let replaced = self.decision.as_ref().and_then(|decision| decision.input.as_ref());
        may_run.then(|| replaced.unwrap_or(&self.input))
    }

    /// Error of the task with this key, if the approval ends it.
    #[must_use]
    pub fn refusal(&self, key: &str) -> Option<OrchestratorError> {
        let (code, message) = match (self.state, self.on_expiry) {
            (ApprovalState::Rejected, _) => (Code::Cancelled, self.rejection(key)),
            (ApprovalState::Expired, OnExpiry::Reject) => {
                let at = self.expires_at;
                (Code::Cancelled, format!("task `{key}` was rejected: its approval expired at {at}"))
            }
            (ApprovalState::Expired, OnExpiry::Fail) => {
                let at = self.expires_at;
                (Code::Timeout, format!("task `{key}` was neither approved nor rejected before {at}"))
            }
            (ApprovalState::Withdrawn, _) => {
                (Code::Cancelled, format!("the approval of task `{key}` was withdrawn"))
            }
            (ApprovalState::Expired, OnExpiry::Approve)
            | (ApprovalState::Waiting | ApprovalState::Approved, _) => return None,
        };
        let error =
            OrchestratorError::new(code, message).with_detail("key", key).with_detail("approval", self.state);
        let actor = self.decision.as_ref().map(|decision| &decision.actor).filter(|actor| !actor.is_empty());
        Some(actor.into_iter().fold(error, |error, actor| error.with_detail("actor", actor)))
    }

    fn rejection(&self, key: &str) -> String {
        let Some(Decision { actor, reason, .. }) = &self.decision else {
            return format!("task `{key}` was rejected");
        };
        let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        format!("task `{key}` was rejected by {actor}{because}")
    }

    /// Error of a decision about the task with this key that comes too late.
    #[must_use]
    pub fn too_late(&self, key: &str) -> OrchestratorError {
        let message = match (self.state, &self.decision) {
            (ApprovalState::Waiting | ApprovalState::Expired, _) => {
                format!("the approval of task `{key}` expired at {}", self.expires_at)
            }
            (ApprovalState::Withdrawn, _) => {
                format!("the approval of task `{key}` was withdrawn, because its plan has ended")
            }
            (state, Some(Decision { at, actor, .. })) => {
                format!("task `{key}` was {state} by {actor} at {at}")
            }
            (state, None) => format!("task `{key}` was {state} before"),
        };
        let state = if self.state == ApprovalState::Waiting { ApprovalState::Expired } else { self.state };
        OrchestratorError::new(Code::Conflict, message).with_detail("key", key).with_detail("approval", state)
    }
}

/// SHA-256 of an input in hexadecimal digits: of its compact JSON with the members of every object sorted by name.
#[must_use]
pub fn input_hash(input: &Object) -> String {
    let mut sorted = Json::Object(input.clone());
    sorted.sort_members();
    let digest = Sha256::digest(sorted.to_string());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks the limits of an input that replaces the one of a task.
///
/// # Errors
/// `validation_failed` that names `input`.
pub fn check_replacement(input: &Object) -> Result<(), OrchestratorError> {
    check_depth("input", input.depth())?;
    check_bytes("input", input.text_len(), MAX_FILLED_INPUT_BYTES)
}

#[cfg(test)]
mod tests;
