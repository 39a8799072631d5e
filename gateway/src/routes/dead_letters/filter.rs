//! Which dead letters are meant: the same in a query string and in a body.

use std::fmt::Display;

use phoenix_domain::{
    AgentName, CorrelationId, FailureClass, OrchestratorError, OrchestratorErrorCode, PlanId,
};
use phoenix_proto::{planner::DeadLetterFilter, to_timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{query::read_time, routes::openapi::schemas};

/// What dead letters can be filtered by.
pub(super) const FIELDS: &[&str] = &["agent", "code", "error_class", "plan_id", "correlation_id", "since"];

/// Dead letters that meet everything that is given. Unknown fields are refused.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeadLetterFilterV1 {
    /// Tasks for this agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schemas::filtered_agent)]
    agent: Option<String>,
    /// Tasks that ended with this error code.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schemas::optional_code)]
    code: Option<String>,
    /// Tasks whose last attempt failed in this way.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schemas::optional_error_class)]
    error_class: Option<String>,
    /// Tasks of this plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = Uuid)]
    plan_id: Option<String>,
    /// Tasks of plans of this request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = Uuid)]
    correlation_id: Option<String>,
    /// Tasks that failed for good at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    since: Option<String>,
}

impl DeadLetterFilterV1 {
    /// The filter as the planner is asked for it.
    ///
    /// # Errors
    /// `validation_failed` that names the field.
    pub(super) fn into_wire(self) -> Result<DeadLetterFilter, OrchestratorError> {
        let Self { agent, code, error_class, plan_id, correlation_id, since } = self;
        let given = [agent, code, error_class, plan_id, correlation_id, since];
        read("filter.", |name| given[FIELDS.iter().position(|field| *field == name)?].as_deref())
    }
}

/// Reads every field, where it is given. `place` is what a mistake's field name begins with.
///
/// # Errors
/// `validation_failed` that names the field.
pub(super) fn read<'a>(
    place: &str,
    get: impl Fn(&str) -> Option<&'a str>,
) -> Result<DeadLetterFilter, OrchestratorError> {
    let invalid =
        |name: &str, problem: &dyn Display| OrchestratorError::invalid(&format!("{place}{name}"), problem);
    // As text again where it is text on the wire.
    let checked = |name, check: fn(&str) -> Result<String, String>| match get(name) {
        Some(text) => check(text).map_err(|problem| invalid(name, &problem)),
        None => Ok(String::new()),
    };
    let since = get("since").map(|text| read_time(text).map_err(|problem| invalid("since", &problem)));
    Ok(DeadLetterFilter {
        agent: checked("agent", parsed::<AgentName>)?,
        code: checked("code", |text| {
            named(text, OrchestratorErrorCode::ALL.iter().map(|code| code.as_str()))
        })?,
        error_class: checked("error_class", |text| {
            named(text, FailureClass::ALL.iter().map(|class| class.as_str()))
        })?,
        plan_id: checked("plan_id", parsed::<PlanId>)?,
        correlation_id: checked("correlation_id", parsed::<CorrelationId>)?,
        since: since.transpose()?.map(to_timestamp),
    })
}

fn parsed<T: std::str::FromStr<Err: Display> + Display>(text: &str) -> Result<String, String> {
    text.parse::<T>().map(|value| value.to_string()).map_err(|problem| problem.to_string())
}

/// A name out of a closed set.
fn named(text: &str, known: impl Iterator<Item = &'static str> + Clone) -> Result<String, String> {
    if known.clone().any(|name| name == text) {
        return Ok(text.to_owned());
    }
    let known: Vec<_> = known.map(|name| format!("`{name}`")).collect();
    Err(format!("must be one of {}", known.join(", ")))
}
