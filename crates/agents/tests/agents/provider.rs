//! A language-model provider on a loopback port: answers as told and remembers what it was asked.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, Method, StatusCode, Uri, header::LOCATION},
    response::IntoResponse,
};
use serde_json::Value;
use tokio::sync::oneshot;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// The server. It ends with this value.
pub(crate) struct Provider {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    _stop: oneshot::Sender<()>,
}

impl Provider {
    /// Answers everything with this status and body.
    pub(crate) fn answering(status: u16, body: impl Into<String>) -> Self {
        let body = body.into();
        Self::with(move |_| Some((status, body.clone())))
    }

    /// Answers what `answer` says; `None` never answers. The body of a 307 is also where it points to.
    pub(crate) fn with(answer: impl Fn(&Asked) -> Option<(u16, String)> + Send + Sync + 'static) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let remembered = asked.clone();
        let answer = Arc::new(answer);
        let handler = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let body = serde_json::from_slice(&body).unwrap_or_default();
            let asked = Asked { method, path: uri.to_string(), headers, body };
            let reply = answer(&asked);
            remembered.lock().unwrap().push(asked);
            async move {
                match reply {
                    Some((307, target)) => {
                        (StatusCode::TEMPORARY_REDIRECT, [(LOCATION, target.clone())], target).into_response()
                    }
                    Some((status, body)) => (StatusCode::from_u16(status).unwrap(), body).into_response(),
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

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The only request there was.
    pub(crate) fn only_asked(&self) -> Asked {
        let asked = self.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked[0].clone()
    }
}
