//! REST calls as a test sees them: status, headers, JSON.

use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, StatusCode, body::Bytes};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

/// A client of one gateway.
#[derive(Debug, Clone)]
pub struct Rest {
    base: String,
    headers: Vec<(&'static str, String)>,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// An answer.
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

impl Rest {
    /// A client of the gateway at `base`, such as `http://127.0.0.1:8181`.
    #[must_use]
    pub fn new(base: impl Into<String>) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { base: base.into(), headers: Vec::new(), client }
    }

    /// The same, presenting `token`.
    #[must_use]
    pub fn with_token(self, token: impl std::fmt::Display) -> Self {
        self.with_header("authorization", format!("Bearer {token}"))
    }

    /// The same, sending a header with each request.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Sends a request; `None` when the gateway can't be reached.
    pub async fn try_send(&self, method: Method, path: &str, body: Option<Value>) -> Option<Answer> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let body = body.map(|json| Bytes::from(json.to_string())).unwrap_or_default();
        let response =
            self.client.request(request.body(Full::new(body)).expect("a valid request")).await.ok()?;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.ok()?.to_bytes();
        Some(Answer {
            status: parts.status,
            headers: parts.headers,
            json: serde_json::from_slice(&bytes).unwrap_or_default(),
            text: String::from_utf8_lossy(&bytes).into_owned(),
        })
    }

    /// `GET path`.
    ///
    /// # Panics
    /// When the gateway can't be reached.
    pub async fn get(&self, path: &str) -> Answer {
        self.try_send(Method::GET, path, None).await.expect("the gateway answers")
    }

    /// `POST path` with a JSON body.
    ///
    /// # Panics
    /// When the gateway can't be reached.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.try_send(Method::POST, path, Some(body)).await.expect("the gateway answers")
    }

    /// A chat for `agent`.
    pub async fn chat_with(&self, agent: &str, message: &str) -> Answer {
        self.post("/api/v1/chat", serde_json::json!({"message": message, "agent": agent})).await
    }

    /// What `GET /api/v1/agents` says of one agent; `None` while it can't be asked.
    pub async fn agent(&self, name: &str) -> Option<Value> {
        let answer = self.try_send(Method::GET, "/api/v1/agents", None).await?;
        answer.json.as_array()?.iter().find(|agent| agent["agent_id"] == name).cloned()
    }
}
