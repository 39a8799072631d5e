//! Connections to the other services.
//!
//! A channel connects on first use and reconnects when needed. A call to a peer that is down fails at once; a call to a
//! stopped process fails after a second without an HTTP/2 [preface]. A process that stops under an open connection is
//! detected by HTTP/2 pings within [`PING_EVERY`] + [`PING_TIMEOUT`].

mod preface;

pub use self::preface::CONNECT_TIMEOUT;

use std::time::Duration;

use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use phoenix_proto::error_from_status;
use tonic::{
    Code, ConnectError, Status, TimeoutExpired,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::{ServiceBuilder, service_fn};

use self::preface::PrefaceConnector;
use crate::{
    http2::MAX_HEADER_LIST_BYTES,
    propagation::{SendContext, SendContextService},
    service_token::ServiceToken,
};

/// Channel of generated clients, which sends the [`RequestContext`](crate::RequestContext) of each call.
pub type PeerChannel = SendContextService<Channel>;

/// Interval of HTTP/2 pings.
pub const PING_EVERY: Duration = Duration::from_secs(2);

/// Time limit for the acknowledgement of a ping.
pub const PING_TIMEOUT: Duration = Duration::from_millis(2500);

/// Retry delay for callers of an unreachable service; long enough for a supervisor to restart it.
pub const UNREACHABLE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A URL that is not valid for a channel.
#[derive(Debug, thiserror::Error)]
#[error("must be a URL such as http://127.0.0.1:50051: {0}")]
pub struct InvalidUrl(String);

/// A channel to the service at `url`, which connects on first use. Every call presents `token`.
///
/// # Errors
/// When `url` is not `http://host:port`.
pub fn channel(url: &str, token: &ServiceToken) -> Result<PeerChannel, InvalidUrl> {
    let connector = PrefaceConnector::new();
    let channel = check_url(url)?
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(MAX_HEADER_LIST_BYTES)
        // The last frames of cancelled calls would otherwise count as protocol errors of the peer.
        .http2_max_local_error_reset_streams(None)
        .connect_with_connector_lazy(service_fn(move |url| connector.clone().connect(url)));
    Ok(ServiceBuilder::new().layer(SendContext::new(token)).service(channel))
}

/// Checks that `url` is valid for [`channel`].
///
/// # Errors
/// When it is not `http://host:port`.
pub fn check_url(url: &str) -> Result<Endpoint, InvalidUrl> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| InvalidUrl(error.to_string()))?;
    if endpoint.uri().scheme_str() != Some("http") || endpoint.uri().authority().is_none() {
        return Err(InvalidUrl("it needs the scheme http and a host".into()));
    }
    Ok(endpoint)
}

/// The error for callers when a call to `peer` (such as "the executor") failed. Errors of the peer pass through; an unreachable
/// peer is `unavailable`, and the call may be repeated.
#[must_use]
pub fn call_error(peer: &str, status: &Status) -> OrchestratorError {
    // A status from the wire has details; a status that tonic created has a source, or neither.
    if !status.details().is_empty() {
        return error_from_status(status);
    }
    match status.code() {
        Code::DeadlineExceeded => too_late(peer),
        // tonic enforces `grpc-timeout` on both sides and reports it as a cancellation.
        Code::Cancelled if status.message() == TimeoutExpired(()).to_string() => too_late(peer),
        // A call that waits for a connection which breaks is reported as "cancelled", too.
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled
            if is_transport_failure(status) =>
        {
            OrchestratorError::new(
                OrchestratorErrorCode::Unavailable,
                format!("{peer} cannot be reached at the moment; try again shortly"),
            )
            .with_retry_after(UNREACHABLE_RETRY_AFTER)
        }
        Code::Unauthenticated => OrchestratorError::new(
            OrchestratorErrorCode::Unavailable,
            format!("{peer} refuses the service token of its caller; the services of one stack need the same token"),
        )
        .with_retry_after(UNREACHABLE_RETRY_AFTER),
        Code::Cancelled => {
            OrchestratorError::new(OrchestratorErrorCode::Cancelled, "the request was cancelled")
        }
        _ => OrchestratorError::internal(format!("{peer} answered in an unexpected way")),
    }
}

/// Whether the peer may have received a call that failed with `status`: an established connection broke.
#[must_use]
pub fn was_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    let broke = cause.is_some();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return false;
        }
        cause = error.source();
    }
    broke
}

fn too_late(peer: &str) -> OrchestratorError {
    OrchestratorError::new(OrchestratorErrorCode::Timeout, format!("{peer} did not answer in time"))
}

fn is_transport_failure(status: &Status) -> bool {
    status.code() == Code::Unavailable || std::error::Error::source(status).is_some()
}

/// Whether the service behind `channel` reports SERVING within `limit`.
pub async fn is_serving(channel: PeerChannel, limit: Duration) -> bool {
    let mut health = HealthClient::new(channel);
    let response = tokio::time::timeout(limit, health.check(HealthCheckRequest::default())).await;
    matches!(response, Ok(Ok(response)) if response.get_ref().status() == ServingStatus::Serving)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::{
        net::TcpListener,
        runtime::{Builder, Runtime},
        task::JoinSet,
    };
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{readiness::Readiness, server::GrpcServer};

    fn token() -> ServiceToken {
        ServiceToken::new("of-the-test").unwrap()
    }

    #[test]
    fn url_is_checked_before_the_first_call() {
        assert!(channel("localhost", &token()).is_err());
        assert!(channel("ftp://127.0.0.1:1", &token()).is_err());
    }

    /// A server in its own runtime, and its URL.
    fn peer() -> (String, Runtime) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            GrpcServer::new(Readiness::needing(&[]), token()).serve(listener, CancellationToken::new()).await
        });
        (url, runtime)
    }

    /// A server that dies as by SIGKILL breaks calls in several ways: some wait for the connection, some for their response, some
    /// start without a connection.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn dead_peer_is_unavailable_to_calls_in_every_stage() {
        for _ in 0..30 {
            let (url, peer) = peer();
            let channel = channel(&url, &token()).unwrap();
            let mut calls = JoinSet::new();
            for _ in 0..16 {
                let mut client = HealthClient::new(channel.clone());
                calls.spawn(async move {
                    loop {
                        if let Err(status) = client.check(HealthCheckRequest::default()).await {
                            return status;
                        }
                    }
                });
            }
            // Any moment of the calls is valid.
            tokio::time::sleep(Duration::from_millis(30)).await;
            peer.shutdown_background();
            for status in calls.join_all().await {
                let error = call_error("the planner", &status);
                assert_eq!(error.code, OrchestratorErrorCode::Unavailable, "{error}: {status:?}");
            }
        }
    }

    #[tokio::test]
    async fn absent_peer_is_unavailable_at_once_with_a_retry_delay() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let channel = channel(&url, &token()).unwrap();
        assert!(!is_serving(channel.clone(), CONNECT_TIMEOUT).await);
        let status = HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap_err();
        assert!(!was_sent(&status), "{status:?}");
        let error = call_error("the planner", &status);
        assert_eq!(error.code, OrchestratorErrorCode::Unavailable);
        assert_eq!(error.retry_after, Some(UNREACHABLE_RETRY_AFTER));
        assert!(!error.message.contains("127.0.0.1"), "no address in a message for callers");
    }

    /// A socket without an accept loop stands in for a stopped process: the kernel accepts its connections.
    #[tokio::test]
    async fn stopped_peer_is_unavailable_to_every_call_until_it_resumes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let channel = channel(&format!("http://{}", listener.local_addr().unwrap()), &token()).unwrap();
        let asked = Instant::now();
        let mut calls = JoinSet::new();
        for _ in 0..16 {
            let mut client = HealthClient::new(channel.clone());
            calls.spawn(async move { client.check(HealthCheckRequest::default()).await.unwrap_err() });
        }
        for status in calls.join_all().await {
            assert!(!was_sent(&status), "{status:?}");
            let error = call_error("the executor", &status);
            assert_eq!(error.code, OrchestratorErrorCode::Unavailable, "{error}: {status:?}");
        }
        assert!(
            asked.elapsed() < PING_EVERY + PING_TIMEOUT,
            "{:?}: calls waited for each other",
            asked.elapsed()
        );
        let stop = CancellationToken::new();
        let server = GrpcServer::new(Readiness::needing(&[]), token()).serve(listener, stop.clone());
        let server = tokio::spawn(server);
        while !is_serving(channel.clone(), CONNECT_TIMEOUT).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.cancel();
        drop(channel);
        server.await.unwrap().unwrap();
    }
}
