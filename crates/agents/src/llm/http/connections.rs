//! Counts the connections that a client opens, which tells a request on a new connection from one on a kept connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use tower::{Layer, Service};

/// A layer around the client's connector.
#[derive(Debug, Clone, Default)]
pub(super) struct Connections(Arc<AtomicU64>);

/// The connector, counted.
#[derive(Debug, Clone)]
pub(super) struct Counted<S> {
    connector: S,
    connections: Connections,
}

impl Connections {
    /// How many have been begun so far.
    pub(super) fn opened(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

impl<S> Layer<S> for Connections {
    type Service = Counted<S>;

    fn layer(&self, connector: S) -> Counted<S> {
        Counted { connector, connections: self.clone() }
    }
}

impl<S: Service<R>, R> Service<R> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.connector.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.connections.0.fetch_add(1, Ordering::AcqRel);
        self.connector.call(request)
    }
}
