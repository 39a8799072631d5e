//! What a store is asked about dead letters, and what is done with many of them at once.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use phoenix_domain::{
    AgentName, BulkRedriveId, CorrelationId, FailureClass, OrchestratorErrorCode, PlanId,
    dead_letter::DeadLetterState,
};

use super::TaskRef;

/// Which dead letters are meant: those that meet everything that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Tasks for this agent.
    pub agent: Option<AgentName>,
    /// Tasks that ended with this code.
    pub code: Option<OrchestratorErrorCode>,
    /// Tasks whose last attempt failed in this way.
    pub error_class: Option<FailureClass>,
    /// Tasks of this plan.
    pub plan_id: Option<PlanId>,
    /// Tasks of plans that this request made.
    pub correlation_id: Option<CorrelationId>,
    /// Tasks that failed for good at this time or later.
    pub since: Option<Timestamp>,
}

/// Which dead letters to list, newest first.
#[derive(Debug, Clone)]
pub struct DeadLetterQuery {
    /// Which are meant.
    pub filter: DeadLetterFilter,
    /// Of these, those in this state.
    pub state: DeadLetterState,
    /// Only those older than this one: where the last page ended.
    pub before: Option<DeadLetterPlace>,
    /// At most so many.
    pub limit: u32,
}

/// A dead letter's place among all of them, which are ordered by time. As text: `MICROSECONDS.PLAN.ORDINAL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadLetterPlace {
    /// When it failed for good.
    pub at: Timestamp,
    /// Which it is.
    pub task: TaskRef,
}

/// Text that is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be the `next_page_token` of an earlier page")]
pub struct InvalidPlace;

impl fmt::Display for DeadLetterPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, task: TaskRef { plan_id, ordinal } } = self;
        write!(f, "{}.{plan_id}.{ordinal}", at.as_microsecond())
    }
}

impl FromStr for DeadLetterPlace {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        let mut parts = text.split('.');
        let (Some(at), Some(plan_id), Some(ordinal), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidPlace);
        };
        let at = at.parse().ok().and_then(|micros| Timestamp::from_microsecond(micros).ok());
        let plan_id = plan_id.parse().map_err(|_| InvalidPlace)?;
        let ordinal = ordinal.parse().map_err(|_| InvalidPlace)?;
        Ok(Self { at: at.ok_or(InvalidPlace)?, task: TaskRef { plan_id, ordinal } })
    }
}

/// How many dead letters wait for a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenDeadLetters {
    /// All of them.
    pub count: u64,
    /// When the one that has waited longest failed.
    pub oldest: Option<Timestamp>,
}

/// A request that deals with many dead letters at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// Its name.
    pub sweep_id: BulkRedriveId,
    /// What is done with them.
    pub action: SweepAction,
    /// When it was asked for.
    pub at: Timestamp,
    /// By which request.
    pub by: CorrelationId,
    /// Why; empty when whoever it was did not say.
    pub reason: String,
}

/// What a sweep does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SweepAction {
    /// Redrives their plans, one after the other.
    Redrive {
        /// So many plans each second.
        rate: f64,
    },
    /// Discards them, at once.
    Discard,
}

impl SweepAction {
    /// The name in the journal.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redrive { .. } => "redrive",
            Self::Discard => "discard",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_its_text_form() {
        let task = TaskRef { plan_id: PlanId::generate(), ordinal: 7 };
        let place = DeadLetterPlace { at: Timestamp::from_microsecond(1_800_000_000_000_001).unwrap(), task };
        assert_eq!(place.to_string().parse(), Ok(place));
        for bad in ["", "1", "1.2.3", "x.y.z", &format!("{place}.1"), &format!("x{place}")] {
            assert_eq!(bad.parse::<DeadLetterPlace>(), Err(InvalidPlace), "{bad}");
        }
    }
}
