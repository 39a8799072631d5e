//! One HTTP/2 connection to one process.

use std::{net::SocketAddr, time::Duration};

use http::Uri;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::{preface::PrefaceConnector, urls::PeerUrl};
use crate::{http2::MAX_HEADER_LIST_BYTES, tls::ServiceTls};

/// Interval of HTTP/2 pings.
pub const PING_EVERY: Duration = Duration::from_secs(2);

/// Time limit for the acknowledgement of a ping.
pub const PING_TIMEOUT: Duration = Duration::from_millis(2500);

/// Bytes that one response may have in flight before its caller reads.
const STREAM_WINDOW: u32 = 512 * 1024;

/// Bytes that all responses of a connection may have in flight. Responses that are not read count, and must not use it up: they
/// would stop every other call.
const CONNECTION_WINDOW: u32 = 1 << 30;

/// A channel to `addr`, or to the host of `url`, which connects on first use and reconnects when needed.
pub(super) fn open(url: &PeerUrl, addr: Option<SocketAddr>, tls: Option<&ServiceTls>) -> Channel {
    let (host, port) = match addr {
        Some(addr) => (addr.ip().to_string(), addr.port()),
        None => (url.host().to_owned(), url.port()),
    };
    let connector = PrefaceConnector::new(host, port, url.server_name(), tls.cloned());
    // tonic refuses https:// without its own TLS, which cannot be reloaded. It does not use this URI otherwise.
    Endpoint::from(Uri::from_static("http://peer"))
        .origin(url.origin())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(MAX_HEADER_LIST_BYTES)
        // The last frames of cancelled calls would otherwise count as protocol errors of the peer.
        .http2_max_local_error_reset_streams(None)
        .connect_with_connector_lazy(service_fn(move |_| connector.clone().connect()))
}
