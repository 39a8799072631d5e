//! The gRPC server of every service: health, reflection, context propagation, metrics, limits and graceful shutdown.

use std::io;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, server::NamedService, service::Routes};
use tonic_health::ServingStatus;
use tower::{Service, ServiceBuilder};

pub use crate::http2::MAX_MESSAGE_BYTES;
use crate::{
    connections::{self, Options, Protocol},
    identity::ServiceIdentity,
    multiplex::{self, Handler},
    propagation::ServeContext,
    readiness::Readiness,
    reflection,
    rpc_metrics::RpcMetrics,
    service_token::RequireToken,
    tls::ServiceTls,
};

/// Builder of a gRPC server.
#[derive(Debug)]
pub struct GrpcServer {
    routes: Routes,
    readiness: Readiness,
    identity: ServiceIdentity,
    service_names: Vec<&'static str>,
    metrics: RpcMetrics,
    draining: CancellationToken,
}

/// Error of a server that ended before its shutdown.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener failed.
    #[error("listener: {0}")]
    Listener(#[from] io::Error),
    /// The descriptors of the contract are not valid.
    #[error("server reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

impl GrpcServer {
    /// A server that reports SERVING while `readiness` is met, for callers that present the token of `identity` and, with TLS, a
    /// certificate of a role that may call this service.
    #[must_use]
    pub fn new(readiness: Readiness, identity: impl Into<ServiceIdentity>) -> Self {
        Self {
            routes: Routes::default(),
            readiness,
            identity: identity.into(),
            service_names: Vec::new(),
            metrics: RpcMetrics,
            draining: CancellationToken::new(),
        }
    }

    /// Adds `handler` for calls on shared streams. At most one handler per server.
    #[must_use]
    pub fn add_multiplexed(self, handler: impl Handler) -> Self {
        let service = multiplex::service(handler, self.metrics.clone(), self.draining.clone());
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

    /// Serves until `shutdown`, then follows the steps of [`crate::shutdown`].
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> Result<(), ServeError> {
        let Self {
            routes,
            readiness,
            identity: ServiceIdentity { token, tls },
            service_names,
            metrics,
            draining,
        } = self;
        // On every exit path: a shared stream with running calls keeps the server open.
        let draining = draining.drop_guard();
        let addr = listener.local_addr()?;
        let (mut reporter, health) = tonic_health::server::health_reporter();
        // tonic-health starts the overall service as SERVING.
        reporter.set_service_status("", ServingStatus::NotServing).await;
        let described: Vec<_> = service_names.iter().copied().chain([service_name(&health)]).collect();
        let (reflection, reflection_alpha) = reflection::services(&described)?;
        let routes = routes.add_service(health).add_service(reflection).add_service(reflection_alpha);
        let service = ServiceBuilder::new()
            .layer(metrics)
            .layer(RequireToken(token))
            .layer(ServeContext)
            .service(routes.prepare());
        let options = Options::new(Protocol::Grpc).with_tls(tls.as_ref().map(ServiceTls::server));
        let server = connections::serve(listener, options, service, shutdown.clone());
        tokio::pin!(server);
        let names = || std::iter::once("").chain(service_names.iter().copied());
        let report = readiness.follow(async |ready| {
            let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            for name in names() {
                reporter.set_service_status(name, status).await;
            }
        });
        tracing::info!(%addr, tls = tls.is_some(), "gRPC server listening");
        tokio::select! {
            served = &mut server => return Ok(served?),
            // Ends only with the readiness, which is not shut down yet.
            () = report => {}
            () = shutdown.cancelled() => {}
        }
        readiness.shut_down();
        drop(draining);
        for name in names() {
            reporter.set_service_status(name, ServingStatus::NotServing).await;
            // Ends health watches, which would otherwise keep the server open.
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
    use crate::{client, listener, service_token::ServiceToken, shutdown::DRAIN};

    fn token() -> ServiceToken {
        ServiceToken::new("of-the-test").unwrap()
    }

    #[tokio::test]
    async fn server_serves_only_while_ready_and_ends_despite_a_watch() {
        let readiness = Readiness::needing(&["store"]);
        let listener = listener::bind("GRPC_ADDR", "127.0.0.1:0".parse().unwrap()).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let server =
            tokio::spawn(GrpcServer::new(readiness.clone(), token()).serve(listener, shutdown.clone()));

        let mut health = HealthClient::new(client::channel(&url, token()).unwrap());
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
    async fn many_cancelled_calls_do_not_break_the_connection() {
        let shutdown = CancellationToken::new();
        let (blocked, block) = std::sync::mpsc::channel::<()>();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let stop = shutdown.clone();
        // A server with its own thread, which blocks on request.
        let server = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = listener::bind("GRPC_ADDR", "127.0.0.1:0".parse().unwrap()).await.unwrap();
                let begin = tokio::sync::oneshot::channel::<()>();
                let _ = sender.send((format!("http://{}", listener.local_addr().unwrap()), begin.0));
                tokio::spawn(async move {
                    let _ = begin.1.await;
                    let _ = block.recv();
                });
                GrpcServer::new(Readiness::needing(&[]), token()).serve(listener, stop).await.unwrap();
            });
        });
        let (url, begin) = receiver.await.unwrap();
        let channel = client::channel(&url, token()).unwrap();
        let request = HealthCheckRequest::default;
        let mut watch = HealthClient::new(channel.clone()).watch(request()).await.unwrap().into_inner();
        while watch.message().await.unwrap().unwrap().status != ServingStatus::Serving as i32 {}

        begin.send(()).unwrap();
        for _ in 0..500 {
            let mut health = HealthClient::new(channel.clone());
            let call = health.check(request());
            // Sent, and cancelled.
            let _ = tokio::time::timeout(Duration::from_millis(1), call).await;
        }
        blocked.send(()).unwrap();
        assert!(client::is_serving(channel, DRAIN).await);
        shutdown.cancel();
        let last = watch.message().await.unwrap().unwrap();
        assert_eq!(last.status, ServingStatus::NotServing as i32, "the stream is still open");
        server.join().unwrap();
    }
}
