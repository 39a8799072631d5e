//! Rows of the changes of circuits, the same in every database.

use jiff::Timestamp;
use phoenix_domain::{
    AgentName,
    health::{Cause, CircuitState, Transition},
};

use super::error::StoreError;

/// Changes of circuits, in their order.
pub(crate) type Transitions = Vec<(AgentName, Transition)>;

/// Changes that are kept of each agent: the newest ones.
pub(super) const KEPT: i64 = 100;

/// The values of a row, without its agent. The time is in microseconds since the epoch, the evidence is JSON.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct TransitionRow {
    pub(super) revision: i64,
    pub(super) changed_at: i64,
    pub(super) from_state: String,
    pub(super) to_state: String,
    pub(super) cause: String,
    pub(super) reason: String,
    pub(super) actor: Option<String>,
    pub(super) evidence: String,
}

impl From<&Transition> for TransitionRow {
    fn from(transition: &Transition) -> Self {
        let Transition { at, from, to, cause, reason, actor, evidence, revision } = transition;
        Self {
            revision: i64::try_from(*revision).unwrap_or(i64::MAX),
            changed_at: at.as_microsecond(),
            from_state: from.as_str().into(),
            to_state: to.as_str().into(),
            cause: cause.as_str().into(),
            reason: reason.clone(),
            actor: actor.clone(),
            // Numbers and times, which always have a JSON form.
            evidence: serde_json::to_string(evidence).unwrap_or_else(|_| "{}".into()),
        }
    }
}

impl TransitionRow {
    /// The change of the circuit of `agent`, whose row this is.
    pub(super) fn decode(self, agent: &AgentName) -> Result<Transition, StoreError> {
        let Self { revision, changed_at, from_state, to_state, cause, reason, actor, evidence } = self;
        let corrupt = |column| StoreError::CorruptRow { agent: agent.clone(), column };
        let state = |column, name: &str| CircuitState::from_name(name).ok_or_else(|| corrupt(column));
        Ok(Transition {
            at: Timestamp::from_microsecond(changed_at).map_err(|_| corrupt("changed_at"))?,
            from: state("from_state", &from_state)?,
            to: state("to_state", &to_state)?,
            cause: Cause::from_name(&cause).ok_or_else(|| corrupt("cause"))?,
            reason,
            actor,
            evidence: serde_json::from_str(&evidence).map_err(|_| corrupt("evidence"))?,
            revision: u64::try_from(revision).map_err(|_| corrupt("revision"))?,
        })
    }
}
