//! Settings of the gateway.

use std::time::Duration;

use phoenix_domain::llm::{LlmDescription, Secret};
use phoenix_platform::{config::RoleSettings, identity::ServiceIdentity, tls::PublicTls};

/// Settings of the gateway.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// URL of the planner.
    pub planner_url: String,
    /// URL of the executor; the gateway only checks its readiness.
    pub executor_url: String,
    /// URL of the health service.
    pub health_url: String,
    /// Token that callers must present. Without one, or with an empty one, the gateway serves loopback only.
    pub api_token: Option<Secret>,
    /// What the gateway presents to the services behind it.
    pub identity: ServiceIdentity,
    /// Certificate for callers; without it the gateway serves HTTP.
    pub tls: Option<PublicTls>,
    /// Web origins, such as `https://ops.example.com`, that may call the API from a browser.
    pub cors_allowed_origins: Vec<String>,
    /// Patterns of actions, such as `git_agent.*`, that are tools at `/mcp`.
    pub mcp_actions: Vec<String>,
    /// Time limit of a request, from its first byte to its response.
    pub request_timeout: Duration,
    /// Language model that answers chats, for `GET /health`.
    pub llm: LlmDescription,
    /// Models of the configured providers, as `provider/model`, for `GET /v1/models`.
    pub models: Vec<String>,
}

impl GatewayConfig {
    /// The token that callers must present, if there is one.
    pub(crate) fn token(&self) -> Option<&Secret> {
        self.api_token.as_ref().filter(|token| !token.is_empty())
    }
}

impl From<&RoleSettings> for GatewayConfig {
    fn from(settings: &RoleSettings) -> Self {
        let gateway = &settings.config.gateway;
        Self {
            planner_url: settings.planner_url.clone(),
            executor_url: settings.executor_url.clone(),
            health_url: settings.health_url.clone(),
            api_token: settings.api_token.clone(),
            identity: settings.identity.clone(),
            tls: settings.gateway_tls.clone(),
            cors_allowed_origins: gateway.cors_allowed_origins.clone(),
            mcp_actions: gateway.mcp_actions.clone(),
            request_timeout: gateway.request_timeout,
            llm: settings.config.llm.describe(),
            models: settings.config.llm.configured_models(),
        }
    }
}
