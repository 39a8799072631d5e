//! What the gateway is told.

use std::time::Duration;

use phoenix_domain::llm::{LlmDescription, Secret};
use phoenix_platform::{config::RoleSettings, service_token::ServiceToken};

/// What the gateway is told.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Where the planner is.
    pub planner_url: String,
    /// Where the executor is; asked only whether it is ready.
    pub executor_url: String,
    /// Where the health service is.
    pub health_url: String,
    /// What callers must present; absent or empty: nothing, and only loopback is served.
    pub api_token: Option<Secret>,
    /// What the services behind it are shown.
    pub service_token: ServiceToken,
    /// Web origins, such as `https://ops.example.com`, that may call the API from a browser.
    pub cors_allowed_origins: Vec<String>,
    /// How long a request may take, from its first byte to its answer.
    pub request_timeout: Duration,
    /// Who answers chats, for `GET /health`.
    pub llm: LlmDescription,
}

impl GatewayConfig {
    /// The token, if callers must present one.
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
            service_token: settings.service_token.clone(),
            cors_allowed_origins: gateway.cors_allowed_origins.clone(),
            request_timeout: gateway.request_timeout,
            llm: settings.config.llm.describe(),
        }
    }
}
