//! The one way a gRPC service is served: with health, reflection, propagation, metrics, limits and a graceful end.

use std::io;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, server::NamedService, service::Routes};
use tonic_health::ServingStatus;
use tower::{Service, ServiceBuilder};

use crate::{
    connections::{self, Options, Protocol},
    multiplex::{self, Handler},
    propagation::ServeContext,
    readiness::Readiness,
    reflection,
    rpc_metrics::RpcMetrics,
    service_token::{RequireToken, ServiceToken},
};

/// The largest message a service takes or sends: an agent's 8 MiB answer, escaped as JSON.
pub const MAX_MESSAGE_BYTES: usize = 20 * 1024 * 1024;

/// What HTTP/2 headers and trailers may hold together: a failed call's status travels there.
pub(crate) const MAX_HEADER_LIST_BYTES: u32 = 64 * 1024;

/// A gRPC server in the making.
#[derive(Debug)]
pub struct GrpcServer {
    routes: Routes,
    readiness: Readiness,
    token: ServiceToken,
    service_names: Vec<&'static str>,
    calls: RpcMetrics,
    draining: CancellationToken,
}

/// Why a server ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener is of no use.
    #[error("listener: {0}")]
    Listener(#[from] io::Error),
    /// The description of the contract can't be read.
    #[error("server reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

impl GrpcServer {
    /// A server that is SERVING whenever `readiness` is, for callers that present `token`.
    #[must_use]
    pub fn new(readiness: Readiness, token: ServiceToken) -> Self {
        Self {
            routes: Routes::default(),
            readiness,
            token,
            service_names: Vec::new(),
            calls: RpcMetrics,
            draining: CancellationToken::new(),
        }
    }

    /// Lets callers make their calls of `handler`'s method on one stream. For one handler per server.
    #[must_use]
    pub fn add_multiplexed(self, handler: impl Handler) -> Self {
        let service = multiplex::service(handler, self.calls.clone(), self.draining.clone());
        self.add_service(service)
    }

    /// Adds a generated service.
    #[must_use]
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: Service<http::Request<Body>, Error = std::convert::Infallible>
            + tonic::server::NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.service_names.push(S::NAME);
        self.routes = self.routes.add_service(service);
        self
    }

    /// Serves until `shutdown`, then climbs down the ladder of [`crate::shutdown`].
    ///
    /// # Errors
    /// When the listener breaks.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
        let Self { routes, readiness, token, service_names, calls, draining } = self;
        // However this ends: a stream whose calls go on holds the server open.
        let draining = draining.drop_guard();
        let addr = listener.local_addr()?;
        let (mut reporter, health) = tonic_health::server::health_reporter();
        // tonic-health starts the overall service as SERVING.
        reporter.set_service_status("", ServingStatus::NotServing).await;
        let described: Vec<_> = service_names.iter().copied().chain([service_name(&health)]).collect();
        let (reflection, reflection_alpha) = reflection::services(&described)?;
        let routes = routes.add_service(health).add_service(reflection).add_service(reflection_alpha);
        let service = ServiceBuilder::new()
            .layer(calls)
            .layer(RequireToken(token))
            .layer(ServeContext)
            .service(routes.prepare());
        let server = connections::serve(listener, Options::new(Protocol::Grpc), service, shutdown.clone());
        tokio::pin!(server);
        let names = || std::iter::once("").chain(service_names.iter().copied());
        let report = readiness.follow(async |ready| {
            let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            for name in names() {
                reporter.set_service_status(name, status).await;
            }
        });
        tracing::info!(%addr, "gRPC server listening");
        tokio::select! {
            served = &mut server => return Ok(served?),
            // Ends only with the readiness, which nobody has shut down yet.
            () = report => {}
            () = shutdown.cancelled() => {}
        }
        readiness.shut_down();
        drop(draining);
        for name in names() {
            reporter.set_service_status(name, ServingStatus::NotServing).await;
            // Ends the streams of those who watch, which would otherwise hold the server open.
            reporter.clear_service_status(name).await;
        }
        Ok(server.await?)
    }
}

const fn service_name<S: NamedService>(_: &S) -> &'static str {
    S::NAME
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

    use super::*;
    use crate::{client, listener, shutdown::DRAIN};

    fn token() -> ServiceToken {
        ServiceToken::new("of-the-test").unwrap()
    }

    #[tokio::test]
    async fn a_server_serves_only_while_ready_and_ends_although_someone_watches() {
        let readiness = Readiness::needing(&["store"]);
        let listener = listener::bind("GRPC_ADDR", "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let server =
            tokio::spawn(GrpcServer::new(readiness.clone(), token()).serve(listener, shutdown.clone()));

        let mut health = HealthClient::new(client::channel(&url, &token()).unwrap());
        let request = HealthCheckRequest::default();
        let mut watch = health.watch(request).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status, ServingStatus::NotServing as i32);
        readiness.set("store", true);
        while watch.message().await.unwrap().unwrap().status != ServingStatus::Serving as i32 {}

        shutdown.cancel();
        while let Ok(Some(_)) = watch.message().await {}
        tokio::time::timeout(DRAIN / 2, server).await.expect("ends before its drain limit").unwrap().unwrap();
    }

    #[tokio::test]
    async fn calls_that_many_leave_at_once_do_not_break_the_connection_for_others() {
        let shutdown = CancellationToken::new();
        let (blocked, block) = std::sync::mpsc::channel::<()>();
        let (tell, told) = tokio::sync::oneshot::channel();
        let stop = shutdown.clone();
        // A server with a thread of its own, which stands still when told to.
        let server = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = listener::bind("GRPC_ADDR", "127.0.0.1:0".parse().unwrap()).await.unwrap();
                let begin = tokio::sync::oneshot::channel::<()>();
                let _ = tell.send((format!("http://{}", listener.local_addr().unwrap()), begin.0));
                tokio::spawn(async move {
                    let _ = begin.1.await;
                    let _ = block.recv();
                });
                GrpcServer::new(Readiness::needing(&[]), token()).serve(listener, stop).await.unwrap();
            });
        });
        let (url, begin) = told.await.unwrap();
        let channel = client::channel(&url, &token()).unwrap();
        let request = HealthCheckRequest::default;
        let mut watch = HealthClient::new(channel.clone()).watch(request()).await.unwrap().into_inner();
        while watch.message().await.unwrap().unwrap().status != ServingStatus::Serving as i32 {}

        begin.send(()).unwrap();
        for _ in 0..500 {
            let mut health = HealthClient::new(channel.clone());
            let call = health.check(request());
            // Sent, and left.
            let _ = tokio::time::timeout(Duration::from_millis(1), call).await;
        }
        blocked.send(()).unwrap();
        assert!(client::is_serving(channel, DRAIN).await);
        shutdown.cancel();
        let last = watch.message().await.unwrap().unwrap();
        assert_eq!(last.status, ServingStatus::NotServing as i32, "the stream lived on");
        server.join().unwrap();
    }
}
