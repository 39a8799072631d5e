//! Binding of ports. Every port is bound before any work begins, so that a port in use fails the start.

use std::{io, net::SocketAddr};

use tokio::net::TcpListener;

/// Error of binding an address.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr} ({setting}): {hint}")]
pub struct BindError {
    addr: SocketAddr,
    setting: &'static str,
    hint: String,
}

/// Binds `addr`. `setting` is the variable that the address came from, for the error message.
///
/// # Errors
/// When the address is in use, not of this machine, or not permitted.
pub async fn bind(setting: &'static str, addr: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(addr).await.map_err(|error| BindError { addr, setting, hint: hint(&error) })
}

fn hint(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process uses this port; stop it, set another address, or start with --port-offset".into()
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".into(),
        io::ErrorKind::PermissionDenied => "ports below 1024 need special rights".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn port_in_use_is_named_with_its_setting() {
        let taken = bind("GRPC_ADDR", "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let error = bind("GRPC_ADDR", taken.local_addr().unwrap()).await.unwrap_err().to_string();
        assert!(error.contains("GRPC_ADDR") && error.contains("another process"), "{error}");
    }
}
