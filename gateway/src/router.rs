//! Every route and every layer.

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    http::{Uri, request, uri::PathAndQuery},
    middleware::{from_fn, from_fn_with_state},
    response::IntoResponse,
    routing::{MethodRouter, any, get, post},
};
use phoenix_platform::connections::RequestBody;
use tower::{ServiceBuilder, ServiceExt, util::MapRequest};

use crate::{
    auth,
    bodies::BodyBudget,
    clients::Gateway,
    config::GatewayConfig,
    correlation,
    error::ServeError,
    headers,
    metrics::RequestMetrics,
    observe,
    problem::{unknown_path, wrong_method},
    rejections::Rejections,
    request_scope::RequestSettings,
    routes::{
        agents::{self, segment::AgentSegment},
        anthropic::{count_tokens, messages},
        approvals, budgets, chat, dead_letters, health, mcp,
        openai::{completions, models},
        openapi, page,
        plans::{self, segment::PlanSegment},
        responses::{create, stored},
        statistics,
    },
};

/// A request of a connection.
type Received = request::Request<RequestBody>;

/// The service of the gateway.
pub(crate) type App = MapRequest<Router, fn(Received) -> Received>;

/// Builds the service of the gateway.
///
/// # Errors
/// When a setting is invalid.
pub(crate) fn build(config: &GatewayConfig, gateway: Gateway) -> Result<App, ServeError> {
    let router = assemble(config, routes(&gateway), gateway)?;
    Ok(router.map_request(plain_path as fn(Received) -> Received))
}

/// Every path with its methods. A path is open without authentication only when [`auth`] lists it.
fn routes(gateway: &Gateway) -> Vec<(&'static str, MethodRouter<Gateway>)> {
    vec![
        ("/api/v1/chat", post(chat::chat_v1)),
        ("/api/chat", post(chat::handle_chat)),
        ("/api/v1/plans", post(plans::create_plan).get(plans::list_plans)),
        ("/api/v1/plans:dryRun", post(plans::dry_run_plan)),
        ("/api/v1/plans:propose", post(plans::propose::propose_plan)),
        ("/api/v1/plans/{plan_id}", plan_or_action(gateway)),
        ("/api/v1/plans/{plan_id}/events", get(plans::events::plan_events)),
        ("/api/v1/plans/{plan_id}/tasks/{key}/output", get(plans::outputs::task_output)),
        ("/api/v1/plans/{plan_id}/tasks/{key}/attempts/{number}/stderr", get(plans::outputs::attempt_stderr)),
        ("/api/v1/dead-letters", get(dead_letters::list_dead_letters)),
        ("/api/v1/dead-letters:redrive", post(dead_letters::redrive_dead_letters)),
        ("/api/v1/dead-letters:discard", post(dead_letters::discard_dead_letters)),
        ("/api/v1/approvals", get(approvals::list_approvals)),
        ("/api/v1/budgets", get(budgets::list_budgets)),
        ("/api/v1/stats", get(statistics::get_statistics)),
        ("/api/v1/agents", get(agents::list_agents)),
        ("/api/v1/agents/{agent_id}", agent_or_action(gateway)),
        ("/api/v1/openapi.json", get(openapi::openapi_json)),
        ("/v1/chat/completions", post(completions::create_completion)),
        ("/v1/responses", post(create::create_response)),
        ("/v1/responses/{response_id}", get(stored::get_response)),
        ("/v1/responses/{response_id}/cancel", post(stored::cancel_response)),
        ("/v1/messages", post(messages::create_message)),
        ("/v1/messages/count_tokens", post(count_tokens::count_tokens)),
        ("/v1/models", get(models::list_models)),
        ("/v1/models/{*model}", get(models::get_model)),
        (mcp::PATH, post(mcp::post_message)),
        ("/health", get(health::health)),
        ("/livez", get(health::livez)),
        ("/readyz", get(health::readyz)),
        ("/", get(page::index)),
        ("/plans", get(page::index)),
        ("/plans/{plan_id}", get(page::index)),
        ("/agents", get(page::index)),
        ("/agents/{agent_id}", get(page::index)),
        ("/approvals", get(page::index)),
        ("/dead-letters", get(page::index)),
        ("/overview", get(page::index)),
        ("/docs", get(page::index)),
        ("/page/{file}", get(page::file)),
    ]
}

/// `{plan_id}`, and `{plan_id}:` with `cancel`, `redrive`, `approve` or `reject`. The router matches whole segments, so the action
/// after the colon is dispatched here; each has its own methods.
fn plan_or_action(gateway: &Gateway) -> MethodRouter<Gateway> {
    let methods = [
        get(plans::get_plan),
        post(plans::cancel_plan),
        post(plans::redrive::redrive_plan),
        post(approvals::approve_task),
        post(approvals::reject_task),
    ];
    let [plan, cancel, redrive, approve, reject] =
        methods.map(|methods| methods.fallback(wrong_method).with_state::<()>(gateway.clone()));
    any(move |segment: PlanSegment, request: Request| async move {
        let methods = match segment.action() {
            None => plan,
            Some("cancel") => cancel,
            Some("redrive") => redrive,
            Some("approve") => approve,
            Some("reject") => reject,
            Some(_) => return unknown_path(request.uri().clone()).await.into_response(),
        };
        methods.oneshot(request).await.unwrap_or_else(|never| match never {})
    })
}

/// `{agent_id}`, `{agent_id}:isolate` and `{agent_id}:restore`, as [`plan_or_action`].
fn agent_or_action(gateway: &Gateway) -> MethodRouter<Gateway> {
    let methods = [get(agents::get_agent), post(agents::isolate_agent), post(agents::restore_agent)];
    let [agent, isolate, restore] =
        methods.map(|methods| methods.fallback(wrong_method).with_state::<()>(gateway.clone()));
    any(move |segment: AgentSegment, request: Request| async move {
        let methods = match segment.action() {
            None => agent,
            Some("isolate") => isolate,
            Some("restore") => restore,
            Some(_) => return unknown_path(request.uri().clone()).await.into_response(),
        };
        methods.oneshot(request).await.unwrap_or_else(|never| match never {})
    })
}

fn assemble(
    config: &GatewayConfig,
    routes: Vec<(&'static str, MethodRouter<Gateway>)>,
    gateway: Gateway,
) -> Result<Router, ServeError> {
    let guard = auth::Guard::new(config.token().cloned().map(Arc::new), &config.cors_allowed_origins);
    let cors = headers::cors(&config.cors_allowed_origins)?;
    // The first layer sees a request first. They are one layer of the router, because the router clones everything below each
    // of its layers for every request.
    let layers = ServiceBuilder::new()
        .layer(from_fn(headers::security_headers))
        .layer(from_fn_with_state(
            (
                RequestSettings { timeout: config.request_timeout, is_tls: config.tls.is_some() },
                Rejections::default(),
                BodyBudget::new(),
            ),
            correlation::correlate,
        ))
        .option_layer(cors.map(|cors| from_fn_with_state(cors, headers::apply_cors)))
        .layer(from_fn_with_state(guard, auth::require_token))
        .layer(from_fn_with_state(RequestMetrics::new(), observe::observe));
    let router =
        routes.into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    Ok(router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(layers)
        .with_state(gateway))
}

/// Decodes characters that need no encoding in a path: `/api/v1/plans%3AdryRun` is `/api/v1/plans:dryRun`.
fn plain_path(mut request: Received) -> Received {
    if let Some(uri) = decoded(request.uri()) {
        *request.uri_mut() = uri;
    }
    request
}

/// `uri` with letters, digits, `-`, `.`, `_`, `~` and `:` of its path decoded; `None` when none of them is encoded.
fn decoded(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    if !path.contains('%') {
        return None;
    }
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        plain.push_str(before);
        let byte = after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.map(char::from).filter(|c| c.is_ascii_alphanumeric() || "-._~:".contains(*c)) {
            Some(c) => {
                plain.push(c);
                rest = &after[2..];
            }
            None => {
                plain.push('%');
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    if let Some(query) = uri.query() {
        plain.push('?');
        plain.push_str(query);
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::from_maybe_shared(plain).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests;
