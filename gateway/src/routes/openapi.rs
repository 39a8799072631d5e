//! The OpenAPI document, made from the handlers and their types.
//!
//! What every endpoint has in common is added here: how each failure looks, with a body that [`crate::problem`] itself
//! wrote, and the headers of every answer.

mod failures;
mod parameters;
pub(crate) mod schemas;
mod streams;

use std::sync::LazyLock;

use axum::{http::header, response::IntoResponse};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        HeaderBuilder, RefOr,
        path::Operation,
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};

use super::{agents, chat, dead_letters, health, plans};
use crate::problem::Problem;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Phoenix Orchestrator",
        description = "Send a chat; Phoenix decides which agent runs, runs it safely, and lets you see what happened from its \
            correlation id alone.\n\n\
            **Correlation id.** Every answer carries `X-Correlation-Id`, also when it refuses. Send your own as that header or, \
            for chats, in the body; the body wins.\n\n\
            **Authentication.** When the server has a token, everything but `/livez` and `/readyz` needs \
            `Authorization: Bearer <token>`. Without one only requests addressed to this machine (`localhost`) are served.\n\n\
            **Limits.** Bodies are JSON objects of at most 1 MiB; unknown fields are refused, and `null` is as good as absent \
            for every optional one. A request has a time limit \
            (`gateway.request_timeout_secs`, 120 s unless configured).\n\n\
            **Sent twice.** A `POST` with the header `Idempotency-Key` counts once: the same request with the same key gets the \
            same answer, byte for byte, with the correlation id of the first and `Idempotent-Replayed: true`; 409 with `Retry-After` while the first runs, and 422 when the key was used for a different request. A key \
            counts for 24 hours unless configured (`planner.idempotency_key_ttl_secs`).\n\n\
            **Failures.** Chats answer in their own shape, everything else as `application/problem+json` (RFC 9457). `code` comes \
            from one closed table. 403, 405, 408, 413, 414, 415, 421 and 431 are answers of the HTTP layer itself. `Retry-After` on 409, 429 and 503 \
            is in whole seconds.\n\n\
            **Other origins.** Browsers may call the API from other origins only when `gateway.cors_allowed_origins` names them; \
            any other page that sends a `POST` is answered 403."
    ),
    paths(
        chat::chat_v1, chat::handle_chat, plans::create_plan, plans::list_plans, plans::dry_run_plan, plans::get_plan,
        plans::cancel_plan, plans::redrive::redrive_plan, plans::events::plan_events, plans::whole::task_output, plans::whole::attempt_stderr,
        dead_letters::list_dead_letters,
        dead_letters::redrive_dead_letters, dead_letters::discard_dead_letters, agents::list_agents, openapi_json, health::health, health::livez, health::readyz
    ),
    components(schemas(Problem, plans::events::PlanEventV1)),
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
                describe(path, operation);
                for response in operation.responses.responses.values_mut() {
                    if let RefOr::T(response) = response {
                        response.headers.insert("X-Correlation-Id".into(), correlation_header().into());
                    }
                }
            }
        }
    }
}

fn describe(path: &str, operation: &mut Operation) {
    let is_open = matches!(path, "/livez" | "/readyz");
    let takes_body = operation.request_body.is_some();
    let runs = takes_body
        && (matches!(path, "/api/chat" | "/api/v1/chat" | "/api/v1/plans") || path.ends_with("}:redrive"));
    // A dry run has no effect that could be had twice.
    let once = takes_body && !path.ends_with(":dryRun");
    let traits = failures::Traits { is_open, takes_body, runs, once };
    failures::add(path, operation, traits);
    let prefer = runs && path != "/api/chat";
    parameters::add(path, operation, parameters::Takes { id: !is_open, key: once, disconnect: runs, prefer });
    streams::add(path, operation);
}

fn correlation_header() -> utoipa::openapi::Header {
    let uuid = schemas::uuid().build();
    HeaderBuilder::new().schema(Some(uuid)).description(Some("The request's name everywhere.")).build()
}
