//! Follows the catalogs of all executors.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use phoenix_domain::{AgentName, AgentSpec};
use phoenix_proto::executor::{
    AgentList, AgentLoad, Catalog, WatchCatalogRequest, executor_service_client::ExecutorServiceClient,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{executor::ExecutorPeer, offers::Offer, view::CatalogView};
use crate::{
    client::{PeerAddress, PeerAddresses, PeerChannel, call_error, channel_to},
    http2::MAX_MESSAGE_BYTES,
    identity::ServiceIdentity,
};

/// Pause before the next try to reach an executor: doubles from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Time after which an executor that was never reached is logged. Services of a stack start in any order.
const UNREACHED_LOGGED_AFTER: Duration = Duration::from_secs(5);

/// What a reader of catalogs needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// The agents.
    Agents,
    /// The agents, and the load of the executors.
    AgentsAndLoad,
}

/// Follows the executors at `addresses` until `stop`. Every call presents `identity`.
pub async fn follow(
    view: CatalogView,
    what: Follow,
    addresses: PeerAddresses,
    identity: ServiceIdentity,
    stop: CancellationToken,
) {
    tokio::select! {
        never = follow_all(&view, what, addresses, &identity) => never,
        never = view.expire() => never,
        () = stop.cancelled() => {}
    }
}

/// Follows the executor at each address. One that is not listed any more is followed until its stream ends: names change while
/// it finishes its tasks.
async fn follow_all<T>(
    view: &CatalogView,
    what: Follow,
    mut addresses: PeerAddresses,
    identity: &ServiceIdentity,
) -> T {
    let (mut followed, mut followers) = (HashSet::new(), JoinSet::new());
    loop {
        for address in addresses.current().iter() {
            if followed.insert(address.clone()) {
                let channel = channel_to(address, identity);
                let follower = Follower {
                    view: view.clone(),
                    what,
                    executor: ExecutorPeer::new(address.to_string(), channel.clone()),
                    client: ExecutorServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES),
                    address: address.clone(),
                    addresses: addresses.clone(),
                };
                followers.spawn(follower.run());
            }
        }
        view.set_followed(followed.len());
        tokio::select! {
            () = addresses.changed() => {}
            Some(Ok(ended)) = followers.join_next() => drop(followed.remove(&ended)),
        }
    }
}

/// Keeps the offer of one executor in a view up to date.
struct Follower {
    view: CatalogView,
    what: Follow,
    executor: Arc<ExecutorPeer>,
    client: ExecutorServiceClient<PeerChannel>,
    address: PeerAddress,
    addresses: PeerAddresses,
}

impl Follower {
    /// Runs until the executor is lost and its address is not listed any more. Returns the address.
    async fn run(mut self) -> PeerAddress {
        let mut pause = FIRST_PAUSE;
        let mut unreached_since = Some(Instant::now());
        while self.addresses.current().contains(&self.address) {
            let (joined, ended) = self.follow_once().await;
            let executor = self.executor.address();
            if joined {
                self.view.set(&self.executor, None);
                (pause, unreached_since) = (FIRST_PAUSE, None);
                match &ended {
                    Ok(()) => tracing::info!(executor, "executor left: it shuts down"),
                    Err(status) => tracing::warn!(executor, reason = reason(status), "executor lost"),
                }
            } else if let Err(status) = &ended
                && unreached_since.is_some_and(|since| since.elapsed() > UNREACHED_LOGGED_AFTER)
            {
                unreached_since = None;
                tracing::warn!(executor, reason = reason(status), "executor cannot be reached; retrying");
            }
            // Its name may have another address now.
            self.addresses.refresh();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.address
    }

    /// Follows one stream to its end. Returns whether a catalog was received, and how the stream ended.
    async fn follow_once(&mut self) -> (bool, Result<(), Status>) {
        let request = WatchCatalogRequest { with_load: self.what == Follow::AgentsAndLoad };
        let mut stream = match self.client.watch_catalog(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return (false, Err(status)),
        };
        let mut capacities = None;
        loop {
            let Catalog { instance_id, labels, agents, loads } = match stream.message().await {
                Ok(Some(catalog)) => catalog,
                Ok(None) => return (capacities.is_some(), Ok(())),
                Err(status) => return (capacities.is_some(), Err(status)),
            };
            if let Some(agents) = agents {
                let agents = decode(self.executor.address(), agents);
                let capacity = |spec: &AgentSpec| (spec.name.clone(), spec.capacity());
                capacities = Some(agents.values().map(capacity).collect());
                self.view.set(
                    &self.executor,
                    Some(Offer { instance: instance_id, labels: labels.into_iter().collect(), agents }),
                );
            }
            if let Some(capacities) = &capacities {
                self.executor.report(tasks(loads, capacities));
            }
        }
    }
}

/// The number of running and waiting tasks by agent.
fn tasks(loads: Vec<AgentLoad>, capacities: &BTreeMap<AgentName, u32>) -> Vec<(AgentName, u32)> {
    let tasks = loads.into_iter().filter_map(|AgentLoad { agent, running: _, free }| {
        let agent: AgentName = agent.parse().ok()?;
        let capacity = *capacities.get(&agent)?;
        Some((agent, capacity.saturating_sub(free)))
    });
    tasks.collect()
}

/// The agents of a catalog. One that this version cannot read is left out, and logged.
fn decode(executor: &str, AgentList { agents }: AgentList) -> BTreeMap<AgentName, AgentSpec> {
    let agents = agents.into_iter().filter_map(|agent| {
        let name = agent.name.clone();
        let decoded = AgentSpec::try_from(agent).inspect_err(|problem| {
            tracing::warn!(executor, agent = name, %problem, "agent of a catalog cannot be read; it is left out");
        });
        decoded.ok()
    });
    agents.map(|spec| (spec.name.clone(), spec)).collect()
}

/// Why an executor cannot be followed, for logs.
fn reason(status: &Status) -> String {
    match status.code() {
        Code::Unimplemented => {
            "it is an older version that publishes no catalog; update executors first".into()
        }
        _ => call_error("the executor", status).message,
    }
}
