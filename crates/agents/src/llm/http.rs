//! One HTTP exchange: within the deadline, with a bounded body at once or in parts, to the configured address only.

mod connection_counter;
mod transport_error;

use std::{
    fmt,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
    redirect::Policy,
};
use tokio::runtime::{Builder, Runtime};

use self::connection_counter::ConnectionCounter;
pub(super) use self::transport_error::TransportError;
use super::{
    proxy::{InvalidProxy, Proxies},
    retry_after,
    wire::types::ProviderRequest,
};

/// Longest body that is read from a provider.
pub(super) const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Most retransmissions of a request that is lost on kept-alive connections: each failure leaves one connection fewer.
const MAX_RESENDS: u32 = 4;

/// Headers in which providers name a request.
const REQUEST_ID_HEADERS: &[&str] = &["x-request-id", "request-id", "x-generation-id", "x-goog-request-id"];

/// Longest name of a request that is passed on.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// A client and its runtime. The runtime has its own thread, so that a connection that the provider closes between two
/// requests is noticed at once.
pub(super) struct Http {
    /// Present until the drop.
    runtime: Option<Runtime>,
    client: Client,
    connections: ConnectionCounter,
    /// Whether a response has been read, so a connection may be kept alive.
    has_response: AtomicBool,
    /// Variable that names the proxy, if there is one.
    proxy: Option<&'static str>,
}

/// Head of a provider's response.
#[derive(Debug, Clone, Default)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Wait before the next request that the response asks for.
    pub(super) retry_after: Option<Duration>,
    /// The provider's name for the request, by which its support finds it.
    pub(super) request_id: Option<String>,
}

/// Response of a provider.
pub(super) struct HttpResponse {
    pub(super) head: Head,
    pub(super) body: Vec<u8>,
}

/// Response of a provider whose body is still to be read.
pub(super) struct OpenResponse<'a> {
    pub(super) head: Head,
    response: Response,
    runtime: &'a Runtime,
}

impl Http {
    /// A client for the server at `base_url`.
    ///
    /// Redirects are not followed, because the key would be sent along. Loopback addresses bypass the proxy, and `http:`
    /// addresses need no root certificates, so that a local model works without any installed.
    pub(super) fn new(base_url: &str, proxies: &Proxies) -> Result<Self, TransportError> {
        static CRYPTO: Once = Once::new();
        // An error means that a provider is installed already.
        CRYPTO.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));

        let url = Url::parse(base_url).map_err(|_| TransportError::Address)?;
        let connections = ConnectionCounter::default();
        let mut builder = Client::builder()
            .user_agent(concat!("phoenix-orchestrator/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .connector_layer(connections.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .no_proxy();
        let proxy = proxies.of(&url).map_err(|InvalidProxy(variable)| TransportError::Proxy(variable))?;
        let is_plain = url.scheme() == "http" && !proxy.as_ref().is_some_and(|proxy| proxy.over_tls);
        let variable = proxy.as_ref().map(|proxy| proxy.variable);
        if let Some(proxy) = proxy {
            builder = builder.proxy(proxy.proxy);
        }
        if is_plain {
            builder = builder.tls_certs_only([]);
        }
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|_| TransportError::NoClient)?;
        let client = builder.build().map_err(|_| TransportError::NoClient)?;
        let has_response = AtomicBool::new(false);
        Ok(Self { runtime: Some(runtime), client, connections, has_response, proxy: variable })
    }

    /// Posts `request`, until its response begins.
    pub(super) fn post(
        &self,
        request: &ProviderRequest,
        until: Instant,
    ) -> Result<OpenResponse<'_>, TransportError> {
        self.exchange(Method::POST, request, until)
    }

    /// Gets the address of `request`, with its headers and without its body.
    pub(super) fn get(
        &self,
        request: &ProviderRequest,
        until: Instant,
    ) -> Result<HttpResponse, TransportError> {
        self.exchange(Method::GET, request, until)?.whole(until)
    }

    fn exchange(
        &self,
        method: Method,
        request: &ProviderRequest,
        until: Instant,
    ) -> Result<OpenResponse<'_>, TransportError> {
        let body = (method == Method::POST).then(|| request.body.to_string());
        let build = || {
            let url = Url::parse(&request.url).map_err(|_| TransportError::Address)?;
            let mut builder = self.client.request(method.clone(), url);
            for (name, value) in &request.headers {
                let mut value = HeaderValue::from_str(value).map_err(|_| TransportError::Key)?;
                value.set_sensitive(true);
                builder = builder.header(*name, value);
            }
            Ok(match &body {
                Some(body) => builder.header(CONTENT_TYPE, "application/json").body(body.clone()),
                None => builder,
            })
        };
        let runtime = self.runtime.as_ref().ok_or(TransportError::NoClient)?;
        let response = within(runtime, until, self.response(build))?;
        // Only a proxy answers so. For an address with https:// it does before there is a response.
        if let (StatusCode::PROXY_AUTHENTICATION_REQUIRED, Some(variable)) = (response.status(), self.proxy) {
            return Err(TransportError::ProxyKey(variable));
        }
        let head = Head {
            status: response.status().as_u16(),
            retry_after: retry_after::of_headers(response.headers()),
            request_id: request_id(response.headers()),
        };
        Ok(OpenResponse { head, response, runtime })
    }

    /// Sends the request until its response begins. A kept-alive connection that turns out to be closed was closed by the
    /// provider while it was idle, so the request is sent again on another one.
    ///
    /// The client opens a connection while the one of the last response is on its way back to the pool, and may use either.
    /// The first loss in such a case counts as one on the kept connection.
    async fn response(
        &self,
        build: impl Fn() -> Result<RequestBuilder, TransportError>,
    ) -> Result<Response, TransportError> {
        let mut resends = 0;
        loop {
            let opened = self.connections.opened();
            let error = match build()?.send().await {
                Ok(response) => {
                    self.has_response.store(true, Ordering::Relaxed);
                    return Ok(response);
                }
                Err(error) => error,
            };
            let may_be_either = resends == 0 && self.has_response.load(Ordering::Relaxed);
            let was_kept_alive = may_be_either || self.connections.opened() == opened;
            if !was_kept_alive || resends == MAX_RESENDS || !transport_error::is_closed_connection(&error) {
                return Err(TransportError::of(&error, self.proxy));
            }
            resends += 1;
        }
    }
}

impl Drop for Http {
    /// In the background: a DNS lookup that is still running after the deadline must not delay the exit of the process.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").finish_non_exhaustive()
    }
}

impl OpenResponse<'_> {
    /// The next part of the body; `None` at its end. The provider sends no more than the connection buffers until the part after
    /// it is asked for.
    pub(super) fn part(
        &mut self,
        until: Instant,
    ) -> Result<Option<impl AsRef<[u8]> + use<>>, TransportError> {
        let part = async { self.response.chunk().await.map_err(|_| TransportError::Interrupted) };
        within(self.runtime, until, part)
    }

    /// The response with its whole body.
    pub(super) fn whole(mut self, until: Instant) -> Result<HttpResponse, TransportError> {
        let mut body = Vec::new();
        while let Some(part) = self.part(until)? {
            let part = part.as_ref();
            if body.len() + part.len() > MAX_BODY_BYTES {
                return Err(TransportError::TooLarge);
            }
            body.extend_from_slice(part);
        }
        Ok(HttpResponse { head: self.head, body })
    }
}

/// Runs `step` on the client's runtime, at most `until` then.
fn within<T>(
    runtime: &Runtime,
    until: Instant,
    step: impl Future<Output = Result<T, TransportError>>,
) -> Result<T, TransportError> {
    runtime.block_on(async {
        tokio::time::timeout_at(until.into(), step).await.map_err(|_| TransportError::Timeout)?
    })
}

/// The provider's name for the request, if it is one.
fn request_id(headers: &HeaderMap) -> Option<String> {
    let is_plain = |id: &&str| {
        !id.is_empty()
            && id.len() <= MAX_REQUEST_ID_BYTES
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/".contains(&byte))
    };
    let id = |name: &&str| headers.get(*name).and_then(|value| value.to_str().ok()).map(str::trim);
    REQUEST_ID_HEADERS.iter().filter_map(id).find(is_plain).map(str::to_owned)
}
