//! TLS of services and of the gateway, with rustls and ring; TLS 1.2 and 1.3.
//!
//! ```text
//! files ──▶ material ──▶ reload (current pair) ──▶ each new connection takes the current pair
//!               ▲
//!            roles: which role may call this service, by the names in the caller's certificate
//! ```
//!
//! Between services TLS is mutual: each side presents a certificate that the CA has signed. A client checks that the server's
//! certificate names the host of the URL, a server that the client's certificate names a [role](roles) that may call it. Calls
//! between instances of one service check the role on both sides: they know each other by addresses.
//! Files that change are read again within seconds; while they are not usable, the last good pair stays in use. Open
//! connections keep the certificates with which they were opened.

mod expiry;
mod files;
mod handshake;
mod material;
mod metrics;
mod pinned;
mod problem;
mod reload;
mod roles;
mod transport;

pub use self::{
    files::{TlsError, TlsFiles},
    metrics::{CERTIFICATE_EXPIRES, RELOAD_FAILURES},
    reload::{PublicTls, ServerTls, ServiceTls},
};
pub(crate) use self::{
    handshake::{accept, connect, is_tls_record, log_tls_client, log_tls_server},
    transport::Transport,
};

#[cfg(test)]
pub(crate) mod test_certificates;
#[cfg(test)]
mod tests;
