//! A gateway on its own port, in front of scripted gRPC servers.
#![allow(clippy::cast_precision_loss, dead_code, missing_docs, unreachable_pub, unused_imports)] // Each test binary uses its part of it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use phoenix_domain::llm::LlmDescription;
use phoenix_gateway::GatewayConfig;
use phoenix_platform::{readiness::Readiness, server::GrpcServer, service_token::ServiceToken};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

pub mod browser;
mod health;
mod planner;
pub mod plans;

pub use health::{FakeHealth, agent};
pub use planner::{FakePlanner, Reply, Seen, Watch};

/// Time limit of every wait in a test; long, for slow machines.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A server that runs until it is dropped.
#[derive(Debug)]
pub struct Server {
    pub addr: SocketAddr,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Server {
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Stops the server and waits for its end.
    pub async fn stop(self) {
        drop(self.stop);
        tokio::time::timeout(PATIENCE, self.task).await.expect("ends in time").unwrap();
    }
}

/// Serves gRPC on `addr`; port 0 takes a free port.
pub async fn serve_grpc(addr: SocketAddr, server: GrpcServer) -> Server {
    let listener = TcpListener::bind(addr).await.unwrap();
    let stop = CancellationToken::new();
    Server {
        addr: listener.local_addr().unwrap(),
        task: {
            let stop = stop.clone();
            tokio::spawn(async move { server.serve(listener, stop).await.unwrap() })
        },
        stop: stop.drop_guard(),
    }
}

pub fn free() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// An address without a listener.
pub async fn unused_addr() -> SocketAddr {
    TcpListener::bind(free()).await.unwrap().local_addr().unwrap()
}

/// A gateway and the three services behind it. Everything ends with it.
#[derive(Debug)]
pub struct Stack {
    pub gateway: Server,
    pub planner: FakePlanner,
    pub health: FakeHealth,
    pub planner_ready: Readiness,
    pub executor_ready: Readiness,
    pub health_ready: Readiness,
    pub http: Http,
    _services: [Server; 3],
}

impl Stack {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(configure: impl FnOnce(&mut GatewayConfig)) -> Self {
        let (planner, health) = (FakePlanner::default(), FakeHealth::default());
        let ready = || Readiness::needing(&[]);
        let (planner_ready, executor_ready, health_ready) = (ready(), ready(), ready());
        let services = [
            serve_grpc(free(), planner.server(planner_ready.clone())).await,
            serve_grpc(free(), GrpcServer::new(executor_ready.clone(), token())).await,
            serve_grpc(free(), health.server(health_ready.clone())).await,
        ];
        let mut config = config(&services[0].url(), &services[1].url(), &services[2].url());
        configure(&mut config);
        let gateway = serve_gateway(config).await;
        let http = Http::new(gateway.addr);
        Self {
            gateway,
            planner,
            health,
            planner_ready,
            executor_ready,
            health_ready,
            http,
            _services: services,
        }
    }
}

/// Service token of the gateway and its peers.
pub fn token() -> ServiceToken {
    ServiceToken::new("of-the-test").unwrap()
}

pub fn config(planner: &str, executor: &str, health: &str) -> GatewayConfig {
    GatewayConfig {
        planner_url: planner.into(),
        executor_url: executor.into(),
        health_url: health.into(),
        api_token: None,
        identity: token().into(),
        tls: None,
        cors_allowed_origins: Vec::new(),
        mcp_actions: Vec::new(),
        request_timeout: PATIENCE,
        llm: LlmDescription { provider: "offline".into(), model: "none".into() },
        models: vec!["ollama/llama3.2:1b".into()],
    }
}

pub async fn serve_gateway(config: GatewayConfig) -> Server {
    let listener = TcpListener::bind(free()).await.unwrap();
    let stop = CancellationToken::new();
    Server {
        addr: listener.local_addr().unwrap(),
        task: {
            let stop = stop.clone();
            tokio::spawn(async move { phoenix_gateway::serve(config, listener, stop).await.unwrap() })
        },
        stop: stop.drop_guard(),
    }
}

/// An HTTP client.
#[derive(Debug, Clone)]
pub struct Http {
    addr: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    /// Time limit of an answer.
    patience: Duration,
}

/// A response.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
    pub took: Duration,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A streamed response.
#[derive(Debug)]
pub struct Streamed {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: hyper::body::Incoming,
    text: String,
}

/// A server-sent event: id, kind, data.
pub type Sent = (String, String, Value);

impl Streamed {
    /// The next event; `None` at the end of the stream. Comments are skipped.
    pub async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let fields: Vec<_> = event.lines().filter_map(|line| line.split_once(": ")).collect();
                let field =
                    |name| fields.iter().find(|(field, _)| *field == name).map_or("", |(_, text)| *text);
                let sent = (field("id").into(), field("event").into(), field("data").into());
                self.text = rest.to_owned();
                let (id, kind, data): (String, String, String) = sent;
                if kind.is_empty() {
                    continue;
                }
                return Some((id, kind, serde_json::from_str(&data).unwrap()));
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event in time")?;
            let data = frame.unwrap().into_data().unwrap();
            self.text.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    /// Every event up to the end of the stream.
    pub async fn rest(mut self) -> Vec<Sent> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

impl Http {
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, client: Client::builder(TokioExecutor::new()).build_http(), patience: PATIENCE }
    }

    /// A client of a server that may be slower than others.
    pub fn patient(addr: SocketAddr, patience: Duration) -> Self {
        Self { patience, ..Self::new(addr) }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    /// Posts JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, &[("content-type", "application/json")], &body.to_string()).await
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Answer {
        let started = Instant::now();
        let Streamed { status, headers, body, .. } = self.stream(method, path, headers, body).await;
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status, headers, text, took: started.elapsed() }
    }

    /// Sends a request with a streamed response.
    pub async fn stream(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Streamed {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.addr));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body.as_ref()))).unwrap();
        let response = tokio::time::timeout(self.patience, self.client.request(request)).await;
        let (parts, body) = response.expect("an answer in time").unwrap().into_parts();
        Streamed { status: parts.status, headers: parts.headers, body, text: String::new() }
    }
}

/// Waits until `condition` holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let asked = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("timed out: {what}"));
}

/// A value that tests and fakes share.
type Shared<T> = Arc<Mutex<T>>;
