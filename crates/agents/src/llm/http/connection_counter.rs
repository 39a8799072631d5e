//! Counts the connections that a client opens, to distinguish a new connection from one that was kept alive.

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
pub(super) struct ConnectionCounter(Arc<AtomicU64>);

/// A connector that counts its connections.
#[derive(Debug, Clone)]
pub(super) struct Counted<S> {
    connector: S,
    counter: ConnectionCounter,
}

impl ConnectionCounter {
    /// Number of connections that were opened.
    pub(super) fn opened(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

impl<S> Layer<S> for ConnectionCounter {
    type Service = Counted<S>;

    fn layer(&self, connector: S) -> Counted<S> {
        Counted { connector, counter: self.clone() }
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
        self.counter.0.fetch_add(1, Ordering::AcqRel);
        self.connector.call(request)
    }
}
