//! Liveness, readiness and the configured model: `/livez`, `/readyz`, `/health`.

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
    clients::{Gateway, Serving},
    problem::retry_after,
};

/// Time limit of a readiness check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// The language model that answers chats.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct HealthResponse {
    /// Always `ok`; `/readyz` checks the services behind the gateway.
    #[schema(examples("ok"))]
    status: &'static str,
    /// Provider of the language model: its name, `offline`, or `auto` when it is chosen per chat.
    #[schema(examples("openai"))]
    llm_provider: String,
    /// Name of the model.
    #[schema(examples("gpt-6-luna"))]
    llm_model: String,
}

/// Liveness of the process.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LivezResponse {
    /// Always `ok`.
    #[schema(examples("ok"))]
    status: &'static str,
}

/// Readiness of the gateway.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReadyzResponse {
    /// Readiness as a whole.
    status: ReadyStatus,
    /// Readiness of each service.
    checks: Checks,
    /// Services that are not ready.
    not_ready: Vec<&'static str>,
}

/// Readiness as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReadyStatus {
    /// Every service is ready.
    Ready,
    /// Only the health service is not ready; chats run.
    Degraded,
    /// Chats fail.
    NotReady,
}

/// Readiness of each service.
#[derive(Debug, Serialize, ToSchema)]
struct Checks {
    planner: Check,
    executor: Check,
    health: Check,
}

/// Readiness of one service.
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

/// Get the configured language model
#[utoipa::path(
    get, path = "/health", tag = "health",
    responses((status = 200, body = HealthResponse, description = "The language model"))
)]
pub(crate) async fn health(State(gateway): State<Gateway>) -> Json<HealthResponse> {
    let llm = &gateway.llm;
    Json(HealthResponse { status: "ok", llm_provider: llm.provider.clone(), llm_model: llm.model.clone() })
}

/// Check liveness
#[utoipa::path(
    get, path = "/livez", tag = "health", security(()),
    responses((status = 200, body = LivezResponse, description = "The process is alive"))
)]
pub(crate) async fn livez() -> Json<LivezResponse> {
    Json(LivezResponse { status: "ok" })
}

/// Check readiness
///
/// Checks every service behind the gateway concurrently, for at most a second. Chats run without the health service, so its
/// absence alone is `degraded`, not `not_ready`.
#[utoipa::path(
    get, path = "/readyz", tag = "health", security(()),
    responses(
        (status = 200, body = ReadyzResponse, description = "`ready` or `degraded`", example = json!({
            "status": "ready", "checks": {"planner": "ok", "executor": "ok", "health": "ok"}, "not_ready": []
        })),
        (status = 503, body = ReadyzResponse, description = "`not_ready`", example = json!({
            "status": "not_ready",
            "checks": {"planner": "ok", "executor": "not_ready", "health": "ok"},
            "not_ready": ["executor"]
        })),
    )
)]
pub(crate) async fn readyz(State(gateway): State<Gateway>) -> Response {
    let readiness = ReadyzResponse::from(gateway.serving(CHECK_TIMEOUT).await);
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
