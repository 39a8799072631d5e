//! The instances of one service, and the choice among them for each call.
//!
//! ```text
//! PeerAddresses ──▶ one Peer per address ──▶ health watch ──▶ admitted, or not
//!                        ▲                                        │
//! call ──▶ two admitted peers at random ──▶ the one with fewer calls in flight
//!              without an admitted peer, two of all peers
//! ```
//!
//! A peer is admitted while it reports SERVING over an open connection and calls to it do not fail. The watch reconnects in
//! the background, so no call waits for an instance that is down while another one is up.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::sleep};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Status, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::Layer;

use super::{
    addresses::{PeerAddress, PeerAddresses},
    endpoint,
    peer::{Peer, PeerState},
};
use crate::{
    identity::ServiceIdentity,
    propagation::{SendContext, SendContextService},
};

/// Pause before the first reconnection of a health watch, which doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);

const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A watch that was open for this long starts with the first pause again.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// The peers of a service at one moment.
pub(crate) type Peers = Arc<[Arc<Peer>]>;

/// The instances of one service.
#[derive(Debug)]
pub(crate) struct PeerSet {
    peers: watch::Receiver<Option<Peers>>,
    addresses: PeerAddresses,
    _stop: DropGuard,
}

impl PeerSet {
    /// The peers at `addresses`, called under `identity`. Must be called inside a tokio runtime.
    pub(super) fn new(addresses: PeerAddresses, identity: ServiceIdentity) -> Self {
        let stop = CancellationToken::new();
        let (sender, peers) = watch::channel(None);
        tokio::spawn(follow(addresses.clone(), identity, sender, stop.clone()));
        Self { peers, addresses, _stop: stop.drop_guard() }
    }

    /// The peers at the moment; none before the names are resolved.
    pub(crate) fn current(&self) -> Peers {
        self.peers.borrow().clone().unwrap_or_default()
    }

    /// The peers, once the names are resolved.
    pub(super) async fn resolved(&self) -> Peers {
        match self.peers.clone().wait_for(Option::is_some).await {
            Ok(peers) => peers.clone().unwrap_or_default(),
            Err(_) => Peers::default(),
        }
    }

    /// Reports that a peer could not be connected to: its address may have changed.
    pub(super) fn refresh(&self) {
        self.addresses.refresh();
    }
}

/// The peer for the next call; `None` when each was `tried`.
pub(crate) fn pick<'a>(peers: &'a Peers, tried: &[u64]) -> Option<&'a Arc<Peer>> {
    if let ([only], []) = (&peers[..], tried) {
        return Some(only);
    }
    let untried = || peers.iter().filter(|peer| !tried.contains(&peer.id));
    less_loaded(untried().filter(|peer| peer.is_admitted())).or_else(|| less_loaded(untried()))
}

/// Of two peers at random, the one with fewer calls in flight.
fn less_loaded<'a>(peers: impl Iterator<Item = &'a Arc<Peer>>) -> Option<&'a Arc<Peer>> {
    let mut sample = [None; 2];
    for (index, peer) in peers.enumerate() {
        let slot = if index < 2 { index } else { fastrand::usize(0..=index) };
        if let Some(slot) = sample.get_mut(slot) {
            *slot = Some(peer);
        }
    }
    let [Some(one), Some(other)] = sample else { return sample[0] };
    let (of_one, of_other) = (one.in_flight(), other.in_flight());
    let takes_one = if of_one == of_other { fastrand::bool() } else { of_one < of_other };
    Some(if takes_one { one } else { other })
}

/// Keeps the peers of `sender` equal to `addresses` until `stop`. A peer whose address remains keeps its connection.
async fn follow(
    mut addresses: PeerAddresses,
    identity: ServiceIdentity,
    sender: watch::Sender<Option<Peers>>,
    stop: CancellationToken,
) {
    let mut next_id = 0;
    let Some(mut listed) = stop.run_until_cancelled(addresses.resolved()).await else { return };
    loop {
        let known = sender.borrow().clone().unwrap_or_default();
        let peers = listed.iter().map(|address| {
            if let Some(peer) = known.iter().find(|peer| peer.address == *address) {
                return Arc::clone(peer);
            }
            next_id += 1;
            Arc::new(open(next_id, address, &addresses, &identity))
        });
        let peers: Peers = peers.collect();
        sender.send_replace(Some(peers));
        if stop.run_until_cancelled(addresses.changed()).await.is_none() {
            return;
        }
        listed = addresses.current();
    }
}

fn open(id: u64, address: &PeerAddress, addresses: &PeerAddresses, identity: &ServiceIdentity) -> Peer {
    let channel = endpoint::open(&address.url, Some(address.addr), identity.tls.as_ref());
    let channel = SendContext::new(&identity.token).layer(channel);
    let (state, stop) = (Arc::new(PeerState::new()), CancellationToken::new());
    let watch = watch_health(address.clone(), addresses.clone(), channel.clone(), Arc::clone(&state));
    let until = stop.clone();
    tokio::spawn(async move {
        until.run_until_cancelled(watch).await;
    });
    Peer { id, address: address.clone(), channel, state, _stop: stop.drop_guard() }
}

/// Keeps the peer's admission equal to what it reports.
async fn watch_health(
    address: PeerAddress,
    addresses: PeerAddresses,
    channel: SendContextService<Channel>,
    state: Arc<PeerState>,
) {
    let mut client = HealthClient::new(channel);
    let mut pause = FIRST_PAUSE;
    let mut is_first = true;
    loop {
        let opened = Instant::now();
        let reason = watch_once(&mut client, &state, &address).await;
        let was_serving = state.set_serving(false);
        if was_serving || is_first {
            tracing::warn!(peer = %address, reason = reason.message(), "a peer does not answer");
        }
        is_first = false;
        addresses.refresh();
        if opened.elapsed() > STABLE_AFTER {
            pause = FIRST_PAUSE;
        }
        // Clients that lose one peer at the same time do not reconnect at the same time.
        sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Watches the peer's health until the stream ends. Returns why.
async fn watch_once(
    client: &mut HealthClient<SendContextService<Channel>>,
    state: &PeerState,
    address: &PeerAddress,
) -> Status {
    let mut statuses = match client.watch(HealthCheckRequest::default()).await {
        Ok(response) => response.into_inner(),
        Err(status) => return status,
    };
    loop {
        match statuses.message().await {
            Ok(Some(response)) => {
                let is_serving = response.status() == ServingStatus::Serving;
                if state.set_serving(is_serving) {
                    tracing::info!(peer = %address, is_serving, "health of a peer changed");
                }
            }
            Ok(None) => return Status::unavailable("the peer ended the watch of its health"),
            Err(status) => return status,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::peer::PeerCall, service_token::ServiceToken};

    fn peers(count: u64) -> Peers {
        let identity = ServiceToken::new("of-the-test").unwrap().into();
        let urls: Vec<_> = (1..=count).map(|port| format!("http://127.0.0.1:{port}")).collect();
        let addresses = PeerAddresses::of(&urls.join(",")).unwrap();
        let listed = addresses.current();
        (1..).zip(&*listed).map(|(id, address)| Arc::new(open(id, address, &addresses, &identity))).collect()
    }

    fn picked(peers: &Peers, tried: &[u64]) -> Vec<u64> {
        let mut ids: Vec<_> = (0..200).filter_map(|_| pick(peers, tried)).map(|peer| peer.id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    #[tokio::test]
    async fn pick_prefers_admitted_peers_and_tries_each_once() {
        let peers = peers(4);
        assert_eq!(picked(&peers, &[]), [1, 2, 3, 4], "none is admitted");
        for peer in &peers[1..3] {
            peer.state.set_serving(true);
        }
        assert_eq!(picked(&peers, &[]), [2, 3]);
        assert_eq!(picked(&peers, &[2]), [3]);
        assert_eq!(picked(&peers, &[2, 3]), [1, 4]);
        assert!(picked(&peers, &[1, 2, 3, 4]).is_empty());
    }

    #[tokio::test]
    async fn pick_of_two_is_the_less_loaded() {
        let peers = peers(2);
        for peer in peers.iter() {
            peer.state.set_serving(true);
        }
        let calls = [PeerCall::start(&peers[0]), PeerCall::start(&peers[0]), PeerCall::start(&peers[1])];
        assert_eq!(picked(&peers, &[]), [2]);
        drop(calls);
        assert_eq!(picked(&peers, &[]), [1, 2]);
    }
}
