//! The filter of dead letters, the same in a query string and in a body.

use std::fmt::Display;

use phoenix_domain::{
    AgentName, CorrelationId, FailureClass, OrchestratorError, OrchestratorErrorCode, PlanId,
};
use phoenix_proto::{planner::DeadLetterFilter, to_timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::schemas;
use crate::query::parse_time;

/// Names of the filter's fields.
pub(crate) const FIELDS: &[&str] = &["agent", "code", "error_class", "plan_id", "correlation_id", "since"];

/// Dead letters that match every given field. Unknown fields are rejected.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeadLetterFilterV1 {
    /// Tasks of this agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schemas::filtered_agent)]
    agent: Option<String>,
    /// Tasks that ended with this error code.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schemas::optional_code)]
    code: Option<String>,
    /// Tasks whose last attempt has this failure class.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = schemas::optional_error_class)]
    error_class: Option<String>,
    /// Tasks of this plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = Uuid)]
    plan_id: Option<String>,
    /// Tasks of plans with this correlation id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = Uuid)]
    correlation_id: Option<String>,
    /// Tasks that were dead-lettered at this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    since: Option<String>,
}

impl DeadLetterFilterV1 {
    /// The filter in a request to the planner.
    ///
    /// # Errors
    /// `validation_failed` that names the field.
    pub(crate) fn into_wire(self) -> Result<DeadLetterFilter, OrchestratorError> {
        let Self { agent, code, error_class, plan_id, correlation_id, since } = self;
        let given = [agent, code, error_class, plan_id, correlation_id, since];
        parse("filter.", |name| given[FIELDS.iter().position(|field| *field == name)?].as_deref())
    }
}

/// Parses the given fields. `prefix` is prepended to the field names of errors.
///
/// # Errors
/// `validation_failed` that names the field.
pub(crate) fn parse<'a>(
    prefix: &str,
    get: impl Fn(&str) -> Option<&'a str>,
) -> Result<DeadLetterFilter, OrchestratorError> {
    let invalid =
        |name: &str, problem: &dyn Display| OrchestratorError::invalid(&format!("{prefix}{name}"), problem);
    let checked = |name, check: fn(&str) -> Result<String, String>| match get(name) {
        Some(text) => check(text).map_err(|problem| invalid(name, &problem)),
        None => Ok(String::new()),
    };
    let since = get("since").map(|text| parse_time(text).map_err(|problem| invalid("since", &problem)));
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

/// A name of a closed set.
fn named(text: &str, known: impl Iterator<Item = &'static str> + Clone) -> Result<String, String> {
    if known.clone().any(|name| name == text) {
        return Ok(text.to_owned());
    }
    let known: Vec<_> = known.map(|name| format!("`{name}`")).collect();
    Err(format!("must be one of {}", known.join(", ")))
}
