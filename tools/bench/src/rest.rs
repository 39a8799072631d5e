//! The endpoints of the gateway that a benchmark uses in addition to chats.

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
};
use hyper_util::{
    client::legacy::{Builder, Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

use crate::failure::{Doing, Failure, Result};

/// A client of one gateway. It keeps its connections.
#[derive(Debug, Clone)]
pub(crate) struct Rest {
    base: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// A stream of server-sent events.
#[derive(Debug)]
pub(crate) struct EventStream {
    path: String,
    body: Incoming,
    text: String,
}

impl EventStream {
    /// Reads until a line that contains `words`.
    pub(crate) async fn read_until(&mut self, words: &str) -> Result<()> {
        while !self.text.contains(words) {
            let frame = self.body.frame().await.ok_or("it ended").doing(&self.path)?.doing(&self.path)?;
            if let Ok(data) = frame.into_data() {
                self.text.push_str(&String::from_utf8_lossy(&data));
            }
        }
        Ok(())
    }
}

impl Rest {
    pub(crate) fn new(base: &str) -> Self {
        Self::built(base, &Client::builder(TokioExecutor::new()))
    }

    /// A client whose requests share one connection.
    pub(crate) fn over_http2(base: &str) -> Self {
        Self::built(base, Client::builder(TokioExecutor::new()).http2_only(true))
    }

    fn built(base: &str, builder: &Builder) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { base: base.to_owned(), client: builder.build(connector) }
    }

    /// `GET path`, which must be answered with a stream of events.
    pub(crate) async fn events(&self, path: &str) -> Result<EventStream> {
        let request = Request::get(format!("{}{path}", self.base)).header("accept", "text/event-stream");
        let request = request.body(Full::default()).doing(path)?;
        let (head, body) = self.client.request(request).await.doing(path)?.into_parts();
        match head.status {
            StatusCode::OK => Ok(EventStream { path: path.to_owned(), body, text: String::new() }),
            status => Err(Failure::new(format_args!("GET {path} was answered with {status}"))),
        }
    }

    /// `GET path`, which must be answered with 200.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.send(Method::GET, path, &[], Bytes::new(), StatusCode::OK).await
    }

    /// Whether `GET path` is answered with 200.
    pub(crate) async fn is_ok(&self, path: &str) -> bool {
        let uri = format!("{}{path}", self.base).parse();
        let Ok(uri) = uri else { return false };
        self.client.get(uri).await.is_ok_and(|answer| answer.status() == StatusCode::OK)
    }

    /// Runs a plan, which must succeed.
    pub(crate) async fn run(&self, plan: Bytes) -> Result<()> {
        let headers = [("content-type", "application/json")];
        let answer = self.send(Method::POST, "/api/v1/plans", &headers, plan, StatusCode::OK).await?;
        match answer["status"].as_str() {
            Some("succeeded") => Ok(()),
            _ => Err(Failure::new(format_args!("a plan ended in another way: {answer}"))),
        }
    }

    /// Submits a plan. Returns its id.
    pub(crate) async fn submit(&self, plan: Bytes) -> Result<String> {
        let headers = [("content-type", "application/json"), ("prefer", "respond-async")];
        let accepted = self.send(Method::POST, "/api/v1/plans", &headers, plan, StatusCode::ACCEPTED).await?;
        accepted["plan_id"].as_str().map(str::to_owned).ok_or("no plan_id").doing("POST /api/v1/plans")
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
        wanted: StatusCode,
    ) -> Result<Value> {
        let what = format!("{method} {path}");
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).doing(&what)?;
        let (head, body) = self.client.request(request).await.doing(&what)?.into_parts();
        let body = body.collect().await.doing(&what)?.to_bytes();
        if head.status != wanted {
            let text = String::from_utf8_lossy(&body);
            return Err(Failure::new(format_args!("{what} was answered with {}: {text}", head.status)));
        }
        serde_json::from_slice(&body).doing(what)
    }
}
