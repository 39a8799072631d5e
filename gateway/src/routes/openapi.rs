//! The OpenAPI document, made from the handlers and their types.
//!
//! What every endpoint has in common is added here: how each failure looks, with a body that [`crate::problem`] itself
//! wrote, and the headers of every answer.

use std::{sync::LazyLock, time::Duration};

use axum::{
    http::{StatusCode, header},
    response::IntoResponse,
};
use phoenix_domain::{CorrelationId, OrchestratorError, OrchestratorErrorCode};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        ContentBuilder, HeaderBuilder, ObjectBuilder, Ref, RefOr, Required, Response, ResponseBuilder,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn},
        schema::{KnownFormat, SchemaFormat, Type},
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};
use uuid::Uuid;

use super::{agents, chat, dead_letters, health, plans};
use crate::problem::{Failure, Problem, Shape};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Phoenix Orchestrator",
        description = "Send a chat; Phoenix decides which agent runs, runs it safely, and lets you see what happened from its \
            correlation id alone.\n\n\
            **Correlation id.** Every answer carries `X-Correlation-Id`, also when it refuses. Send your own as that header or, \
            for chats, in the body; the body wins.\n\n\
            **Authentication.** When the server has a token, everything under `/api` and `/health` needs \
            `Authorization: Bearer <token>`. Without one only requests addressed to this machine (`localhost`) are served.\n\n\
            **Limits.** Bodies are JSON objects of at most 1 MiB; unknown fields are refused. A request has a time limit \
            (`gateway.request_timeout_secs`, 120 s unless configured).\n\n\
            **Sent twice.** A `POST` with the header `Idempotency-Key` counts once: the same request with the same key gets the \
            same answer, 409 with `Retry-After` while the first runs, and 422 when the key was used for a different request. A key \
            counts for 24 hours unless configured (`planner.idempotency_key_ttl_secs`).\n\n\
            **Failures.** Chats answer in their own shape, everything else as `application/problem+json` (RFC 9457). `code` comes \
            from one closed table. 405, 408, 413, 415 and 421 are answers of the HTTP layer itself. `Retry-After` on 409, 429 and 503 \
            is in whole seconds.\n\n\
            **Other origins.** Browsers may call the API from other origins only when `gateway.cors_allowed_origins` names them."
    ),
    paths(
        chat::chat_v1, chat::handle_chat, plans::create_plan, plans::list_plans, plans::dry_run_plan, plans::get_plan,
        plans::cancel_plan, plans::redrive::redrive_plan, plans::events::plan_events, dead_letters::list_dead_letters,
        dead_letters::redrive_dead_letters, dead_letters::discard_dead_letters, agents::list_agents, openapi_json, health::health, health::livez, health::readyz
    ),
    components(schemas(Problem)),
    security(("bearer" = [])),
    modifiers(&Common)
)]
struct Document;

/// The document itself.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// This document
#[utoipa::path(
    get, path = "/api/v1/openapi.json", tag = "meta",
    responses((status = 200, content_type = "application/json", body = Object, description = "OpenAPI 3.1"))
)]
pub(crate) async fn openapi_json() -> impl IntoResponse {
    static JSON: LazyLock<String> = LazyLock::new(|| document().to_json().unwrap_or_default());
    ([(header::CONTENT_TYPE, "application/json")], JSON.as_str())
}

/// What every endpoint has in common.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        if let Some(components) = &mut document.components {
            let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
            components.add_security_scheme("bearer", bearer);
        }
        for (path, item) in &mut document.paths.paths {
            for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
                add_failures(path, operation);
                for response in operation.responses.responses.values_mut() {
                    if let RefOr::T(response) = response {
                        response.headers.insert("X-Correlation-Id".into(), correlation_header().into());
                    }
                }
            }
        }
    }
}

fn add_failures(path: &str, operation: &mut Operation) {
    let is_open = matches!(path, "/livez" | "/readyz");
    let takes_body = operation.request_body.is_some();
    let runs = takes_body
        && (matches!(path, "/api/chat" | "/api/v1/chat" | "/api/v1/plans") || path.ends_with("}:redrive"));
    let waits = runs && path.ends_with("/chat");
    let plans = takes_body && !path.ends_with(":cancel") && !path.starts_with("/api/v1/dead-letters");
    let names_plan = path.contains("{plan_id}");
    let asks_others = takes_body
        || path.starts_with("/api/v1/plans")
        || path.starts_with("/api/v1/dead-letters")
        || path == "/api/v1/agents";
    // A dry run has no effect that could be had twice.
    let once = takes_body && !path.ends_with(":dryRun");
    for (applies, failures) in [
        (!is_open, guarded()),
        (takes_body, body()),
        (plans, refused()),
        (runs, accepted()),
        (waits, ended()),
        (names_plan, named()),
        (path.ends_with(":cancel"), over()),
        (path.ends_with("}:redrive"), redriven()),
        (once, repeated()),
        (asks_others, asked()),
    ] {
        for failure in failures.into_iter().filter(|_| applies) {
            let status = failure.status.as_str().to_owned();
            let response = describe(Shape::of(path), &failure);
            operation.responses.responses.entry(status).or_insert(RefOr::T(response));
        }
    }
    let wishes = [once.then(key), runs.then(on_disconnect), (runs && path != "/api/chat").then(prefer)];
    let wishes = wishes.into_iter().flatten().map(RefOr::T).collect::<Vec<_>>();
    if !wishes.is_empty() {
        operation.parameters.get_or_insert_default().extend(wishes);
    }
}

/// What the caller calls its request.
fn key() -> Parameter {
    let description = "Names the request: sent again with the same key it counts once. Visible ASCII.";
    let schema = text().min_length(Some(1)).max_length(Some(255));
    parameter("Idempotency-Key", ParameterIn::Header, description, schema)
}

/// What the caller's going away means.
fn on_disconnect() -> Parameter {
    let description =
        "What becomes of the plan when a caller that waits goes away: `cancel` unless said otherwise.";
    let schema = text().enum_values(Some(["cancel", "continue"]));
    parameter("on_disconnect", ParameterIn::Query, description, schema)
}

/// When the answer is to come.
fn prefer() -> Parameter {
    let description = "`respond-async`: answer 202 as soon as the plan is durable.";
    parameter("Prefer", ParameterIn::Header, description, text())
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn parameter(name: &str, place: ParameterIn, description: &str, schema: ObjectBuilder) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema))
        .build()
}

/// What an endpoint behind the token may refuse with.
fn guarded() -> Vec<Failure> {
    use OrchestratorErrorCode as Code;
    vec![
        error(
            Code::ValidationFailed,
            "`x-correlation-id` must be a UUID such as 0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f",
        ),
        error(Code::Unauthenticated, "the token is not valid"),
        http(
            StatusCode::MISDIRECTED_REQUEST,
            Code::ValidationFailed,
            "without ORCH_API_TOKEN only requests to localhost are served",
        ),
        error(Code::Internal, "something went wrong on our side"),
    ]
}

/// What an endpoint with a body may refuse with.
fn body() -> Vec<Failure> {
    use OrchestratorErrorCode as Code;
    vec![
        http(StatusCode::REQUEST_TIMEOUT, Code::Timeout, "the body took too long to arrive"),
        http(StatusCode::PAYLOAD_TOO_LARGE, Code::ValidationFailed, "the body is larger than 1048576 bytes"),
        http(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::ValidationFailed, "the body must be JSON"),
    ]
}

/// Why no plan can be made.
fn refused() -> Vec<Failure> {
    vec![error(OrchestratorErrorCode::PlanningFailed, "no agent is called `reviewer`")]
}

/// Why a request that is sent again is not answered again.
fn repeated() -> Vec<Failure> {
    use OrchestratorErrorCode as Code;
    let running = "a request with this idempotency key is still running; ask again shortly";
    vec![
        OrchestratorError::new(Code::Conflict, running).with_retry_after(Duration::from_secs(1)).into(),
        error(Code::PlanningFailed, "the idempotency key was used before, for a different request"),
    ]
}

/// Why a plan is not run.
fn accepted() -> Vec<Failure> {
    use OrchestratorErrorCode as Code;
    vec![
        error(Code::Overloaded, "10000 plans are in flight; try again shortly"),
        error(Code::Timeout, "the request did not end within its time limit"),
    ]
}

/// How the plan of a chat may end.
fn ended() -> Vec<Failure> {
    vec![error(OrchestratorErrorCode::ExecutionFailed, "`git_agent` failed: not a git repository")]
}

/// What an endpoint that is about one plan may refuse with.
fn named() -> Vec<Failure> {
    let message = "there is no plan 0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f";
    vec![error(OrchestratorErrorCode::NotFound, message)]
}

/// Why a plan can't be changed.
fn over() -> Vec<Failure> {
    vec![error(OrchestratorErrorCode::Conflict, "the plan has ended already: succeeded")]
}

/// Why a plan can't be taken up again.
fn redriven() -> Vec<Failure> {
    vec![error(OrchestratorErrorCode::Conflict, "the plan has not ended yet: it is running")]
}

/// What calling another service may end with.
fn asked() -> Vec<Failure> {
    vec![error(OrchestratorErrorCode::AgentUnavailable, "`git_agent` is unhealthy; try again later")]
}

fn error(code: OrchestratorErrorCode, message: &str) -> Failure {
    OrchestratorError::new(code, message).into()
}

fn http(status: StatusCode, code: OrchestratorErrorCode, message: &str) -> Failure {
    Failure::http(status, OrchestratorError::new(code, message))
}

fn describe(shape: Shape, failure: &Failure) -> Response {
    let schema = match shape {
        Shape::Chat => "ChatResponseV1",
        Shape::LegacyChat => "LegacyChatResponse",
        Shape::Problem => "Problem",
    };
    let id = CorrelationId::from(Uuid::from_u128(0x4f9d_3c1e_7a55_4d0a_9d2b_0c7f_5f0c_2f11));
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name(schema)))
        .example(serde_json::from_str(&shape.body(failure, id)).ok())
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

fn correlation_header() -> utoipa::openapi::Header {
    let uuid = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)))
        .build();
    HeaderBuilder::new().schema(Some(uuid)).description(Some("The request's name everywhere.")).build()
}
