//! One HTTP exchange: within the deadline, with a bounded body, to the configured address and nowhere else.

use std::{
    fmt,
    sync::Once,
    time::{Duration, Instant},
};

use reqwest::{
    Client, Method, Response, Url,
    header::{CONTENT_TYPE, HeaderValue},
    redirect::Policy,
};
use tokio::runtime::{Builder, Runtime};

use super::wire::Call;

/// The longest body that is read from a provider.
pub(super) const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A client and the runtime it lives on. The runtime turns only while a request is under way.
pub(super) struct Http {
    /// There until the drop.
    runtime: Option<Runtime>,
    client: Client,
}

/// What a provider answered.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Why it did not answer. Carries nothing of the underlying error, which may hold the address and its credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The client can't be built: no runtime or no root certificates.
    NoClient,
    /// `base_url` is no URL.
    Address,
    /// The key can't be sent in a header.
    Key,
    /// No connection.
    Unreachable,
    /// The connection ended before the answer did.
    Interrupted,
    /// The answer is longer than [`MAX_BODY_BYTES`].
    TooLarge,
    /// The deadline passed.
    Timeout,
}

impl Http {
    /// A client for the server at `base_url`.
    ///
    /// Redirects are not followed, because the key would travel along. A loopback address is not asked through a proxy,
    /// and an `http:` address needs no root certificates, so that a local model works where none are installed.
    pub(super) fn new(base_url: &str) -> Result<Self, Trouble> {
        static CRYPTO: Once = Once::new();
        // An error means that one is installed already, which is as good.
        CRYPTO.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));

        let url = Url::parse(base_url).map_err(|_| Trouble::Address)?;
        let mut builder = Client::builder()
            .user_agent(concat!("phoenix-orchestrator/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT);
        if is_loopback(&url) {
            builder = builder.no_proxy();
        }
        if url.scheme() == "http" {
            builder = builder.tls_certs_only([]);
        }
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|_| Trouble::NoClient)?;
        Ok(Self { runtime: Some(runtime), client: builder.build().map_err(|_| Trouble::NoClient)? })
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
        let url = Url::parse(&call.url).map_err(|_| Trouble::Address)?;
        let mut request = self.client.request(method.clone(), url);
        for (name, value) in &call.headers {
            let mut value = HeaderValue::from_str(value).map_err(|_| Trouble::Key)?;
            value.set_sensitive(true);
            request = request.header(*name, value);
        }
        if method == Method::POST {
            request = request.header(CONTENT_TYPE, "application/json").body(call.body.to_string());
        }
        self.runtime.as_ref().ok_or(Trouble::NoClient)?.block_on(async {
            let exchange = async { read(request.send().await.map_err(trouble)?).await };
            tokio::time::timeout_at(until.into(), exchange).await.map_err(|_| Trouble::Timeout)?
        })
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
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|_| Trouble::Interrupted)? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(Trouble::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply { status, body })
}

#[expect(clippy::needless_pass_by_value, reason = "the argument of map_err")]
fn trouble(error: reqwest::Error) -> Trouble {
    if error.is_builder() {
        Trouble::Address
    } else if error.is_connect() {
        Trouble::Unreachable
    } else if error.is_timeout() {
        Trouble::Timeout
    } else {
        Trouble::Interrupted
    }
}

fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}
