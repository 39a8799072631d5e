//! A REST client for tests: status, headers, JSON, and streams of events.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, StatusCode,
    body::{Bytes, Incoming},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

use crate::wait::until_some;

/// A client of one gateway, or of several.
#[derive(Debug, Clone)]
pub struct Rest {
    bases: Arc<[String]>,
    /// Number of requests, which choose the gateway.
    sent: Arc<AtomicUsize>,
    headers: Vec<(&'static str, String)>,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// A response.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, or JSON null when it is not JSON.
    pub json: Value,
    /// The body as text.
    pub text: String,
}

/// A stream of server-sent events. Dropping it closes the connection.
#[derive(Debug)]
pub struct EventStream {
    /// The HTTP status.
    pub status: StatusCode,
    body: Incoming,
    unread: Vec<u8>,
}

/// One server-sent event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerEvent {
    /// Its id; empty when it has none.
    pub id: String,
    /// Its kind.
    pub event: String,
    /// Its data, or JSON null when that is not JSON.
    pub data: Value,
}

impl Answer {
    /// A header as text; empty when absent.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// A string member of the body; empty when absent.
    #[must_use]
    pub fn str(&self, name: &str) -> &str {
        self.json[name].as_str().unwrap_or_default()
    }
}

impl EventStream {
    /// The next event; `None` at the end of the stream, or when it breaks.
    pub async fn next(&mut self) -> Option<ServerEvent> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.unread.drain(..end + 2).collect();
                match ServerEvent::parse(&String::from_utf8_lossy(&block)) {
                    Some(event) => return Some(event),
                    // A heartbeat without data.
                    None => continue,
                }
            }
            let frame = self.body.frame().await?.ok()?;
            self.unread.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
    }
}

impl EventStream {
    /// The unread rest as text, for a response that is no stream of events.
    pub async fn text(mut self) -> String {
        let rest = self.body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        self.unread.extend_from_slice(&rest);
        String::from_utf8_lossy(&self.unread).into_owned()
    }
}

impl ServerEvent {
    fn parse(block: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim_start)
        };
        let data = serde_json::from_str(field("data")?).unwrap_or_default();
        Some(Self { id: field("id").unwrap_or_default().into(), event: field("event")?.into(), data })
    }
}

impl Rest {
    /// A client of the gateway at `base`, such as `http://127.0.0.1:8181`.
    #[must_use]
    pub fn new(base: impl Into<String>) -> Self {
        Self::balanced(vec![base.into()])
    }

    /// A client that sends its requests, and those of its clones, to one gateway after the other.
    #[must_use]
    pub fn balanced(bases: Vec<String>) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { bases: bases.into(), sent: Arc::default(), headers: Vec::new(), client }
    }

    /// A client that presents `token`.
    #[must_use]
    pub fn with_token(self, token: impl std::fmt::Display) -> Self {
        self.with_header("authorization", format!("Bearer {token}"))
    }

    /// A client that sends a header with each request.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Submits a plan asynchronously and returns its id.
    ///
    /// # Panics
    /// When the plan is not accepted.
    pub async fn submit(&self, path: &str, body: Value) -> String {
        let answer = self.clone().with_header("prefer", "respond-async").post(path, body).await;
        assert_eq!(answer.status, 202, "{}", answer.text);
        answer.str("plan_id").to_owned()
    }

    /// The current state of a plan.
    pub async fn plan(&self, plan_id: &str) -> Value {
        self.get(&format!("/api/v1/plans/{plan_id}")).await.json
    }

    /// Waits for the end of a plan and returns it.
    pub async fn wait_for_end(&self, plan_id: &str) -> Value {
        until_some("the plan has ended", async || {
            let plan = self.plan(plan_id).await;
            plan["ended_at"].is_string().then_some(plan)
        })
        .await
    }

    /// Sends a request; `None` when the gateway is unreachable.
    pub async fn try_send(&self, method: Method, path: &str, body: Option<Value>) -> Option<Answer> {
        self.try_send_text(method, path, body.map(|json| json.to_string())).await
    }

    /// Like [`Self::try_send`], with a verbatim body, such as JSON that a [`Value`] cannot represent.
    pub async fn try_send_text(&self, method: Method, path: &str, body: Option<String>) -> Option<Answer> {
        let response = self.client.request(self.request(method, path, body)).await.ok()?;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.ok()?.to_bytes();
        Some(Answer {
            status: parts.status,
            headers: parts.headers,
            json: serde_json::from_slice(&bytes).unwrap_or_default(),
            text: String::from_utf8_lossy(&bytes).into_owned(),
        })
    }

    /// Like [`Self::try_send`], for a stream of events.
    pub async fn try_events(&self, method: Method, path: &str, body: Option<Value>) -> Option<EventStream> {
        let body = body.map(|json| json.to_string());
        let response = self.client.request(self.request(method, path, body)).await.ok()?;
        Some(EventStream { status: response.status(), body: response.into_body(), unread: Vec::new() })
    }

    fn request(&self, method: Method, path: &str, body: Option<String>) -> Request<Full<Bytes>> {
        let base = &self.bases[self.sent.fetch_add(1, Ordering::Relaxed) % self.bases.len()];
        let mut request = Request::builder().method(method).uri(format!("{base}{path}"));
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map(Bytes::from).unwrap_or_default();
        request.body(Full::new(body)).expect("a valid request")
    }

    /// `GET path`.
    ///
    /// # Panics
    /// When the gateway is unreachable.
    pub async fn get(&self, path: &str) -> Answer {
        self.try_send(Method::GET, path, None).await.expect("the gateway answers")
    }

    /// `POST path` with a JSON body.
    ///
    /// # Panics
    /// When the gateway is unreachable.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.try_send(Method::POST, path, Some(body)).await.expect("the gateway answers")
    }

    /// `POST path` with a verbatim body.
    ///
    /// # Panics
    /// When the gateway is unreachable.
    pub async fn post_text(&self, path: &str, body: String) -> Answer {
        self.try_send_text(Method::POST, path, Some(body)).await.expect("the gateway answers")
    }

    /// Sends a chat to `agent`.
    pub async fn chat_with(&self, agent: &str, message: &str) -> Answer {
        self.post("/api/v1/chat", serde_json::json!({"message": message, "agent": agent})).await
    }

    /// One agent of `GET /api/v1/agents`; `None` while the gateway is unreachable.
    pub async fn agent(&self, name: &str) -> Option<Value> {
        let answer = self.try_send(Method::GET, "/api/v1/agents", None).await?;
        answer.json.as_array()?.iter().find(|agent| agent["agent_id"] == name).cloned()
    }
}
