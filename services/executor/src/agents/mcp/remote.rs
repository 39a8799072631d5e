//! A server over streamable HTTP: each message is a `POST` of its own, whose response has the messages of the server.
//!
//! The requests of a [`Connection`] are sent as they come, many at a time. A request whose caller no longer waits is closed, which
//! cancels it. Responses are bounded like the lines of a process. Redirects are not followed, because the configured headers may
//! have secrets.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use phoenix_domain::{
    FailureClass,
    limits::MAX_ANSWER_BYTES,
    mcp::{RemoteServer, header_text},
};
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION},
    redirect::Policy,
};
use tokio::sync::oneshot;

use super::{
    connection::{Connection, Outgoing},
    events::Events,
    message::METHOD_NOT_FOUND,
};
use crate::failure::AttemptFailure;

/// Limit of the time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

const EVENTS: &str = "text/event-stream";

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// Request that a server without it answers in ways of its own.
pub(super) const DISCOVER: &str = "server/discover";

/// Request that begins a session.
const INITIALIZE: &str = "initialize";

/// Notification that ends the handshake.
const INITIALIZED: &str = "notifications/initialized";

/// A server's address, and the client that reaches it.
pub(super) struct Remote {
    client: Client,
    url: Url,
    headers: HeaderMap,
}

impl Remote {
    /// The server of `settings`, which were validated.
    ///
    /// # Errors
    /// When the client cannot be made, or a setting is not valid after all.
    pub(super) fn new(settings: &RemoteServer) -> Result<Self, AttemptFailure> {
        let invalid =
            |what: &str| AttemptFailure::new(FailureClass::Io, format!("cannot be reached: {what}"));
        // An error means that a provider is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let url = Url::parse(&settings.url).map_err(|_| invalid("`mcp.url` is not a URL"))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &settings.headers {
            let value = HeaderValue::try_from(value.expose()).ok();
            let (Ok(name), Some(mut value)) = (HeaderName::try_from(name.as_str()), value) else {
                return Err(invalid("`mcp.headers` has a header that is not valid"));
            };
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let mut builder = Client::builder()
            .user_agent(concat!("phoenix/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT);
        if is_loopback(&url) {
            builder = builder.no_proxy();
        }
        // A machine may have no certificates at all.
        if url.scheme() == "http" {
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|_| invalid("there is no HTTP client"))?;
        Ok(Self { client, url, headers })
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// What the handshake agreed to.
#[derive(Debug, Clone, Default)]
pub(super) struct Agreed {
    session: Option<HeaderValue>,
    version: Option<HeaderValue>,
    /// Whether requests repeat method and name in headers.
    is_modern: bool,
}

/// The exchange of messages with one server, up to the loss of its session.
pub(super) struct RemoteSession {
    remote: Arc<Remote>,
    connection: Arc<Connection>,
    agreed: Arc<Mutex<Agreed>>,
}

/// Why a request has no answer.
enum Lost {
    /// The caller no longer waits, or the server has answered.
    Nothing,
    /// The request failed.
    Request { class: FailureClass, description: String, was_read: bool },
    /// The session is gone: the request was refused, and so will be the next.
    Session,
}

impl RemoteSession {
    pub(super) fn new(remote: Arc<Remote>, connection: Arc<Connection>) -> Self {
        Self { remote, connection, agreed: Arc::default() }
    }

    /// What is agreed, for the handshake to set.
    pub(super) fn agreed(&self) -> Arc<Mutex<Agreed>> {
        Arc::clone(&self.agreed)
    }

    /// Exchanges messages until the session is lost. Returns why.
    pub(super) async fn run(&self) -> AttemptFailure {
        let mut posts = FuturesUnordered::new();
        let mut running: HashMap<u64, oneshot::Sender<()>> = HashMap::new();
        loop {
            while let Some(outgoing) = self.connection.next_outgoing() {
                if let Some(id) = outgoing.cancels {
                    // Closes the request, which is all that a server without a handshake needs.
                    running.remove(&id);
                    if self.agreed.lock().is_modern {
                        continue;
                    }
                }
                if outgoing.method == INITIALIZED {
                    // A server may refuse what arrives before it.
                    self.post(outgoing, None).await;
                    continue;
                }
                let (closer, closed) = oneshot::channel();
                if let Some(id) = outgoing.id {
                    running.insert(id, closer);
                    posts.push(self.post(outgoing, Some(closed)));
                } else {
                    posts.push(self.post(outgoing, None));
                }
            }
            tokio::select! {
                () = self.connection.to_write.notified() => {}
                Some((id, lost)) = posts.next(), if !posts.is_empty() => {
                    id.into_iter().for_each(|id| drop(running.remove(&id)));
                    if lost {
                        return AttemptFailure::new(FailureClass::Io, "lost the session");
                    }
                }
            }
        }
    }

    /// Posts a message, and takes the answer. Returns its id, and whether the session is lost.
    async fn post(&self, outgoing: Outgoing, closed: Option<oneshot::Receiver<()>>) -> (Option<u64>, bool) {
        let id = outgoing.id;
        let exchange = self.exchange(&outgoing);
        let lost = match closed {
            Some(closed) => tokio::select! {
                // The sender is dropped when the caller no longer waits.
                _ = closed => Lost::Nothing,
                lost = exchange => lost,
            },
            None => exchange.await,
        };
        match (lost, id) {
            (Lost::Request { class, description, was_read }, Some(id)) => {
                self.connection.lose(id, AttemptFailure::new(class, description), was_read);
                (Some(id), false)
            }
            (Lost::Session, id) => {
                if let Some(id) = id {
                    let failure = AttemptFailure::new(FailureClass::Io, "lost the session");
                    self.connection.lose(id, failure.neutral_if(true), false);
                }
                (id, true)
            }
            (Lost::Nothing | Lost::Request { .. }, id) => (id, false),
        }
    }

    async fn exchange(&self, outgoing: &Outgoing) -> Lost {
        let response = match self.send(outgoing).await {
            Ok(response) => response,
            Err(error) => {
                let was_read = !error.is_connect() && !error.is_builder();
                let description = if was_read { "broke the connection off" } else { "cannot be reached" };
                return failed(FailureClass::Io, description, was_read);
            }
        };
        let status = response.status();
        if outgoing.method == INITIALIZE && status.is_success() {
            self.agreed.lock().session = response.headers().get(SESSION).cloned();
        }
        if let Some(lost) = self.refusal(outgoing, &response) {
            return lost;
        }
        let Some(id) = outgoing.id else { return Lost::Nothing };
        let kind =
            response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let lost = if kind.starts_with(EVENTS) {
            self.read_events(id, response).await
        } else {
            self.read_whole(response).await
        };
        match lost {
            Some(lost) if status.is_success() => lost,
            _ if !self.connection.is_pending(id) => Lost::Nothing,
            _ if !status.is_success() && outgoing.method == DISCOVER => {
                // A server without this request answers it in a way of its own.
                let answer = format!(
                    r#"{{"id":{id},"error":{{"code":{METHOD_NOT_FOUND},"message":"HTTP {status}"}}}}"#
                );
                self.connection.accept(answer.as_bytes());
                Lost::Nothing
            }
            _ if !status.is_success() => {
                let was_read = status != StatusCode::TOO_MANY_REQUESTS;
                failed(FailureClass::BackendFailure, &format!("answered with HTTP {status}"), was_read)
            }
            _ => failed(FailureClass::BackendFailure, "ended its response without an answer", true),
        }
    }

    /// What a response says that has no answer of the server.
    fn refusal(&self, outgoing: &Outgoing, response: &Response) -> Option<Lost> {
        let status = response.status();
        let refused = |description: &str| Some(failed(FailureClass::BackendFailure, description, false));
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                refused(&format!("refused the request with HTTP {status}; check `mcp.headers`"))
            }
            StatusCode::NOT_FOUND
                if outgoing.method != INITIALIZE && self.agreed.lock().session.is_some() =>
            {
                Some(Lost::Session)
            }
            status if status.is_redirection() => {
                let target = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
                let target = target.and_then(|to| self.remote.url.join(to).ok());
                let target = target.and_then(|url| url.host_str().map(str::to_owned));
                let target = target.unwrap_or_else(|| "another address".into());
                refused(&format!(
                    "redirects to {target}, which is not followed; set the new address in `mcp.url`"
                ))
            }
            _ => None,
        }
    }

    async fn send(&self, outgoing: &Outgoing) -> Result<Response, reqwest::Error> {
        let Remote { client, url, headers } = &*self.remote;
        let mut request = client
            .post(url.clone())
            .headers(headers.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, format!("application/json, {EVENTS}"))
            .body(outgoing.line.clone());
        let Agreed { session, version, is_modern } = self.agreed.lock().clone();
        if outgoing.method != INITIALIZE {
            for (name, value) in [(SESSION, session), (VERSION, version)] {
                if let Some(value) = value {
                    request = request.header(name, value);
                }
            }
        }
        if is_modern {
            request = request.header(METHOD, &outgoing.method);
            if let Some(name) = &outgoing.name {
                request = request.header(NAME, header_text(name));
            }
        }
        request.send().await
    }

    /// Takes a body that is one message. Returns what is wrong with it.
    async fn read_whole(&self, mut response: Response) -> Option<Lost> {
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > MAX_ANSWER_BYTES => return Some(too_long()),
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(_) => return Some(failed(FailureClass::Io, "broke its answer off", true)),
            }
        }
        self.connection.accept(&body);
        None
    }

    /// Takes events, each one message. Returns what is wrong with them.
    async fn read_events(&self, id: u64, mut response: Response) -> Option<Lost> {
        let mut events = Events::default();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    for data in events.push(&chunk) {
                        self.connection.accept_about(Some(id), &data);
                    }
                    if events.is_too_long() {
                        return Some(too_long());
                    }
                }
                Ok(None) => return None,
                Err(_) => return Some(failed(FailureClass::Io, "broke its answer off", true)),
            }
        }
    }
}

impl Agreed {
    /// Agrees to `version`, without a handshake if `is_modern`.
    pub(super) fn set_version(&mut self, version: &str, is_modern: bool) {
        self.version = HeaderValue::try_from(version).ok();
        self.is_modern = is_modern;
    }
}

fn failed(class: FailureClass, description: &str, was_read: bool) -> Lost {
    Lost::Request { class, description: description.to_owned(), was_read }
}

fn too_long() -> Lost {
    let description = format!("answered with more than {} MiB", MAX_ANSWER_BYTES >> 20);
    failed(FailureClass::BackendFailure, &description, true)
}
