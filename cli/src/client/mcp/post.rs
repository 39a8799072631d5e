//! Messages that are posted to the gateway.

use std::sync::Mutex;

use futures_util::StreamExt;
use reqwest::{
    Method, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use sse_stream::SseStream;
use tokio::sync::mpsc;

use super::message::{Message, agreed_version, error, received};
use crate::client::{error::ClientError, gateway::Gateway};

const PATH: &str = "/mcp";
const EVENTS: &str = "text/event-stream";
const SESSION: &str = "mcp-session-id";
const VERSION: &str = "mcp-protocol-version";

/// The bridge or the gateway failed.
const INTERNAL_ERROR: i64 = -32603;

/// Posts messages to a gateway.
pub(super) struct Poster {
    gateway: Gateway,
    handshake: Mutex<Handshake>,
}

/// What a handshake agreed to; empty without one.
#[derive(Debug, Clone, Default)]
struct Handshake {
    session: Option<String>,
    version: Option<String>,
}

impl Poster {
    /// Posts messages to `gateway`.
    pub(super) fn new(gateway: Gateway) -> Self {
        Self { gateway, handshake: Mutex::default() }
    }

    /// Posts a notification.
    ///
    /// # Errors
    /// When it does not arrive.
    pub(super) async fn notify(&self, message: &Message) -> Result<(), ClientError> {
        self.post(message).await.map(|_| ())
    }

    /// Posts a request, and sends every message of the response to `answers`, the answer last.
    pub(super) async fn request(&self, message: &Message, answers: &mpsc::Sender<String>) {
        let id = message.id().unwrap_or_default();
        if let Err(problem) = self.answer(message, &id, answers).await {
            // Fails when the client no longer reads.
            let _ = answers.send(error(Some(&id), INTERNAL_ERROR, &problem.to_string())).await;
        }
    }

    async fn answer(
        &self,
        message: &Message,
        id: &str,
        answers: &mpsc::Sender<String>,
    ) -> Result<(), ClientError> {
        let response = self.post(message).await?;
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let session = header(SESSION);
        if header(CONTENT_TYPE.as_str()).is_some_and(|kind| kind.starts_with(EVENTS)) {
            return self.stream(response, id, answers).await;
        }
        let status = response.status();
        let text = response.text().await.map_err(|error| self.broken(&error))?;
        let Some((text, _)) = received(&text, id) else { return Err(self.not_phoenix(status)) };
        if message.method() == Some("initialize") {
            let agreed = Handshake { session, version: agreed_version(&text) };
            *self.handshake.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = agreed;
        }
        let _ = answers.send(text).await;
        Ok(())
    }

    /// Passes the events of `response` on, up to the answer.
    async fn stream(
        &self,
        response: Response,
        id: &str,
        answers: &mpsc::Sender<String>,
    ) -> Result<(), ClientError> {
        let mut events = Box::pin(SseStream::from_bytes_stream(response.bytes_stream()));
        while let Some(event) = events.next().await {
            let event = event.map_err(|error| self.broken(&error))?;
            let Some((text, is_answer)) = event.data.and_then(|data| received(&data, id)) else { continue };
            if answers.send(text).await.is_err() || is_answer {
                return Ok(());
            }
        }
        Err(ClientError::Broken {
            url: self.gateway.url().into(),
            problem: "it ended without an answer".into(),
        })
    }

    async fn post(&self, message: &Message) -> Result<Response, ClientError> {
        let mut request = self
            .gateway
            .request(Method::POST, PATH)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, format!("application/json, {EVENTS}"))
            .body(message.text().to_owned());
        if let Some(version) = message.version() {
            request =
                request.header(VERSION, version).header("mcp-method", message.method().unwrap_or_default());
            if let Some(name) = message.header_name() {
                request = request.header("mcp-name", name);
            }
        } else if message.method() != Some("initialize") {
            let agreed = self.handshake.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            for (name, value) in [(SESSION, agreed.session), (VERSION, agreed.version)] {
                if let Some(value) = value {
                    request = request.header(name, value);
                }
            }
        }
        self.gateway.respond(request).await
    }

    fn broken(&self, error: &dyn std::error::Error) -> ClientError {
        ClientError::Broken { url: self.gateway.url().into(), problem: error.to_string() }
    }

    fn not_phoenix(&self, status: StatusCode) -> ClientError {
        let problem = format!("{status} without a message of the protocol");
        ClientError::NotPhoenix { url: self.gateway.url().into(), problem }
    }
}
