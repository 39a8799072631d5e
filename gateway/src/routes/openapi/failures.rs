//! Failures of each endpoint, created by the same code that responds with them.

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use phoenix_domain::{
    AgentCatalog, AgentName, AgentSpec, CorrelationId, PlanId,
    builtin::BUILTINS,
    limits::MAX_CONVERSATION_REQUEST_BYTES,
    plan::{PlanStatus, TaskStatus},
    rejections,
};
use phoenix_platform::propagation::{CORRELATION_HEADER, correlation_id};
use utoipa::openapi::{
    ContentBuilder, Header, HeaderBuilder, ObjectBuilder, Ref, RefOr, Response, ResponseBuilder,
    path::Operation, schema::Type,
};
use uuid::Uuid;

use crate::{
    auth,
    extract::{self, MAX_BODY_BYTES},
    header_names::IDEMPOTENT_REPLAYED,
    planner_client::{deadline_exceeded, planner_unresponsive},
    problem::{DEFAULT_RETRY_AFTER, ErrorFormat, Failure, internal_error},
    routes::{
        anthropic::{count_tokens::PATH as TOKENS, messages::PATH as MESSAGES},
        openai::completions::PATH as COMPLETIONS,
        responses::{create::PATH as RESPONSES, ending::no_such_response},
    },
    wire::model_request::unknown_model,
};

/// Identifiers in examples.
const PLAN: Uuid = Uuid::from_u128(0x0190_a6c1_5b0e_7cc3_9d6e_0a1b_2c3d_4e5f);
const REQUEST: Uuid = Uuid::from_u128(0x4f9d_3c1e_7a55_4d0a_9d2b_0c7f_5f0c_2f11);

/// Properties of an operation that determine its failures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Traits {
    /// Requires no token.
    pub(super) is_open: bool,
    /// Has a body, and so an effect.
    pub(super) takes_body: bool,
    /// Creates a plan and may wait for it.
    pub(super) runs: bool,
    /// Accepts an idempotency key.
    pub(super) idempotent: bool,
}

/// Adds the failures of the operation at `path` to its responses.
pub(super) fn add(path: &str, operation: &mut Operation, traits: Traits) {
    let Traits { is_open, takes_body, runs, idempotent } = traits;
    let decides = path.ends_with("}:approve") || path.ends_with("}:reject");
    let plans = takes_body
        && !path.ends_with(":cancel")
        && !decides
        && !path.starts_with("/api/v1/dead-letters")
        && !path.starts_with("/api/v1/agents");
    let names_model = matches!(path, COMPLETIONS | MESSAGES | RESPONSES | TOKENS | "/v1/models/{model}");
    let has_conversation = names_model || path == "/api/v1/chat";
    let calls_services = takes_body && path != TOKENS
        || path.starts_with("/api/v1/plans")
        || path.starts_with("/api/v1/dead-letters")
        || path.starts_with("/api/v1/agents")
        || path == "/api/v1/budgets"
        || path == "/api/v1/stats"
        || path == "/api/v1/approvals"
        || path.starts_with("/v1/models")
        || path.starts_with("/v1/responses/");
    for (applies, failures) in [
        (!is_open, authentication()),
        (takes_body, body(if has_conversation { MAX_CONVERSATION_REQUEST_BYTES } else { MAX_BODY_BYTES })),
        (plans && !names_model, vec![unknown_agent()]),
        (names_model, vec![unknown_model("gpt-0").into()]),
        (runs, admission()),
        (runs && (path.ends_with("/chat") || names_model), vec![agent_failed()]),
        (path.contains("{response_id}"), vec![no_such_response("resp_0").into()]),
        (
            path.contains("{plan_id}") || path == "/api/v1/budgets",
            vec![rejections::no_such_plan(PlanId::from(PLAN)).into()],
        ),
        (path.contains("{agent_id}"), vec![no_such_agent()]),
        (path.ends_with(":cancel"), vec![rejections::plan_has_ended(PlanStatus::Succeeded).into()]),
        (decides, vec![rejections::does_not_await_approval("commit", TaskStatus::Succeeded).into()]),
        (path.ends_with("}:redrive"), vec![rejections::plan_has_not_ended(PlanStatus::Running).into()]),
        (idempotent, vec![rejections::key_in_use().into(), rejections::key_used_otherwise().into()]),
        (calls_services, vec![planner_unresponsive().into()]),
    ] {
        for failure in failures.into_iter().filter(|_| applies) {
            let status = failure.status.as_str().to_owned();
            let response = describe(ErrorFormat::of(path), &failure);
            operation.responses.responses.entry(status).or_insert(RefOr::T(response));
        }
    }
    if idempotent {
        for response in operation.responses.responses.values_mut() {
            if let RefOr::T(response) = response {
                response.headers.insert(IDEMPOTENT_REPLAYED.as_str().into(), replayed().into());
            }
        }
    }
}

/// The header of a replayed response.
fn replayed() -> Header {
    let schema = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["true"])).build();
    let description =
        "The response of an earlier request with the same key, with the correlation id of that request.";
    HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build()
}

/// Failures of an endpoint that requires authentication.
fn authentication() -> Vec<Failure> {
    vec![invalid_correlation_id(), auth::invalid_token(), auth::misdirected(), internal_error()]
}

fn invalid_correlation_id() -> Failure {
    let headers = HeaderMap::from_iter([(CORRELATION_HEADER, HeaderValue::from_static("42"))]);
    correlation_id(&headers).map_or_else(Into::into, |_| internal_error())
}

/// Failures of an endpoint with a body.
fn body(max_bytes: usize) -> Vec<Failure> {
    vec![auth::foreign(), extract::too_slow(), extract::too_large(max_bytes), extract::wrong_type()]
}

/// The failure of a request for an unknown agent.
fn no_such_agent() -> Failure {
    let known: Vec<AgentName> = BUILTINS.iter().filter_map(|agent| agent.name.parse().ok()).collect();
    let unknown = "reviewer".parse().map(|name: AgentName| rejections::no_such_agent(&name, &known));
    unknown.map_or_else(|_| internal_error(), Failure::from)
}

/// The failure of a plan with an unknown agent.
fn unknown_agent() -> Failure {
    let known =
        BUILTINS.iter().filter_map(|agent| Some(AgentSpec::new(agent.name.parse().ok()?, Vec::new())));
    let unknown = "reviewer"
        .parse()
        .ok()
        .and_then(|name: AgentName| AgentCatalog::new(known, name.clone()).get(&name).err());
    unknown.map_or_else(internal_error, Failure::from)
}

/// Failures of admission and of the deadline.
fn admission() -> Vec<Failure> {
    vec![rejections::too_many_plans(10_000, DEFAULT_RETRY_AFTER).into(), deadline_exceeded(false).into()]
}

/// The failure of a chat whose agent failed.
fn agent_failed() -> Failure {
    let failed = "git_agent".parse().map(|agent| rejections::agent_failed(&agent, 3, "exited with code 3"));
    failed.map_or_else(|_| internal_error(), Failure::from)
}

fn describe(format: ErrorFormat, failure: &Failure) -> Response {
    let schema = match format {
        ErrorFormat::Chat => "ChatResponseV1",
        ErrorFormat::LegacyChat => "LegacyChatResponse",
        ErrorFormat::OpenAi => "OpenAiError",
        ErrorFormat::Anthropic => "AnthropicError",
        // `/mcp` describes itself, and is not in the document.
        ErrorFormat::Problem | ErrorFormat::Mcp => "Problem",
    };
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(schema)))
        .example(serde_json::from_str(&format.body(failure, CorrelationId::from(REQUEST))).ok())
        .build();
    let mut response = ResponseBuilder::new()
        .description(format!("`{}`", failure.error.code))
        .content(format.content_type(), content);
    let has_retry_after =
        matches!(failure.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    if has_retry_after || failure.error.retry_after.is_some() {
        let seconds = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1)).build();
        let header = HeaderBuilder::new()
            .schema(Some(seconds))
            .description(Some("Seconds until the next try."))
            .build();
        response = response.header("Retry-After", header);
    }
    response.build()
}
