//! Connections to the other services.
//!
//! A channel connects on first use and reconnects when needed. A call to a peer that is down fails at once; a call to a
//! stopped process fails after a second without an HTTP/2 [preface]. A process that stops under an open connection is
//! detected by HTTP/2 pings within [`PING_EVERY`] + [`PING_TIMEOUT`].
//!
//! A service may have several instances: a list of URLs, or a name with several addresses. Its channel has a connection to
//! each and [chooses](balancer) for each call; a URL with one address is one connection and nothing else.

mod addresses;
mod balancer;
mod channel;
mod endpoint;
mod peer;
mod preface;
mod status;
mod urls;

use std::{net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::Layer;

pub use self::{
    addresses::{PeerAddress, PeerAddresses},
    channel::{PeerChannel, PeerFuture},
    endpoint::{PING_EVERY, PING_TIMEOUT},
    preface::CONNECT_TIMEOUT,
    status::{UNREACHABLE_RETRY_AFTER, call_error, was_sent},
    urls::{InvalidUrl, check_urls},
};
pub(crate) use self::{
    balancer::{PeerSet, pick},
    peer::PeerCall,
};
use crate::{identity::ServiceIdentity, propagation::SendContext, tls::ServiceTls};

/// A channel to the service at `urls`, which connects on first use. Every call presents `identity`. Must be called inside a tokio
/// runtime.
///
/// # Errors
/// When `urls` is not `http://host:port`, with TLS `https://host:port`, or a list of such URLs separated by commas.
pub fn channel(urls: &str, identity: impl Into<ServiceIdentity>) -> Result<PeerChannel, InvalidUrl> {
    let (identity, urls) = (identity.into(), urls::parse(urls)?);
    urls.iter().try_for_each(|url| urls::check_scheme(url, identity.tls.is_some()))?;
    if let [url] = &urls[..]
        && url.is_fixed()
    {
        return Ok(one(url, None, &identity));
    }
    Ok(PeerChannel::many(PeerSet::new(PeerAddresses::resolving(urls), identity)))
}

/// A channel to another instance of the caller's own service at `url`, which connects on first use. With TLS, the instance is
/// recognised by its role, whatever host its certificate names. Must be called inside a tokio runtime.
///
/// # Errors
/// When `url` is not valid for [`channel()`].
pub fn sibling(url: &str, identity: &ServiceIdentity) -> Result<PeerChannel, InvalidUrl> {
    let tls = identity.tls.as_ref().map(ServiceTls::for_siblings);
    channel(url, ServiceIdentity { token: identity.token.clone(), tls })
}

/// A channel to one instance of a service. Every call presents `identity`. Must be called inside a tokio runtime.
#[must_use]
pub fn channel_to(address: &PeerAddress, identity: impl Into<ServiceIdentity>) -> PeerChannel {
    one(&address.url, Some(address.addr), &identity.into())
}

fn one(url: &urls::PeerUrl, addr: Option<SocketAddr>, identity: &ServiceIdentity) -> PeerChannel {
    let channel = endpoint::open(url, addr, identity.tls.as_ref());
    PeerChannel::one(SendContext::new(&identity.token).layer(channel))
}

/// Whether an instance of the service behind `channel` reports SERVING within `limit`.
pub async fn is_serving(channel: PeerChannel, limit: Duration) -> bool {
    let check = async {
        let mut checks: FuturesUnordered<_> = channel.each().await.into_iter().map(reports_serving).collect();
        while let Some(is_serving) = checks.next().await {
            if is_serving {
                return true;
            }
        }
        false
    };
    tokio::time::timeout(limit, check).await.unwrap_or(false)
}

async fn reports_serving(channel: PeerChannel) -> bool {
    let response = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    response.is_ok_and(|response| response.get_ref().status() == ServingStatus::Serving)
}

#[cfg(test)]
mod tests;
