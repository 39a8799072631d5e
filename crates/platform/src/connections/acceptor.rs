//! Accepting connections below the connection limit.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use super::table::ConnectionTable;
use crate::log_limit::LogLimit;

/// Pause after the system rejected an accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Interval at which the acceptor looks for a connection without a call while it is at the limit.
pub(super) const CAPACITY_PAUSE: Duration = Duration::from_millis(100);

static ACCEPT_FAILED: LogLimit = LogLimit::new();
static AT_LIMIT: LogLimit = LogLimit::new();

/// Accepts connections, one at a time and only below the limit.
pub(super) struct Acceptor {
    pub(super) listener: TcpListener,
    pub(super) limit: usize,
    pub(super) table: ConnectionTable,
    pub(super) addr: SocketAddr,
}

impl Acceptor {
    /// The next connection.
    pub(super) async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.listener.accept().await {
                Ok(accepted) => {
                    self.wait_for_capacity().await;
                    return accepted;
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    if let Some(unlogged) = ACCEPT_FAILED.pass() {
                        tracing::warn!(addr = %self.addr, %error, unlogged, "cannot accept connections at the moment");
                    }
                    self.table.close_one();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits until fewer connections are open than the limit, and closes connections without a call meanwhile.
    async fn wait_for_capacity(&self) {
        while self.table.len() >= self.limit {
            let ended = self.table.ended();
            if self.table.close_one() {
                let _ = timeout(CAPACITY_PAUSE, ended).await;
                continue;
            }
            if let Some(unlogged) = AT_LIMIT.pass() {
                let limit = self.limit;
                tracing::warn!(addr = %self.addr, limit, unlogged, "connection limit reached; new connections wait");
            }
            let _ = timeout(CAPACITY_PAUSE, ended).await;
        }
    }
}

fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
