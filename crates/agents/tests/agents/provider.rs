//! A scripted model provider on a loopback port that records its requests.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::IntoResponse,
};
use serde_json::Value;
use tokio::sync::oneshot;

/// A recorded request.
#[derive(Debug, Clone)]
pub(crate) struct RecordedRequest {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    /// The body as it was sent.
    pub(crate) text: String,
}

impl RecordedRequest {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// A scripted response.
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
    delay: Duration,
}

impl Reply {
    /// The same response after a delay.
    pub(crate) fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    pub(crate) fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl<B: Into<String>> From<(u16, B)> for Reply {
    fn from((status, body): (u16, B)) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), delay: Duration::ZERO }
    }
}

/// The server. Dropping it stops it.
pub(crate) struct Provider {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<RecordedRequest>>>,
    _stop: oneshot::Sender<()>,
}

impl Provider {
    /// Answers every request with this status and body.
    pub(crate) fn answering(status: u16, body: impl Into<String>) -> Self {
        let body = body.into();
        Self::with(move |_| Some((status, body.clone())))
    }

    /// Answers with the result of `answer`; `None` never answers.
    pub(crate) fn with<R: Into<Reply>>(
        answer: impl Fn(&RecordedRequest) -> Option<R> + Send + Sync + 'static,
    ) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let remembered = asked.clone();
        let answer = Arc::new(answer);
        let handler = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let text = String::from_utf8_lossy(&body).into_owned();
            let body = serde_json::from_str(&text).unwrap_or_default();
            let asked = RecordedRequest { method, path: uri.to_string(), headers, body, text };
            let reply = answer(&asked).map(Into::into);
            remembered.lock().unwrap().push(asked);
            async move {
                match reply {
                    Some(Reply { status, headers, body, delay }) => {
                        tokio::time::sleep(delay).await;
                        let mut response = (StatusCode::from_u16(status).unwrap(), body).into_response();
                        for (name, value) in headers {
                            response.headers_mut().insert(name, value.parse().unwrap());
                        }
                        response
                    }
                    None => std::future::pending().await,
                }
            }
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let serving = axum::serve(listener, Router::new().fallback(handler));
                tokio::select! {
                    served = serving.into_future() => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self { address, asked, _stop: stop }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn asked(&self) -> Vec<RecordedRequest> {
        self.asked.lock().unwrap().clone()
    }

    /// The only request.
    pub(crate) fn only_request(&self) -> RecordedRequest {
        let asked = self.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked[0].clone()
    }
}
