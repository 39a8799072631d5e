//! Every route and every layer, at a glance.

use std::sync::Arc;

use axum::{
    Router,
    http::StatusCode,
    middleware::{from_fn, from_fn_with_state},
    routing::{get, post},
};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use tower::ServiceBuilder;

use crate::{
    GatewayConfig, ServeError, auth, correlation, headers,
    metrics::Meters,
    observe,
    peers::Gateway,
    problem::Failure,
    routes::{agents, chat, dead_letters, health, openapi, page, plans},
};

/// Everything the gateway answers.
///
/// # Errors
/// When a setting can't be used.
pub(crate) fn build(config: &GatewayConfig, gateway: Gateway) -> Result<Router, ServeError> {
    let token: auth::Token = config.token().cloned().map(Arc::new);
    // The first layer is the first to see a request. All are one layer to the router, which copies whatever is below each of
    // its layers for every request.
    let layers = ServiceBuilder::new()
        .layer(from_fn(headers::harden))
        .layer(from_fn_with_state(config.request_timeout, correlation::correlate))
        .option_layer(headers::cors(&config.cors_allowed_origins)?)
        .layer(from_fn_with_state(token, auth::require_token))
        .layer(from_fn_with_state(Meters::new(), observe::observe));
    let router = Router::new()
        .route("/api/v1/chat", post(chat::chat_v1))
        .route("/api/chat", post(chat::handle_chat))
        .route("/api/v1/plans", post(plans::create_plan))
        .route("/api/v1/plans", get(plans::list_plans))
        .route("/api/v1/plans:dryRun", post(plans::dry_run_plan))
        .route("/api/v1/plans/{plan_id}", get(plans::get_plan))
        // `{plan_id}:cancel` and `{plan_id}:redrive`: a segment is matched as a whole.
        .route("/api/v1/plans/{plan_id}", post(plans::act_on_plan))
        .route("/api/v1/plans/{plan_id}/events", get(plans::events::plan_events))
        .route("/api/v1/dead-letters", get(dead_letters::list_dead_letters))
        .route("/api/v1/dead-letters:redrive", post(dead_letters::redrive_dead_letters))
        .route("/api/v1/dead-letters:discard", post(dead_letters::discard_dead_letters))
        .route("/api/v1/agents", get(agents::list_agents))
        .route("/api/v1/openapi.json", get(openapi::openapi_json))
        .route("/health", get(health::health))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/", get(page::index))
        .route("/page/{file}", get(page::file))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(layers)
        .with_state(gateway);
    Ok(router)
}

pub(crate) async fn unknown_path() -> Failure {
    let message = "there is nothing at this path; GET /api/v1/openapi.json lists what there is";
    OrchestratorError::new(OrchestratorErrorCode::NotFound, message).into()
}

async fn wrong_method() -> Failure {
    let message = "this path does not have this method; the header `Allow` lists those it has";
    Failure::invalid(StatusCode::METHOD_NOT_ALLOWED, message)
}
