//! Requests to a gateway.

use std::{collections::HashMap, pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt};
use phoenix_domain::{OrchestratorErrorCode, json::Json};
use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue},
};
use serde_json::value::RawValue;
use sse_stream::{Sse, SseStream};
use url::Url;

use super::{
    endpoint::{Endpoint, GatewayArgs},
    error::ClientError,
    output::plain,
    text_file,
};

/// Limit of the time for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Most elements of one page.
const PAGE: u64 = 500;

/// A gateway.
pub(crate) struct Gateway {
    client: Client,
    url: Url,
}

/// How rustls begins what is wrong with the certificate of a server.
const UNTRUSTED: &str = "invalid peer certificate: ";

/// Events of a response.
pub(crate) struct Events {
    stream: Pin<Box<dyn Stream<Item = Result<Sse, sse_stream::Error>> + Send>>,
    url: String,
}

impl Gateway {
    /// The gateway that `args` names. No connection is made yet.
    ///
    /// # Errors
    /// When the address, the token or a file is not valid.
    pub(crate) fn new(args: &GatewayArgs) -> Result<Self, ClientError> {
        let Endpoint { url, token, ca } = args.endpoint.resolve()?;
        // An error means that a provider is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut headers = HeaderMap::new();
        if let Some(token) = token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose())).map_err(|_| {
                ClientError::Usage("the token has characters that no header can carry".into())
            })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut builder = Client::builder()
            .user_agent(concat!("phoenix/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT);
        // Neither is needed for a gateway without TLS, and a machine may have no certificates at all.
        if let Some(path) = &ca {
            let invalid =
                |error| ClientError::Usage(format!("`{}` has no certificates: {error}", path.display()));
            let pem = text_file::read(path)?;
            builder = builder
                .tls_certs_only(reqwest::Certificate::from_pem_bundle(pem.as_bytes()).map_err(invalid)?);
        } else if url.scheme() == "http" {
            builder = builder.tls_certs_only([]);
        }
        let client =
            builder.build().map_err(|error| ClientError::Usage(format!("no HTTP client: {error}")))?;
        Ok(Self { client, url })
    }

    /// The address as text.
    pub(crate) fn url(&self) -> &str {
        self.url.as_str()
    }

    /// A request of `path`, which begins with a slash.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.address(path))
    }

    /// A request that reads `path` with a query.
    pub(crate) fn read(&self, path: &str, query: &[(&str, &str)]) -> RequestBuilder {
        let mut url = self.address(path);
        url.query_pairs_mut().extend_pairs(query);
        self.client.get(url)
    }

    /// The address of `path` below the gateway's.
    fn address(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{path}", self.url.path().trim_end_matches('/')));
        url
    }

    /// The body of the response to `request`, as it was sent.
    ///
    /// # Errors
    /// When there is none, or it is an error.
    pub(crate) async fn json(&self, request: RequestBuilder) -> Result<Box<RawValue>, ClientError> {
        let response = self.send(request).await?;
        let text = response.text().await.map_err(|error| self.broken(&error))?;
        serde_json::from_str(&text).map_err(|error| self.not_phoenix(&error))
    }

    /// Elements of the member `name` of one page of `path` after another, at most `limit`.
    ///
    /// # Errors
    /// As of [`Gateway::json`].
    pub(crate) async fn list(
        &self,
        path: &str,
        query: &[(&str, &str)],
        name: &str,
        limit: u64,
    ) -> Result<Vec<Box<RawValue>>, ClientError> {
        let mut elements = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let missing = limit.saturating_sub(elements.len() as u64);
            let size = missing.min(PAGE).to_string();
            let mut url = self.address(path);
            url.query_pairs_mut().extend_pairs(query).append_pair("page_size", &size);
            url.query_pairs_mut().extend_pairs(token.map(|token| ("page_token", token)));
            let page = self.json(self.client.get(url)).await?;
            let mut members: HashMap<String, Box<RawValue>> =
                serde_json::from_str(page.get()).map_err(|error| self.not_phoenix(&error))?;
            let found = members.remove(name).unwrap_or_default();
            let found: Vec<Box<RawValue>> =
                serde_json::from_str(found.get()).map_err(|error| self.not_phoenix(&error))?;
            elements.extend(found);
            token = members
                .get("next_page_token")
                .and_then(|token| serde_json::from_str(token.get()).ok())
                .flatten();
            if token.is_none() || elements.len() as u64 >= limit {
                elements.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
                return Ok(elements);
            }
        }
    }

    /// The events of the response to `request`.
    ///
    /// # Errors
    /// When there are none, or the response is an error.
    pub(crate) async fn events(&self, request: RequestBuilder) -> Result<Events, ClientError> {
        let response = self.send(request.header(ACCEPT, "text/event-stream")).await?;
        let stream = Box::pin(SseStream::from_bytes_stream(response.bytes_stream()));
        Ok(Events { stream, url: self.url.to_string() })
    }

    /// The response to `request`, whatever its status.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn respond(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        request.send().await.map_err(|error| {
            let (url, problem) = (self.url.to_string(), cause(&error));
            if error.is_builder() {
                ClientError::Usage(problem)
            } else if let Some(problem) = problem.strip_prefix(UNTRUSTED) {
                ClientError::NotTrusted { url, problem: problem.to_owned() }
            } else {
                ClientError::Unreachable { url, problem }
            }
        })
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = self.respond(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let text = response.text().await.map_err(|error| self.broken(&error))?;
        Err(refusal(status, &text))
    }

    fn broken(&self, error: &reqwest::Error) -> ClientError {
        ClientError::Broken { url: self.url.to_string(), problem: cause(error) }
    }

    fn not_phoenix(&self, error: &serde_json::Error) -> ClientError {
        ClientError::NotPhoenix { url: self.url.to_string(), problem: error.to_string() }
    }
}

impl Events {
    /// The next event; `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(crate) async fn next(&mut self) -> Result<Option<Sse>, ClientError> {
        let broken = |error: sse_stream::Error| ClientError::Broken {
            url: self.url.clone(),
            problem: error.to_string(),
        };
        self.stream.next().await.transpose().map_err(broken)
    }
}

/// `text` as a segment of a path.
///
/// # Errors
/// When it cannot be the id of a plan.
pub(crate) fn id(text: &str) -> Result<String, ClientError> {
    let is_id = text.len() == 36 && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    if is_id {
        Ok(text.into())
    } else {
        Err(ClientError::Usage(format!("`{text}` is not an id, which has 36 characters")))
    }
}

/// An error response.
fn refusal(status: StatusCode, text: &str) -> ClientError {
    let body: Json = Json::parse_stored(text).unwrap_or_default();
    // Chats and plans have the error in a member, other routes are problem details (RFC 9457).
    let error = if body["error"].is_object() { &body["error"] } else { &body };
    let message = error["message"].as_str().or(error["detail"].as_str());
    let Some((code, message)) = error["code"].as_str().zip(message) else {
        let hint = if text.trim().is_empty() { "without a body" } else { "whose body is not one of Phoenix" };
        let message = format!("the server answered {status} {hint}");
        return ClientError::Refused { status: status.as_u16(), code: None, message };
    };
    let hint = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            "; ORCH_API_TOKEN, --token, --token-file or a context gives the token"
        }
        _ => "",
    };
    let trace = body["correlation_id"].as_str().filter(|_| body["plan_id"].as_str().is_some());
    let trace = trace.map(|id| format!("\nphoenix trace {id} shows what happened")).unwrap_or_default();
    ClientError::Refused {
        status: status.as_u16(),
        code: OrchestratorErrorCode::from_name(code),
        message: format!("{}: {}{hint}{trace}", plain(code), plain(message)),
    }
}

/// The innermost cause of an error, which says more than the outermost.
fn cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
