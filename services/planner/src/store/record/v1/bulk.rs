//! Stored bulk operations. The stored format calls them sweeps.

use jiff::Timestamp;
use phoenix_domain::{BulkRedriveId, CorrelationId, FailureClass, OrchestratorErrorCode, PlanId};
use serde::{Deserialize, Serialize};

use crate::store::{
    dead_letter::{BulkAction, BulkOperation, DeadLetterFilter},
    record::{unusable::Unusable, v1::value::named},
};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SweepV1 {
    sweep_id: BulkRedriveId,
    action: SweepActionV1,
    at: Timestamp,
    by: CorrelationId,
    reason: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SweepActionV1 {
    Redrive { rate: f64 },
    Discard,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FilterV1 {
    agent: Option<String>,
    code: Option<String>,
    error_class: Option<String>,
    plan_id: Option<PlanId>,
    correlation_id: Option<CorrelationId>,
    since: Option<Timestamp>,
}

impl From<&BulkOperation> for SweepV1 {
    fn from(BulkOperation { sweep_id, action, at, by, reason }: &BulkOperation) -> Self {
        let action = match action {
            BulkAction::Redrive { rate } => SweepActionV1::Redrive { rate: *rate },
            BulkAction::Discard => SweepActionV1::Discard,
        };
        Self { sweep_id: *sweep_id, action, at: *at, by: *by, reason: reason.clone() }
    }
}

impl From<SweepV1> for BulkOperation {
    fn from(SweepV1 { sweep_id, action, at, by, reason }: SweepV1) -> Self {
        let action = match action {
            SweepActionV1::Redrive { rate } => BulkAction::Redrive { rate },
            SweepActionV1::Discard => BulkAction::Discard,
        };
        Self { sweep_id, action, at, by, reason }
    }
}

impl From<&DeadLetterFilter> for FilterV1 {
    fn from(filter: &DeadLetterFilter) -> Self {
        let DeadLetterFilter { agent, code, error_class, plan_id, correlation_id, since } = filter;
        Self {
            agent: agent.as_ref().map(ToString::to_string),
            code: code.map(|code| code.as_str().into()),
            error_class: error_class.map(|class| class.as_str().into()),
            plan_id: *plan_id,
            correlation_id: *correlation_id,
            since: *since,
        }
    }
}

impl TryFrom<FilterV1> for DeadLetterFilter {
    type Error = Unusable;

    fn try_from(stored: FilterV1) -> Result<Self, Unusable> {
        let FilterV1 { agent, code, error_class, plan_id, correlation_id, since } = stored;
        Ok(Self {
            agent: agent.map(|agent| named("agent", &agent, |name| name.parse().ok())).transpose()?,
            code: code.map(|code| named("code", &code, OrchestratorErrorCode::from_name)).transpose()?,
            error_class: error_class
                .map(|class| named("error_class", &class, FailureClass::from_name))
                .transpose()?,
            plan_id,
            correlation_id,
            since,
        })
    }
}
