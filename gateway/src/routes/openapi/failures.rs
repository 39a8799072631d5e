//! How each failure looks, as the code that answers makes it.

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use phoenix_domain::{
    AgentCatalog, AgentName, AgentSpec, CorrelationId, PlanId, builtin::BUILTINS, plan::PlanStatus,
    rejections,
};
use phoenix_platform::propagation::{CORRELATION_HEADER, correlation_id};
use utoipa::openapi::{
    ContentBuilder, Header, HeaderBuilder, ObjectBuilder, Ref, RefOr, Response, ResponseBuilder,
    path::Operation, schema::Type,
};
use uuid::Uuid;

use crate::{
    auth, calls,
    delivery::IDEMPOTENT_REPLAYED,
    extract, observe,
    problem::{DEFAULT_RETRY_AFTER, Failure, Shape},
};

/// A plan and a request that examples are about.
const PLAN: Uuid = Uuid::from_u128(0x0190_a6c1_5b0e_7cc3_9d6e_0a1b_2c3d_4e5f);
const REQUEST: Uuid = Uuid::from_u128(0x4f9d_3c1e_7a55_4d0a_9d2b_0c7f_5f0c_2f11);

/// What decides about the failures of an operation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traits {
    /// Needs no token.
    pub(super) is_open: bool,
    /// Has a body, and so changes something.
    pub(super) takes_body: bool,
    /// Makes a plan and may wait for it.
    pub(super) runs: bool,
    /// Counts once under one idempotency key.
    pub(super) once: bool,
}

/// Adds the failures of the operation at `path` to its answers.
pub(super) fn add(path: &str, operation: &mut Operation, traits: Traits) {
    let Traits { is_open, takes_body, runs, once } = traits;
    let plans = takes_body && !path.ends_with(":cancel") && !path.starts_with("/api/v1/dead-letters");
    let asks_others = takes_body
        || path.starts_with("/api/v1/plans")
        || path.starts_with("/api/v1/dead-letters")
        || path == "/api/v1/agents";
    for (applies, failures) in [
        (!is_open, guarded()),
        (takes_body, body()),
        (plans, vec![unplannable()]),
        (runs, accepted()),
        (runs && path.ends_with("/chat"), vec![ended()]),
        (path.contains("{plan_id}"), vec![rejections::no_such_plan(PlanId::from(PLAN)).into()]),
        (path.ends_with(":cancel"), vec![rejections::plan_has_ended(PlanStatus::Succeeded).into()]),
        (path.ends_with("}:redrive"), vec![rejections::plan_has_not_ended(PlanStatus::Running).into()]),
        (once, vec![rejections::key_in_use().into(), rejections::key_used_otherwise().into()]),
        (asks_others, vec![calls::silent().into()]),
    ] {
        for failure in failures.into_iter().filter(|_| applies) {
            let status = failure.status.as_str().to_owned();
            let response = describe(Shape::of(path), &failure);
            operation.responses.responses.entry(status).or_insert(RefOr::T(response));
        }
    }
    if once {
        for response in operation.responses.responses.values_mut() {
            if let RefOr::T(response) = response {
                response.headers.insert(IDEMPOTENT_REPLAYED.as_str().into(), replayed().into());
            }
        }
    }
}

/// That an answer was given before.
fn replayed() -> Header {
    let schema = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["true"])).build();
    let description = "The answer is the one that the same request was given before; its correlation id is that of the first.";
    HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()
}

/// What an endpoint behind the token may refuse with.
fn guarded() -> Vec<Failure> {
    vec![bad_correlation_id(), auth::invalid_token(), auth::misdirected(), observe::broken().into()]
}

fn bad_correlation_id() -> Failure {
    let headers = HeaderMap::from_iter([(CORRELATION_HEADER, HeaderValue::from_static("42"))]);
    correlation_id(&headers).map_or_else(Into::into, |_| observe::broken().into())
}

/// What an endpoint with a body may refuse with.
fn body() -> Vec<Failure> {
    vec![auth::foreign(), extract::too_slow(), extract::too_large(), extract::wrong_type()]
}

/// Why no plan can be made.
fn unplannable() -> Failure {
    let known =
        BUILTINS.iter().filter_map(|agent| Some(AgentSpec::new(agent.name.parse().ok()?, Vec::new())));
    let unknown = "reviewer"
        .parse()
        .ok()
        .and_then(|name: AgentName| AgentCatalog::new(known, name.clone()).get(&name).err());
    unknown.unwrap_or_else(observe::broken).into()
}

/// Why a plan is not run.
fn accepted() -> Vec<Failure> {
    vec![rejections::too_many_plans(10_000, DEFAULT_RETRY_AFTER).into(), calls::too_late(false).into()]
}

/// How the plan of a chat may end.
fn ended() -> Failure {
    let failed = "git_agent".parse().map(|agent| rejections::agent_failed(&agent, 3, "exited with code 3"));
    failed.unwrap_or_else(|_| observe::broken()).into()
}

fn describe(shape: Shape, failure: &Failure) -> Response {
    let schema = match shape {
        Shape::Chat => "ChatResponseV1",
        Shape::LegacyChat => "LegacyChatResponse",
        Shape::Problem => "Problem",
    };
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(schema)))
        .example(serde_json::from_str(&shape.body(failure, CorrelationId::from(REQUEST))).ok())
        .build();
    let mut response = ResponseBuilder::new()
        .description(format!("`{}`", failure.error.code))
        .content(shape.content_type(), content);
    let waits = matches!(failure.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    if waits || failure.error.retry_after.is_some() {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).build();
        let header = HeaderBuilder::new().schema(Some(seconds)).description(Some("Seconds to wait.")).build();
        response = response.header("Retry-After", header);
    }
    response.build()
}
