//! The OpenAPI document, generated from the handlers and their types.
//!
//! This module adds what every endpoint has in common: failures, with bodies that [`crate::problem`] renders, and the headers of
//! every response.

mod failures;
mod parameters;
mod streams;

use std::sync::LazyLock;

use axum::{http::header, response::IntoResponse};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        HeaderBuilder, RefOr,
        path::Operation,
        security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme},
    },
};

use super::{
    agents,
    anthropic::{
        count_tokens::{self, PATH as TOKENS},
        messages::{self, PATH as MESSAGES},
    },
    approvals, budgets, chat, dead_letters, health,
    openai::{
        completions::{self, PATH as COMPLETIONS},
        models,
    },
    plans,
    responses::{
        create::{self, PATH as RESPONSES},
        stored,
    },
    statistics,
};
use crate::wire::{
    anthropic::{error::AnthropicError, event::MessageEvent},
    error::Problem,
    event::{LiveEventV1, PlanEventV1},
    openai::{chunk::Chunk, error::OpenAiError},
    responses::writer::ResponseEvent,
    schemas,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Phoenix Orchestrator",
        description = "Phoenix is a durable orchestrator for AI agents: it routes a chat or a plan to agents, runs them, and \
            records every step under one correlation id.\n\n\
            **Correlation id.** Every response has the header `X-Correlation-Id`, errors included. Send your own as that header or, \
            for chats and plans, in the body; the body overrides the header.\n\n\
            **Authentication.** When the server has a token, every endpoint but `/livez` and `/readyz` requires \
            `Authorization: Bearer <token>`, or the token in `x-api-key`. Without a token only requests to `localhost` are served.\n\n\
            **Limits.** Bodies are JSON objects of at most 1 MiB, or 3 MiB with a conversation. Unknown fields are rejected, except below `/v1`, and `null` counts as absent \
            for every optional field. A request that is not streamed has a time limit \
            (`gateway.request_timeout_secs`, 120 s by default).\n\n\
            **Idempotency.** A `POST` with the header `Idempotency-Key` takes effect once. A repeated request with the same key gets \
            the same response, byte for byte, with the correlation id of the first request and `Idempotent-Replayed: true`. While \
            the first request runs, the response is 409 (`conflict`) with `Retry-After`; when the key belongs to a different request, \
            it is 422 (`idempotency_mismatch`). A key is valid for 24 hours by default (`planner.idempotency_key_ttl_secs`).\n\n\
            **Errors.** Chats and the endpoints below `/v1` have their own error formats, every other endpoint responds with `application/problem+json` (RFC 9457). \
            `code` is one of a closed table. The HTTP layer itself responds with 403, 405, 408, 413, 414, 415, 421 and 431. \
            `Retry-After` on 409, 429 and 503 is in whole seconds.\n\n\
            **CORS.** Browsers may call the API from the origins in `gateway.cors_allowed_origins`; a `POST` from a page of \
            another origin is 403."
    ),
    paths(
        chat::chat_v1, chat::handle_chat, plans::create_plan, plans::list_plans, plans::dry_run_plan, plans::propose::propose_plan, plans::get_plan,
        plans::cancel_plan, plans::redrive::redrive_plan, approvals::approve_task, approvals::reject_task, approvals::list_approvals, plans::events::plan_events, plans::outputs::task_output, plans::outputs::attempt_stderr,
        dead_letters::list_dead_letters,
        dead_letters::redrive_dead_letters, dead_letters::discard_dead_letters, budgets::list_budgets, statistics::get_statistics, agents::list_agents, agents::get_agent, agents::isolate_agent, agents::restore_agent, completions::create_completion, messages::create_message, count_tokens::count_tokens, create::create_response, stored::get_response, stored::cancel_response, models::list_models, models::get_model, openapi_json, health::health, health::livez, health::readyz
    ),
    components(schemas(Problem, PlanEventV1, LiveEventV1, Chunk, OpenAiError, MessageEvent, AnthropicError, ResponseEvent)),
    security(("bearer" = [])),
    modifiers(&Common)
)]
struct Document;

/// The OpenAPI document.
#[must_use]
pub fn document() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

/// Get the OpenAPI document
#[utoipa::path(
    get, path = "/api/v1/openapi.json", tag = "meta",
    responses((status = 200, content_type = "application/json", body = Object, description = "OpenAPI 3.1"))
)]
pub(crate) async fn openapi_json() -> impl IntoResponse {
    static JSON: LazyLock<String> = LazyLock::new(|| document().to_json().unwrap_or_default());
    ([(header::CONTENT_TYPE, "application/json")], JSON.as_str())
}

/// Adds what every endpoint has in common.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        if let Some(components) = &mut document.components {
            let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
            components.add_security_scheme("bearer", bearer);
            let key = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("x-api-key")));
            components.add_security_scheme("api_key", key);
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
    let answers = matches!(path, COMPLETIONS | MESSAGES | RESPONSES);
    let runs = takes_body
        && (answers
            || matches!(path, "/api/chat" | "/api/v1/chat" | "/api/v1/plans")
            || path.ends_with("}:redrive")
            || path.ends_with(":propose"));
    // A dry run and a count have no effect; a decision about an agent has none when it is repeated.
    let idempotent =
        takes_body && !path.ends_with(":dryRun") && path != TOKENS && !path.starts_with("/api/v1/agents");
    let traits = failures::Traits { is_open, takes_body, runs, idempotent };
    failures::add(path, operation, traits);
    let prefer = runs && !answers && path != "/api/chat" && !path.ends_with(":propose");
    let accepts = parameters::Accepts {
        id: !is_open,
        key: idempotent,
        disconnect: runs && !answers,
        prefer,
        budget: answers,
    };
    parameters::add(path, operation, accepts);
    streams::add(path, operation);
}

fn correlation_header() -> utoipa::openapi::Header {
    let uuid = schemas::uuid().build();
    HeaderBuilder::new().schema(Some(uuid)).description(Some("Correlation id of the request.")).build()
}
