//! Clients of the services behind the gateway.

use std::{sync::Arc, time::Duration};

use phoenix_domain::llm::LlmDescription;
use phoenix_platform::{
    client::{self, PeerChannel},
    multiplex::MultiplexClient,
    server::MAX_MESSAGE_BYTES,
};
use phoenix_proto::{
    health_v1::agent_health_service_client::AgentHealthServiceClient,
    planner::planner_service_client::PlannerServiceClient,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{action_tools::ActionTools, config::GatewayConfig, error::ServeError};

/// Time between the announcement of a reason and the end of the calls.
const ABORT_AFTER: Duration = Duration::from_millis(200);

/// State of the gateway, for every handler. A single pointer, because axum clones it with the route for every request.
/// Connections are opened on first use and reopened when they break.
#[derive(Debug, Clone)]
pub(crate) struct Gateway(Arc<Parts>);

/// The parts of a [`Gateway`].
#[derive(Debug)]
pub(crate) struct Parts {
    planner: PlannerServiceClient<PeerChannel>,
    /// Calls to the planner that share a stream.
    pub(crate) planner_calls: MultiplexClient,
    health: AgentHealthServiceClient<PeerChannel>,
    channels: Channels,
    /// Language model that answers chats.
    pub(crate) llm: LlmDescription,
    /// Models of the configured providers, as `provider/model`.
    pub(crate) models: Vec<String>,
    /// Actions that are tools.
    pub(crate) action_tools: ActionTools,
    /// Ends event streams at shutdown.
    pub(crate) shutdown: CancellationToken,
    /// Ends calls in flight when the drain is overdue.
    pub(crate) abort: CancellationToken,
    /// Work that outlives its request, such as cancelling the plan of a caller that left.
    pub(crate) background: TaskTracker,
}

impl std::ops::Deref for Gateway {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

#[derive(Debug)]
struct Channels {
    planner: PeerChannel,
    executor: PeerChannel,
    health: PeerChannel,
}

/// Readiness of each service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Serving {
    pub(crate) planner: bool,
    pub(crate) executor: bool,
    pub(crate) health: bool,
}

impl Gateway {
    /// A gateway for the services of `config`, until `shutdown`.
    ///
    /// # Errors
    /// When the address of a service is not a URL.
    pub(crate) fn new(config: &GatewayConfig, shutdown: CancellationToken) -> Result<Self, ServeError> {
        let channel = |setting, url: &str| {
            client::channel(url, &config.identity).map_err(|problem| ServeError::setting(setting, problem))
        };
        let channels = Channels {
            planner: channel("PLANNER_URL", &config.planner_url)?,
            executor: channel("EXECUTOR_URL", &config.executor_url)?,
            health: channel("HEALTH_URL", &config.health_url)?,
        };
        Ok(Self(Arc::new(Parts {
            planner: PlannerServiceClient::new(channels.planner.clone())
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
            planner_calls: MultiplexClient::new(channels.planner.clone()),
            health: AgentHealthServiceClient::new(channels.health.clone()),
            channels,
            llm: config.llm.clone(),
            models: config.models.clone(),
            action_tools: ActionTools::new(config.mcp_actions.clone()),
            shutdown,
            abort: CancellationToken::new(),
            background: TaskTracker::new(),
        })))
    }

    /// Ends calls in flight once the drain is `overdue`, after the planner has received the reason.
    pub(crate) async fn abort_calls_when<T>(&self, overdue: CancellationToken) -> T {
        overdue.cancelled().await;
        self.planner_calls.announce_cancel_reason("the gateway stopped");
        tokio::time::sleep(ABORT_AFTER).await;
        self.abort.cancel();
        std::future::pending().await
    }

    /// A client of the planner.
    pub(crate) fn planner(&self) -> PlannerServiceClient<PeerChannel> {
        self.0.planner.clone()
    }

    /// A client of the health service.
    pub(crate) fn health(&self) -> AgentHealthServiceClient<PeerChannel> {
        self.0.health.clone()
    }

    /// Checks the readiness of all services concurrently; a service that does not respond within `limit` is not ready.
    pub(crate) async fn serving(&self, limit: Duration) -> Serving {
        let Channels { planner, executor, health } = &self.0.channels;
        let ask = |channel: &PeerChannel| client::is_serving(channel.clone(), limit);
        let (planner, executor, health) = tokio::join!(ask(planner), ask(executor), ask(health));
        Serving { planner, executor, health }
    }
}
