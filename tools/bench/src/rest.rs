//! The gateway's REST interface, as far as a benchmark uses it beside chats.

use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, body::Bytes};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
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

impl Rest {
    pub(crate) fn new(base: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { base: base.to_owned(), client: Client::builder(TokioExecutor::new()).build(connector) }
    }

    /// `GET path`, which must be answered with 200.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.send(Method::GET, path, &[], Bytes::new(), StatusCode::OK).await
    }

    /// Hands a plan over, and gives its name.
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
