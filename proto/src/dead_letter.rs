//! Dead letters on the wire.

use phoenix_domain::dead_letter::{DeadLetter, DeadLetterState, Resolution};

use crate::{planner, to_timestamp};

impl From<DeadLetterState> for planner::DeadLetterState {
    fn from(state: DeadLetterState) -> Self {
        match state {
            DeadLetterState::Open => Self::Open,
            DeadLetterState::Redriven => Self::Redriven,
            DeadLetterState::Discarded => Self::Discarded,
        }
    }
}

/// The state that a request filters by; open by default.
impl From<planner::DeadLetterState> for DeadLetterState {
    fn from(state: planner::DeadLetterState) -> Self {
        match state {
            planner::DeadLetterState::Unspecified | planner::DeadLetterState::Open => Self::Open,
            planner::DeadLetterState::Redriven => Self::Redriven,
            planner::DeadLetterState::Discarded => Self::Discarded,
        }
    }
}

impl From<DeadLetter> for planner::DeadLetter {
    fn from(letter: DeadLetter) -> Self {
        let DeadLetter {
            plan_id,
            ordinal: _,
            correlation_id,
            task_id,
            key,
            agent,
            action,
            error,
            attempts,
            at,
            state,
            resolution,
        } = letter;
        let settled =
            resolution.map(|Resolution { at, by, reason, redriven_as }| planner::dead_letter::Settled {
                at: Some(to_timestamp(at)),
                correlation_id: by.to_string(),
                reason,
                redriven_as: redriven_as.map(|id| id.to_string()).unwrap_or_default(),
            });
        Self {
            plan_id: plan_id.to_string(),
            correlation_id: correlation_id.to_string(),
            task_id: task_id.to_string(),
            key,
            agent: agent.into(),
            action,
            error: Some(error.into()),
            attempts,
            dead_lettered_at: Some(to_timestamp(at)),
            state: planner::DeadLetterState::from(state).into(),
            settled,
        }
    }
}
