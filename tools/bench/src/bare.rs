//! The bare chain: the cost of a chat that no component acts on. An HTTP server that calls a gRPC server that
//! calls another, each a process of its own, with the product's messages and libraries.
//!
//! Each server prints its URL when it listens, and ends when its standard input does, so that none outlives the
//! benchmark, however that ends.

use std::{net::SocketAddr, process::Stdio};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{Request, StatusCode},
    routing::post,
    serve::ListenerExt,
};
use clap::{Args, ValueEnum};
use phoenix_proto::planner::{
    PlanAndExecuteRequest, PlanAndExecuteResponse, planner_service_client::PlannerServiceClient,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::TcpListener,
    process::{Child, Command},
};
use tonic::{
    Response, Status,
    server::Grpc,
    service::Routes,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;

use crate::failure::{Doing, Failure, Result};

const PLAN_AND_EXECUTE: &str = "/phoenix.planner.v1.PlannerService/PlanAndExecute";

#[derive(Debug, Args)]
pub(crate) struct BareServerArgs {
    /// Role that the server stands in for
    role: BareRole,
    /// URL of the server that it calls; the executor calls none
    #[arg(long)]
    next: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BareRole {
    Gateway,
    Planner,
    Executor,
}

impl BareRole {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Planner => "planner",
            Self::Executor => "executor",
        }
    }
}

/// The three processes.
pub(crate) struct BareChain {
    /// URL of the first server.
    pub(crate) url: String,
    servers: Vec<Child>,
}

impl BareChain {
    pub(crate) async fn start() -> Result<Self> {
        let mut chain = Self { url: String::new(), servers: Vec::new() };
        for role in [BareRole::Executor, BareRole::Planner, BareRole::Gateway] {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["bare-server", role.as_str()]);
            if !chain.url.is_empty() {
                command.args(["--next", &chain.url]);
            }
            let mut server =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
            let stdout = server.stdout.take().ok_or("no standard output").doing("bare chain")?;
            chain.servers.push(server);
            chain.url.clear();
            BufReader::new(stdout).read_line(&mut chain.url).await?;
            chain.url.truncate(chain.url.trim_end().len());
            if chain.url.is_empty() {
                return Err(Failure::new(format_args!("the bare {} did not start", role.as_str())));
            }
        }
        Ok(chain)
    }

    /// Ends the processes and waits for them.
    pub(crate) async fn stop(mut self) -> Result<()> {
        for server in &mut self.servers {
            // wait() closes the server's standard input first.
            server.wait().await?;
        }
        Ok(())
    }
}

/// One of the three processes.
pub(crate) async fn serve(args: BareServerArgs) -> Result<()> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let next = match args.next {
        Some(url) => {
            Some(PlannerServiceClient::new(Endpoint::from_shared(url).doing("--next")?.connect_lazy()))
        }
        None => None,
    };
    println!("http://{}", listener.local_addr()?);
    tokio::select! {
        served = serve_role(args.role, listener, next) => served,
        read = end_of_input() => read,
    }
}

/// Waits for the end of the standard input.
pub(crate) async fn end_of_input() -> Result<()> {
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}

async fn serve_role(role: BareRole, listener: TcpListener, next: Option<Next>) -> Result<()> {
    match (role, next) {
        (BareRole::Gateway, Some(next)) => {
            let app = Router::new().route("/api/v1/chat", post(chat)).with_state(next);
            let listener = listener.tap_io(|stream| {
                // Slower, not wrong, where it can't be set.
                let _ = stream.set_nodelay(true);
            });
            Ok(axum::serve(listener, app).await?)
        }
        (BareRole::Gateway, None) => Err(Failure::new("the bare gateway needs --next")),
        (BareRole::Planner | BareRole::Executor, next) => {
            // Not the generated server, which would have to be kept in step with every call the product learns.
            let routes = Router::new().route(PLAN_AND_EXECUTE, post(plan_and_execute)).with_state(next);
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            Server::builder()
                .add_routes(Routes::from(routes))
                .serve_with_incoming(incoming)
                .await
                .doing(role.as_str())
        }
    }
}

type Next = PlannerServiceClient<Channel>;

#[derive(Deserialize)]
struct ChatRequest {
    message: String,
    #[serde(default)]
    context: String,
    agent: Option<String>,
}

/// As large as a `ChatResponseV1`.
#[derive(Serialize)]
struct ChatResponse {
    api_version: &'static str,
    correlation_id: &'static str,
    status: &'static str,
    plan_id: String,
    output: String,
    error: Option<String>,
}

async fn chat(
    State(mut next): State<Next>,
    Json(chat): Json<ChatRequest>,
) -> std::result::Result<Json<ChatResponse>, StatusCode> {
    let ChatRequest { message, context, agent } = chat;
    let request = PlanAndExecuteRequest { message, context, agent, ..PlanAndExecuteRequest::default() };
    let answer = next.plan_and_execute(request).await.map_err(|_| StatusCode::BAD_GATEWAY)?.into_inner();
    Ok(Json(ChatResponse {
        api_version: "v1",
        correlation_id: "0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f",
        status: "success",
        plan_id: answer.plan_id,
        output: answer.output,
        error: None,
    }))
}

async fn plan_and_execute(
    State(next): State<Option<Next>>,
    request: Request<Body>,
) -> axum::http::Response<tonic::body::Body> {
    let service = tower::service_fn(move |request: tonic::Request<PlanAndExecuteRequest>| {
        let next = next.clone();
        async move {
            match next {
                Some(mut next) => next.plan_and_execute(request.into_inner()).await,
                None => Ok::<_, Status>(Response::new(echo(request.into_inner()))),
            }
        }
    });
    Grpc::new(ProstCodec::default()).unary(service, request).await
}

fn echo(request: PlanAndExecuteRequest) -> PlanAndExecuteResponse {
    PlanAndExecuteResponse {
        plan_id: "0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f".into(),
        output: request.message,
        agent: "echo_agent".into(),
        ..PlanAndExecuteResponse::default()
    }
}
