//! Is it alive, can it take work, and who answers chats: `/livez`, `/readyz`, `/health`.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    peers::{Gateway, Serving},
    problem::retry_after,
};

/// How long a service has to say that it can take work.
const CHECK_LIMIT: Duration = Duration::from_secs(1);

/// Who answers chats.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HealthResponse {
    /// Always `ok`; what is behind the gateway is told by `/readyz`.
    #[schema(examples("ok"))]
    status: &'static str,
    /// The language-model provider: its name, `offline`, or `auto` while only a chat can tell.
    #[schema(examples("openai"))]
    llm_provider: &'static str,
    /// Its model.
    #[schema(examples("gpt-4o"))]
    llm_model: String,
}

/// Alive.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LivezResponse {
    /// Always `ok`.
    #[schema(examples("ok"))]
    status: &'static str,
}

/// Whether work can be taken.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReadyzResponse {
    /// The answer.
    status: ReadyStatus,
    /// Each service behind the gateway.
    checks: Checks,
    /// Those that do not answer, or say that they can't take work.
    not_ready: Vec<&'static str>,
}

/// Whether work can be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReadyStatus {
    /// Everything works.
    Ready,
    /// Chats run; agents' health can't be told.
    Degraded,
    /// Chats would fail.
    NotReady,
}

/// Each service behind the gateway.
#[derive(Debug, Serialize, ToSchema)]
struct Checks {
    planner: Check,
    executor: Check,
    health: Check,
}

/// What one service says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Check {
    Ok,
    NotReady,
}

impl From<bool> for Check {
    fn from(serving: bool) -> Self {
        if serving { Self::Ok } else { Self::NotReady }
    }
}

/// Which language model answers
#[utoipa::path(
    get, path = "/health", tag = "health",
    responses((status = 200, body = HealthResponse, description = "The gateway is there"))
)]
pub(crate) async fn health(State(gateway): State<Gateway>) -> Json<HealthResponse> {
    let llm = &gateway.llm;
    Json(HealthResponse { status: "ok", llm_provider: llm.provider, llm_model: llm.model.clone() })
}

/// Is the process alive?
#[utoipa::path(
    get, path = "/livez", tag = "health", security(()),
    responses((status = 200, body = LivezResponse, description = "It is"))
)]
pub(crate) async fn livez() -> Json<LivezResponse> {
    Json(LivezResponse { status: "ok" })
}

/// Can it take work?
///
/// Asks every service behind it, all at once, and waits at most a second. Chats run without the health service, so its
/// absence alone is `degraded`, not `not_ready`.
#[utoipa::path(
    get, path = "/readyz", tag = "health", security(()),
    responses(
        (status = 200, body = ReadyzResponse, description = "It can: `ready` or `degraded`", example = json!({
            "status": "ready", "checks": {"planner": "ok", "executor": "ok", "health": "ok"}, "not_ready": []
        })),
        (status = 503, body = ReadyzResponse, description = "It can't", example = json!({
            "status": "not_ready",
            "checks": {"planner": "ok", "executor": "not_ready", "health": "ok"},
            "not_ready": ["executor"]
        })),
    )
)]
pub(crate) async fn readyz(State(gateway): State<Gateway>) -> Response {
    let readiness = ReadyzResponse::from(gateway.serving(CHECK_LIMIT).await);
    match readiness.status {
        ReadyStatus::Ready | ReadyStatus::Degraded => Json(readiness).into_response(),
        ReadyStatus::NotReady => {
            let headers = [(header::RETRY_AFTER, retry_after(None))];
            (StatusCode::SERVICE_UNAVAILABLE, headers, Json(readiness)).into_response()
        }
    }
}

impl From<Serving> for ReadyzResponse {
    fn from(Serving { planner, executor, health }: Serving) -> Self {
        let status = match (planner && executor, health) {
            (true, true) => ReadyStatus::Ready,
            (true, false) => ReadyStatus::Degraded,
            (false, _) => ReadyStatus::NotReady,
        };
        let checks = [("planner", planner), ("executor", executor), ("health", health)];
        Self {
            status,
            not_ready: checks.iter().filter(|(_, serving)| !serving).map(|(name, _)| *name).collect(),
            checks: Checks { planner: planner.into(), executor: executor.into(), health: health.into() },
        }
    }
}
