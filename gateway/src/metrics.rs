//! Metrics of the gateway.

use std::time::Duration;

use axum::{
    extract::{MatchedPath, Request},
    http::Method,
};
use metrics::{Histogram, histogram};
use phoenix_platform::metrics::Metric;

/// Requests to `POST /api/chat` that passed authentication, valid or not.
pub const CHAT_LEGACY: Metric = Metric::counter(
    "http_requests_total_chat_legacy",
    "Requests to POST /api/chat that passed authentication, valid or not.",
);
/// Requests to `POST /api/v1/chat` that passed authentication, valid or not.
pub const CHAT_V1: Metric = Metric::counter(
    "http_requests_total_chat_v1",
    "Requests to POST /api/v1/chat that passed authentication, valid or not.",
);
/// Requests to `GET /api/v1/agents` that passed authentication.
pub const AGENTS_V1: Metric = Metric::counter(
    "http_requests_total_agents_v1",
    "Requests to GET /api/v1/agents that passed authentication.",
);
/// Requests to `GET /health` that passed authentication.
pub const HEALTH: Metric =
    Metric::counter("http_requests_total_health", "Requests to GET /health that passed authentication.");
/// Duration of requests, by endpoint and HTTP status.
pub const REQUEST_SECONDS: Metric = Metric::histogram(
    "phoenix_http_request_duration_seconds",
    "Duration of HTTP requests in seconds, by endpoint and status; 499 when the caller left before the response, streams up to their first byte.",
)
.labelled();

/// Duration of requests without the time of agents.
pub const OVERHEAD_SECONDS: Metric = Metric::histogram(
    "phoenix_overhead_seconds",
    "Duration in seconds of synchronous chats and plans that succeeded, without the time during which their agents worked.",
);

/// Every metric of the gateway.
pub const METRICS: &[Metric] = &[CHAT_LEGACY, CHAT_V1, AGENTS_V1, HEALTH, REQUEST_SECONDS, OVERHEAD_SECONDS];

/// Handles of metrics, looked up once. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct RequestMetrics {
    overhead: Histogram,
}

impl RequestMetrics {
    /// The handles. Their metrics exist from now on.
    pub(crate) fn new() -> Self {
        Self { overhead: histogram!(OVERHEAD_SECONDS.name) }
    }

    /// Records a request that took `elapsed`, of which agents worked for `agent_time`.
    pub(crate) fn record_overhead(&self, elapsed: Duration, agent_time: Duration) {
        self.overhead.record(elapsed.saturating_sub(agent_time));
    }
}

/// Endpoint of a request: a label from a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    ChatV1,
    ChatLegacy,
    AgentsV1,
    ApprovalList,
    BudgetList,
    Statistics,
    AgentGet,
    AgentIsolate,
    AgentRestore,
    PlanCreate,
    PlanList,
    PlanDryRun,
    PlanPropose,
    PlanGet,
    PlanCancel,
    PlanRedrive,
    PlanApprove,
    PlanReject,
    PlanEvents,
    TaskOutput,
    AttemptStderr,
    DeadLetterList,
    DeadLetterRedrive,
    DeadLetterDiscard,
    Health,
    Completion,
    Message,
    TokenCount,
    ResponseCreate,
    ResponseGet,
    ResponseCancel,
    ModelList,
    ModelGet,
    Mcp,
    OpenApi,
    Probe,
    Page,
    /// An unknown path, or a known one with a method it does not have.
    Unknown,
}

impl Endpoint {
    /// The endpoint that `request` was routed to.
    pub(crate) fn of(request: &Request) -> Self {
        let Some(path) = request.extensions().get::<MatchedPath>() else { return Self::Unknown };
        let read = matches!(*request.method(), Method::GET | Method::HEAD);
        let write = *request.method() == Method::POST;
        match path.as_str() {
            "/api/v1/chat" if write => Self::ChatV1,
            "/api/chat" if write => Self::ChatLegacy,
            "/api/v1/agents" if read => Self::AgentsV1,
            "/api/v1/approvals" if read => Self::ApprovalList,
            "/api/v1/budgets" if read => Self::BudgetList,
            "/api/v1/stats" if read => Self::Statistics,
            "/api/v1/agents/{agent_id}" => match request.uri().path().rsplit_once(':') {
                None if read => Self::AgentGet,
                Some((_, "isolate")) if write => Self::AgentIsolate,
                Some((_, "restore")) if write => Self::AgentRestore,
                _ => Self::Unknown,
            },
            "/api/v1/plans" if write => Self::PlanCreate,
            "/api/v1/plans" if read => Self::PlanList,
            "/api/v1/plans:dryRun" if write => Self::PlanDryRun,
            "/api/v1/plans:propose" if write => Self::PlanPropose,
            "/api/v1/plans/{plan_id}" => match request.uri().path().rsplit_once(':') {
                None if read => Self::PlanGet,
                Some((_, "cancel")) if write => Self::PlanCancel,
                Some((_, "redrive")) if write => Self::PlanRedrive,
                Some((_, "approve")) if write => Self::PlanApprove,
                Some((_, "reject")) if write => Self::PlanReject,
                _ => Self::Unknown,
            },
            "/api/v1/plans/{plan_id}/events" if read => Self::PlanEvents,
            "/api/v1/plans/{plan_id}/tasks/{key}/output" if read => Self::TaskOutput,
            "/api/v1/plans/{plan_id}/tasks/{key}/attempts/{number}/stderr" if read => Self::AttemptStderr,
            "/api/v1/dead-letters" if read => Self::DeadLetterList,
            "/api/v1/dead-letters:redrive" if write => Self::DeadLetterRedrive,
            "/api/v1/dead-letters:discard" if write => Self::DeadLetterDiscard,
            "/v1/chat/completions" if write => Self::Completion,
            "/v1/messages" if write => Self::Message,
            "/v1/messages/count_tokens" if write => Self::TokenCount,
            "/v1/responses" if write => Self::ResponseCreate,
            "/v1/responses/{response_id}" if read => Self::ResponseGet,
            "/v1/responses/{response_id}/cancel" if write => Self::ResponseCancel,
            "/v1/models" if read => Self::ModelList,
            "/v1/models/{*model}" if read => Self::ModelGet,
            "/mcp" if write => Self::Mcp,
            "/health" if read => Self::Health,
            "/api/v1/openapi.json" if read => Self::OpenApi,
            "/livez" | "/readyz" if read => Self::Probe,
            "/" | "/plans" | "/plans/{plan_id}" | "/agents" | "/agents/{agent_id}" | "/approvals"
            | "/dead-letters" | "/overview" | "/docs" | "/page/{file}"
                if read =>
            {
                Self::Page
            }
            _ => Self::Unknown,
        }
    }

    /// Label of metrics and name of the span.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::ChatV1 => "chat_v1",
            Self::ChatLegacy => "chat_legacy",
            Self::AgentsV1 => "agents_v1",
            Self::ApprovalList => "approval_list",
            Self::BudgetList => "budget_list",
            Self::Statistics => "stats",
            Self::AgentGet => "agent_get",
            Self::AgentIsolate => "agent_isolate",
            Self::AgentRestore => "agent_restore",
            Self::PlanCreate => "plan_create",
            Self::PlanList => "plan_list",
            Self::PlanDryRun => "plan_dry_run",
            Self::PlanPropose => "plan_propose",
            Self::PlanGet => "plan_get",
            Self::PlanCancel => "plan_cancel",
            Self::PlanRedrive => "plan_redrive",
            Self::PlanApprove => "plan_approve",
            Self::PlanReject => "plan_reject",
            Self::PlanEvents => "plan_events",
            Self::TaskOutput => "task_output",
            Self::AttemptStderr => "attempt_stderr",
            Self::DeadLetterList => "dead_letter_list",
            Self::DeadLetterRedrive => "dead_letter_redrive",
            Self::DeadLetterDiscard => "dead_letter_discard",
            Self::Health => "health",
            Self::Completion => "completion",
            Self::Message => "message",
            Self::TokenCount => "token_count",
            Self::ResponseCreate => "response_create",
            Self::ResponseGet => "response_get",
            Self::ResponseCancel => "response_cancel",
            Self::ModelList => "model_list",
            Self::ModelGet => "model_get",
            Self::Mcp => "mcp",
            Self::OpenApi => "openapi",
            Self::Probe => "probe",
            Self::Page => "page",
            Self::Unknown => "unknown",
        }
    }

    /// The counter of its requests.
    pub(crate) const fn counter(self) -> Option<&'static Metric> {
        match self {
            Self::ChatV1 => Some(&CHAT_V1),
            Self::ChatLegacy => Some(&CHAT_LEGACY),
            Self::AgentsV1 => Some(&AGENTS_V1),
            Self::Health => Some(&HEALTH),
            Self::ApprovalList
            | Self::BudgetList
            | Self::Statistics
            | Self::AgentGet
            | Self::AgentIsolate
            | Self::AgentRestore
            | Self::PlanCreate
            | Self::PlanList
            | Self::PlanDryRun
            | Self::PlanPropose
            | Self::PlanGet
            | Self::PlanCancel
            | Self::PlanRedrive
            | Self::PlanApprove
            | Self::PlanReject
            | Self::PlanEvents
            | Self::TaskOutput
            | Self::AttemptStderr
            | Self::DeadLetterList
            | Self::DeadLetterRedrive
            | Self::DeadLetterDiscard
            | Self::Completion
            | Self::Message
            | Self::TokenCount
            | Self::ResponseCreate
            | Self::ResponseGet
            | Self::ResponseCancel
            | Self::ModelList
            | Self::ModelGet
            | Self::Mcp
            | Self::OpenApi
            | Self::Probe
            | Self::Page
            | Self::Unknown => None,
        }
    }

    /// Whether it belongs to the API, whose requests have a log line each.
    pub(crate) const fn is_api(self) -> bool {
        !matches!(self, Self::Probe | Self::Page | Self::Unknown)
    }
}
