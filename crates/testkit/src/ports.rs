//! Ports of services on this machine.

use std::{
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering},
};

use crate::{http::Rest, scrape::metric_in};

/// First port of the search: below the ephemeral ports, one of which could take the port of a service that is down.
const FIRST_PORT: u16 = 12_000;

/// End of the search; the servers of `phoenix-testkit-postgres` use the ports above.
const LAST_PORT: u16 = 22_000;

/// Ports of one service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) requests: u16,
    pub(crate) metrics: u16,
}

impl Ports {
    /// URL of its requests.
    pub(crate) fn url(self) -> String {
        format!("http://127.0.0.1:{}", self.requests)
    }

    /// URL of its metrics and probes.
    pub(crate) fn metrics_url(self) -> String {
        format!("http://127.0.0.1:{}", self.metrics)
    }

    /// The value of a metric of the service.
    pub(crate) async fn metric(self, name: &str) -> f64 {
        let rest = Rest::new(self.metrics_url());
        metric_in(&rest.get("/metrics").await.text, name)
    }
}

/// A free port of this machine.
///
/// # Panics
/// When none is free.
#[must_use]
pub fn free_port() -> u16 {
    free_ports().next().expect("a free port")
}

/// Free ports, different from those of concurrent tests, of this process and of others.
pub(crate) fn free_ports() -> impl Iterator<Item = u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let span = LAST_PORT - FIRST_PORT;
    let first = u16::try_from(std::process::id().wrapping_mul(7919) % u32::from(span)).expect("below 65536");
    let step = move || NEXT.fetch_add(1, Ordering::Relaxed) % span;
    let ports = (0..span).map(move |_| FIRST_PORT + (first + step()) % span);
    ports.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
}
