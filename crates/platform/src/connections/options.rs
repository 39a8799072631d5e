//! Options of a listener.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;

use crate::tls::ServerTls;

/// Upper bound of the connections of one listener, whatever the system allows.
const MAX_CONNECTIONS: usize = 16_384;

/// Protocol of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, and HTTP/2 with prior knowledge.
    Http,
    /// HTTP/2 only, without a limit of concurrent calls per connection.
    Grpc,
}

/// Options of a listener.
#[derive(Debug, Clone)]
pub struct Options {
    /// Protocol.
    pub protocol: Protocol,
    /// TLS, unless connections are plain.
    pub tls: Option<ServerTls>,
    /// Limit of open connections.
    pub max_connections: usize,
    /// Cancelled at the drain limit. Calls that are in flight then have a last moment for an error response.
    pub overdue: CancellationToken,
}

impl Options {
    /// Options of a service's main listener.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self { protocol, tls: None, max_connections: main_limit(), overdue: CancellationToken::new() }
    }

    /// The same with TLS, if there is any.
    #[must_use]
    pub fn with_tls(self, tls: Option<ServerTls>) -> Self {
        Self { tls, ..self }
    }

    /// Options of a listener for `/metrics`, which has few callers.
    #[must_use]
    pub fn metrics() -> Self {
        Self { max_connections: (main_limit() / 4).clamp(8, 64), ..Self::new(Protocol::Http) }
    }
}

/// Half of the process's descriptor limit; the rest is for databases, peers and pipes.
fn main_limit() -> usize {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(soft / 2).unwrap_or(MAX_CONNECTIONS).clamp(16, MAX_CONNECTIONS)
}

/// Raises the soft limit of open descriptors to the hard one. The soft limit is for programs that use `select`.
pub fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Without the permission, the process keeps the soft limit.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
