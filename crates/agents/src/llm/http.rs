//! One HTTP exchange: within the deadline, with a bounded body, to the configured address and nowhere else.

mod connections;
mod trouble;

use std::{
    fmt,
    sync::Once,
    time::{Duration, Instant},
};

use reqwest::{
    Client, Method, RequestBuilder, Response, Url,
    header::{CONTENT_TYPE, HeaderValue},
    redirect::Policy,
};
use tokio::runtime::{Builder, Runtime};

use self::connections::Connections;
pub(super) use self::trouble::Trouble;
use super::{
    proxy::{InvalidProxy, Proxies},
    retry_after,
    wire::Call,
};

/// The longest body that is read from a provider.
pub(super) const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A request that is lost on a kept connection is sent again so often: each time one connection fewer is left.
const MAX_RESENDS: u32 = 4;

/// A client and the runtime it lives on. The runtime has a thread of its own, so that a connection that the provider closes
/// between two requests is noticed when that happens.
pub(super) struct Http {
    /// There until the drop.
    runtime: Option<Runtime>,
    client: Client,
    connections: Connections,
    /// The variable that names the proxy, when there is one.
    proxy: Option<&'static str>,
}

/// What a provider answered.
pub(super) struct Reply {
    pub(super) status: u16,
    /// When it may be asked again, if it says so.
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Vec<u8>,
}

impl Http {
    /// A client for the server at `base_url`.
    ///
    /// Redirects are not followed, because the key would travel along. A loopback address is not asked through a proxy,
    /// and an `http:` address needs no root certificates, so that a local model works where none are installed.
    pub(super) fn new(base_url: &str, proxies: &Proxies) -> Result<Self, Trouble> {
        static CRYPTO: Once = Once::new();
        // An error means that one is installed already, which is as good.
        CRYPTO.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));

        let url = Url::parse(base_url).map_err(|_| Trouble::Address)?;
        let connections = Connections::default();
        let mut builder = Client::builder()
            .user_agent(concat!("phoenix-orchestrator/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .connector_layer(connections.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .no_proxy();
        let proxy = proxies.of(&url).map_err(|InvalidProxy(variable)| Trouble::Proxy(variable))?;
        let is_plain = url.scheme() == "http" && !proxy.as_ref().is_some_and(|proxy| proxy.over_tls);
        let variable = proxy.as_ref().map(|proxy| proxy.variable);
        if let Some(proxy) = proxy {
            builder = builder.proxy(proxy.proxy);
        }
        if is_plain {
            builder = builder.tls_certs_only([]);
        }
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|_| Trouble::NoClient)?;
        let client = builder.build().map_err(|_| Trouble::NoClient)?;
        Ok(Self { runtime: Some(runtime), client, connections, proxy: variable })
    }

    /// Posts `call` and reads the answer.
    pub(super) fn send(&self, call: &Call, until: Instant) -> Result<Reply, Trouble> {
        self.exchange(Method::POST, call, until)
    }

    /// Gets the address of `call`, with its headers and without its body.
    pub(super) fn get(&self, call: &Call, until: Instant) -> Result<Reply, Trouble> {
        self.exchange(Method::GET, call, until)
    }

    fn exchange(&self, method: Method, call: &Call, until: Instant) -> Result<Reply, Trouble> {
        let body = (method == Method::POST).then(|| call.body.to_string());
        let request = || {
            let url = Url::parse(&call.url).map_err(|_| Trouble::Address)?;
            let mut request = self.client.request(method.clone(), url);
            for (name, value) in &call.headers {
                let mut value = HeaderValue::from_str(value).map_err(|_| Trouble::Key)?;
                value.set_sensitive(true);
                request = request.header(*name, value);
            }
            Ok(match &body {
                Some(body) => request.header(CONTENT_TYPE, "application/json").body(body.clone()),
                None => request,
            })
        };
        self.runtime.as_ref().ok_or(Trouble::NoClient)?.block_on(async {
            let exchange = async { read(self.response(request).await?).await };
            tokio::time::timeout_at(until.into(), exchange).await.map_err(|_| Trouble::Timeout)?
        })
    }

    /// Sends the request until its answer begins. A kept connection that turns out to be closed has cost nothing: the
    /// provider closed it while it was idle, so the request is sent again on another one.
    async fn response(
        &self,
        request: impl Fn() -> Result<RequestBuilder, Trouble>,
    ) -> Result<Response, Trouble> {
        let mut resends = 0;
        loop {
            let opened = self.connections.opened();
            let error = match request()?.send().await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let was_kept = self.connections.opened() == opened;
            if !was_kept || resends == MAX_RESENDS || !trouble::is_closed_connection(&error) {
                return Err(Trouble::of(&error, self.proxy));
            }
            resends += 1;
        }
    }
}

impl Drop for Http {
    /// A name that is still being looked up when the deadline has passed must not keep the process from ending.
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

async fn read(mut response: Response) -> Result<Reply, Trouble> {
    let status = response.status().as_u16();
    let retry_after = retry_after::of_headers(response.headers());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|_| Trouble::Interrupted)? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(Trouble::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply { status, retry_after, body })
}
