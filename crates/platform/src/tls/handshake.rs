//! The handshake of one connection, and log lines about those that fail.

use std::{io, net::SocketAddr, time::Duration};

use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{
    problem::{Class, TlsFailure},
    reload::{ServerTls, ServiceTls},
    transport::Transport,
};
use crate::log_limit::LogLimit;

/// Time limit of a handshake on the server side.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// First byte of TLS records: alert and handshake.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// Server side of the handshake on a new connection. Logs a failure.
pub(crate) async fn accept(tls: &ServerTls, stream: TcpStream, peer: SocketAddr) -> Option<Transport> {
    let accepted = timeout(HANDSHAKE_LIMIT, TlsAcceptor::from(tls.config()).accept(stream)).await;
    let failure = match accepted {
        Ok(Ok(stream)) => return Some(Transport::Tls(Box::new(stream.into()))),
        Ok(Err(error)) => TlsFailure::of(&error),
        Err(_) => TlsFailure::found(Class::Slow),
    };
    // Port scans and probes of the TCP port end like this.
    if failure.class != Class::Closed {
        log(&failure, &peer.to_string(), "server");
    }
    None
}

/// Client side of the handshake with the server called `name`.
///
/// # Errors
/// When the connection breaks or a side refuses the certificate of the other.
pub(crate) async fn connect(
    tls: &ServiceTls,
    name: ServerName<'static>,
    stream: TcpStream,
) -> io::Result<Transport> {
    let config = tls.client_config().ok_or(io::ErrorKind::InvalidInput)?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    Ok(Transport::Tls(Box::new(stream.into())))
}

/// Whether a connection that begins with `bytes` speaks TLS. No HTTP request and no HTTP/2 frame begins like this.
pub(crate) fn is_tls_record(bytes: &[u8]) -> bool {
    matches!(bytes, [ALERT | HANDSHAKE, 3, ..] | [ALERT | HANDSHAKE])
}

/// Logs that a client uses TLS on a port without it.
pub(crate) fn log_tls_client(peer: &str) {
    log(&TlsFailure::found(Class::PeerWithTls), peer, "server");
}

/// Logs that the handshake of a connection to the server `peer` has failed. Returns the failure.
pub(crate) fn log_tls_server(error: Option<&io::Error>, peer: &str) -> TlsFailure {
    let failure = error.map_or_else(|| TlsFailure::found(Class::PeerWithTls), TlsFailure::of);
    log(&failure, peer, "client");
    failure
}

/// Logs failures of one class at most once a minute.
fn log(failure: &TlsFailure, peer: &str, side: &'static str) {
    static LIMITS: [LogLimit; Class::COUNT] = [const { LogLimit::new() }; Class::COUNT];
    if let Some(unlogged) = LIMITS[failure.class as usize].pass() {
        let problem = failure.class.as_str();
        tracing::warn!(peer, side, problem, reason = %failure, unlogged, "TLS handshake failed");
    }
}
