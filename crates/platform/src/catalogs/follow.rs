//! Follows the catalog of one executor.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use phoenix_domain::{AgentName, AgentSpec};
use phoenix_proto::executor::{
    AgentList, Catalog, WatchCatalogRequest, executor_service_client::ExecutorServiceClient,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{offers::Offer, view::CatalogView};
use crate::{
    client::{PeerChannel, call_error},
    http2::MAX_MESSAGE_BYTES,
};

/// Pause before the next try to reach an executor: doubles from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Time after which an executor that was never reached is logged. Services of a stack start in any order.
const UNREACHED_LOGGED_AFTER: Duration = Duration::from_secs(5);

/// Follows the executor behind `channel` until `stop`. `address` is its address in log lines.
pub async fn follow(view: CatalogView, address: String, channel: PeerChannel, stop: CancellationToken) {
    tokio::select! {
        never = follow_executor(&view, &address, channel) => never,
        never = view.expire() => never,
        () = stop.cancelled() => {}
    }
}

/// Keeps the offer of one executor in `view` up to date.
async fn follow_executor<T>(view: &CatalogView, address: &str, channel: PeerChannel) -> T {
    let mut client = ExecutorServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut pause = FIRST_PAUSE;
    let mut unreached_since = Some(Instant::now());
    loop {
        let (joined, ended) = follow_once(view, address, &mut client).await;
        if joined {
            view.set(address, None);
            (pause, unreached_since) = (FIRST_PAUSE, None);
            match &ended {
                Ok(()) => tracing::info!(executor = address, "executor left: it shuts down"),
                Err(status) => tracing::warn!(executor = address, reason = reason(status), "executor lost"),
            }
        } else if let Err(status) = &ended
            && unreached_since.is_some_and(|since| since.elapsed() > UNREACHED_LOGGED_AFTER)
        {
            unreached_since = None;
            tracing::warn!(
                executor = address,
                reason = reason(status),
                "executor cannot be reached; retrying"
            );
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Follows one stream to its end. Returns whether a catalog was received, and how the stream ended.
async fn follow_once(
    view: &CatalogView,
    address: &str,
    client: &mut ExecutorServiceClient<PeerChannel>,
) -> (bool, Result<(), Status>) {
    let mut stream = match client.watch_catalog(WatchCatalogRequest { with_load: false }).await {
        Ok(response) => response.into_inner(),
        Err(status) => return (false, Err(status)),
    };
    let mut joined = false;
    loop {
        let Catalog { instance_id, labels, agents, loads: _ } = match stream.message().await {
            Ok(Some(catalog)) => catalog,
            Ok(None) => return (joined, Ok(())),
            Err(status) => return (joined, Err(status)),
        };
        let Some(agents) = agents else { continue };
        let labels = labels.into_iter().collect();
        view.set(address, Some(Offer { instance: instance_id, labels, agents: decode(address, agents) }));
        joined = true;
    }
}

/// The agents of a catalog. One that this version cannot read is left out, and logged.
fn decode(address: &str, AgentList { agents }: AgentList) -> BTreeMap<AgentName, AgentSpec> {
    let agents = agents.into_iter().filter_map(|agent| {
        let name = agent.name.clone();
        let decoded = AgentSpec::try_from(agent).inspect_err(|problem| {
            tracing::warn!(executor = address, agent = name, %problem, "agent of a catalog cannot be read; it is left out");
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
