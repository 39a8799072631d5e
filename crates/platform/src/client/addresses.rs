//! The addresses of a service: those of its URLs, and what the names in its URLs resolve to at the moment.

use std::{collections::HashSet, fmt, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    net::lookup_host,
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::urls::{self, InvalidUrl, PeerUrl};

/// Interval of name resolution.
const RESOLVE_EVERY: Duration = Duration::from_secs(5);

/// Minimum time between two resolutions.
const RESOLVE_PAUSE: Duration = Duration::from_millis(500);

/// Time limit of one resolution.
const RESOLVE_LIMIT: Duration = Duration::from_secs(3);

/// Address of one instance of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    pub(super) url: PeerUrl,
    /// IP address and port.
    pub addr: SocketAddr,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.url.is_fixed() { self.url.fmt(f) } else { write!(f, "{} ({})", self.url, self.addr) }
    }
}

type Resolved = Option<Arc<[PeerAddress]>>;

/// The addresses of a service, kept up to date. Cheap to clone; resolution ends with the last clone.
#[derive(Debug, Clone)]
pub struct PeerAddresses {
    resolved: watch::Receiver<Resolved>,
    refresh: Arc<Notify>,
    _stop: Arc<DropGuard>,
}

impl PeerAddresses {
    /// The addresses of the service at `urls`, as the settings `PLANNER_URL`, `EXECUTOR_URL` and `HEALTH_URL` give them. Must be
    /// called inside a tokio runtime.
    ///
    /// # Errors
    /// When `urls` is not a list of URLs.
    pub fn of(urls: &str) -> Result<Self, InvalidUrl> {
        Ok(Self::resolving(urls::parse(urls)?))
    }

    pub(super) fn resolving(urls: Vec<PeerUrl>) -> Self {
        let stop = CancellationToken::new();
        let refresh = Arc::new(Notify::new());
        let fixed: Option<Arc<[_]>> = urls.iter().map(fixed_address).collect();
        let needs_names = fixed.is_none();
        let (sender, resolved) = watch::channel(fixed);
        if needs_names {
            tokio::spawn(follow(urls, sender, Arc::clone(&refresh), stop.clone()));
        }
        Self { resolved, refresh, _stop: Arc::new(stop.drop_guard()) }
    }

    /// The addresses at the moment: none before the first resolution has ended, or when no name could ever be resolved.
    #[must_use]
    pub fn current(&self) -> Arc<[PeerAddress]> {
        self.resolved.borrow().clone().unwrap_or_default()
    }

    /// Waits for the next change since this method last returned, or since [`Self::of`]. Cancel safe.
    pub async fn changed(&mut self) {
        if self.resolved.changed().await.is_err() {
            // Fixed addresses do not change.
            std::future::pending::<()>().await;
        }
    }

    /// Resolves the names soon, because an address does not answer.
    pub fn refresh(&self) {
        self.refresh.notify_one();
    }

    /// Waits until the first resolution has ended.
    pub(super) async fn resolved(&mut self) -> Arc<[PeerAddress]> {
        match self.resolved.wait_for(Option::is_some).await {
            Ok(resolved) => resolved.clone().unwrap_or_default(),
            Err(_) => Arc::default(),
        }
    }
}

fn fixed_address(url: &PeerUrl) -> Option<PeerAddress> {
    Some(PeerAddress { url: url.clone(), addr: url.address()? })
}

/// Resolves `urls` until `stop`.
async fn follow(
    urls: Vec<PeerUrl>,
    sender: watch::Sender<Resolved>,
    refresh: Arc<Notify>,
    stop: CancellationToken,
) {
    let mut names: Vec<_> = urls.into_iter().map(Name::new).collect();
    loop {
        if stop.run_until_cancelled(join_all(names.iter_mut().map(Name::resolve))).await.is_none() {
            return;
        }
        let mut listed = HashSet::new();
        let addresses =
            names.iter().flat_map(|name| &name.addresses).filter(|address| listed.insert(address.addr));
        let addresses: Arc<[_]> = addresses.cloned().collect();
        sender.send_if_modified(|current| {
            let is_changed = current.as_ref() != Some(&addresses);
            *current = Some(addresses);
            is_changed
        });
        let pause = async {
            sleep(RESOLVE_PAUSE).await;
            let _ = timeout(RESOLVE_EVERY - RESOLVE_PAUSE, refresh.notified()).await;
        };
        if stop.run_until_cancelled(pause).await.is_none() {
            return;
        }
    }
}

/// The host of a URL, and its addresses in a stable order.
struct Name {
    url: PeerUrl,
    addresses: Vec<PeerAddress>,
    has_failed: bool,
}

impl Name {
    fn new(url: PeerUrl) -> Self {
        Self { url, addresses: Vec::new(), has_failed: false }
    }

    /// Resolves the name. The earlier addresses stay when that fails.
    async fn resolve(&mut self) {
        if let Some(addr) = self.url.address() {
            self.addresses = vec![PeerAddress { url: self.url.clone(), addr }];
            return;
        }
        let found = timeout(RESOLVE_LIMIT, lookup_host((self.url.host(), self.url.port()))).await;
        let problem = match found {
            Ok(Ok(found)) => {
                let mut found: Vec<_> = found.collect();
                found.sort_unstable();
                found.dedup();
                if self.url.is_fixed() {
                    // Both loopback addresses are this machine's, and so one process.
                    found.truncate(1);
                }
                if !found.is_empty() {
                    let url = &self.url;
                    self.addresses =
                        found.into_iter().map(|addr| PeerAddress { url: url.clone(), addr }).collect();
                    if std::mem::take(&mut self.has_failed) {
                        tracing::info!(url = %self.url, "name of a service is resolved again");
                    }
                    return;
                }
                "it has no address".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", RESOLVE_LIMIT.as_secs()),
        };
        if !std::mem::replace(&mut self.has_failed, true) {
            let kept = self.addresses.len();
            tracing::warn!(url = %self.url, problem, kept, "name of a service cannot be resolved; its earlier addresses stay in use");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn list_of_addresses_is_resolved_at_once() {
        let mut addresses = PeerAddresses::of("http://127.0.0.1:1,http://[::1]:2").unwrap();
        let listed: Vec<_> = addresses.current().iter().map(|address| address.addr.to_string()).collect();
        assert_eq!(listed, ["127.0.0.1:1", "[::1]:2"]);
        assert_eq!(addresses.resolved().await, addresses.current());
    }

    #[tokio::test]
    async fn name_is_resolved_and_joined_with_addresses() {
        let mut addresses =
            PeerAddresses::of("http://localhost:7,http://127.0.0.1:7,http://127.0.0.1:8").unwrap();
        assert!(addresses.current().is_empty(), "not resolved yet");
        addresses.changed().await;
        let current = addresses.current();
        let listed: Vec<_> = current.iter().map(|address| address.addr).filter(SocketAddr::is_ipv4).collect();
        assert_eq!(
            listed,
            ["127.0.0.1:7".parse().unwrap(), "127.0.0.1:8".parse().unwrap()],
            "without duplicates"
        );
    }

    #[tokio::test]
    async fn unknown_name_has_no_address() {
        let mut addresses = PeerAddresses::of("http://no-such-host.invalid:7").unwrap();
        assert!(addresses.resolved().await.is_empty());
    }
}
