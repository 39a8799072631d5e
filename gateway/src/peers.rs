//! The services behind the gateway.

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

use crate::{GatewayConfig, ServeError};

/// How long the reason for which calls are left travels ahead of their end.
const LEAVE_AFTER: Duration = Duration::from_millis(200);

/// What every handler may use. One pointer: it is cloned with its route for every request. Connections are made on first
/// use and remade when they break.
#[derive(Debug, Clone)]
pub(crate) struct Gateway(Arc<Parts>);

/// The parts of a [`Gateway`].
#[derive(Debug)]
pub(crate) struct Parts {
    planner: PlannerServiceClient<PeerChannel>,
    /// Those of the planner's methods that share a stream.
    pub(crate) planner_calls: MultiplexClient,
    health: AgentHealthServiceClient<PeerChannel>,
    channels: Channels,
    /// Who answers chats.
    pub(crate) llm: LlmDescription,
    /// Ends streams that would otherwise outlast the gateway.
    pub(crate) shutdown: CancellationToken,
    /// Ends what is still waited for when the drain has taken too long.
    pub(crate) leaving: CancellationToken,
    /// Work that goes on when its request is gone, such as cancelling what the request began.
    pub(crate) afterwards: TaskTracker,
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

/// Which of the services say that they can take work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Serving {
    pub(crate) planner: bool,
    pub(crate) executor: bool,
    pub(crate) health: bool,
}

impl Gateway {
    /// A gateway in front of the services that `config` names, until `shutdown`.
    ///
    /// # Errors
    /// When one of their addresses is no URL.
    pub(crate) fn new(config: &GatewayConfig, shutdown: CancellationToken) -> Result<Self, ServeError> {
        let channel = |setting, url: &str| {
            client::channel(url, &config.service_token)
                .map_err(|problem| ServeError::setting(setting, problem))
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
            shutdown,
            leaving: CancellationToken::new(),
            afterwards: TaskTracker::new(),
        })))
    }

    /// When the drain is `overdue`, tells the planner why its calls are left, then has them left.
    pub(crate) async fn leave_when<T>(&self, overdue: CancellationToken) -> T {
        overdue.cancelled().await;
        self.planner_calls.announce_cancel_reason("the gateway stopped");
        tokio::time::sleep(LEAVE_AFTER).await;
        self.leaving.cancel();
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

    /// Asks all of them at once; one that has not answered within `limit` can't take work.
    pub(crate) async fn serving(&self, limit: Duration) -> Serving {
        let Channels { planner, executor, health } = &self.0.channels;
        let ask = |channel: &PeerChannel| client::is_serving(channel.clone(), limit);
        let (planner, executor, health) = tokio::join!(ask(planner), ask(executor), ask(health));
        Serving { planner, executor, health }
    }
}
