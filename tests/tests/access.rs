//! Access to the ports of a real stack: tokens, connection limits, networks.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use phoenix_domain::{CorrelationId, limits::MAX_REQUEST_BYTES};
use phoenix_platform::{
    RequestContext,
    client::{self, PeerChannel},
    config::Role,
    multiplex::MultiplexClient,
    service_token::ServiceToken,
};
use phoenix_proto::{
    PlanAndExecute,
    executor::{ExecuteTaskRequest, executor_service_client::ExecutorServiceClient},
    health_v1::{ReportOutcomeRequest, agent_health_service_client::AgentHealthServiceClient},
    planner::{ListPlansRequest, PlanAndExecuteRequest, planner_service_client::PlannerServiceClient},
};
use phoenix_testkit::{
    phoenix_bin,
    processes::pids_with_environment,
    stack::Stack,
    wait::{until, until_some},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::Command,
};
use tonic::Code;

const LIMIT: Duration = Duration::from_secs(5);

/// The services with gRPC ports.
const SERVICES: [Role; 3] = [Role::Planner, Role::Executor, Role::Health];

/// The gRPC code of each service for a caller that presents `token`.
async fn answers(stack: &Stack, token: &ServiceToken) -> Vec<Code> {
    let channel = |role| -> PeerChannel { client::channel(&stack.url(role), token).unwrap() };
    let code = |status: &tonic::Status| status.code();
    let planner =
        PlannerServiceClient::new(channel(Role::Planner)).list_plans(ListPlansRequest::default()).await;
    let executor =
        ExecutorServiceClient::new(channel(Role::Executor)).execute_task(ExecuteTaskRequest::default()).await;
    let health = AgentHealthServiceClient::new(channel(Role::Health))
        .report_outcome(ReportOutcomeRequest::default())
        .await;
    let shared = MultiplexClient::new(channel(Role::Planner));
    let request = PlanAndExecuteRequest { message: " ".into(), ..Default::default() };
    let context = RequestContext::new(CorrelationId::generate());
    // The first call is sent separately, while the shared stream is opened.
    let mut last = Code::Ok;
    for _ in 0..2 {
        let call = shared.call_once::<PlanAndExecute>(&context, request.clone());
        last = call.await.map_or_else(|status| status.code(), |_| Code::Ok);
    }
    vec![
        planner.as_ref().map_or_else(code, |_| Code::Ok),
        executor.as_ref().map_or_else(code, |_| Code::Ok),
        health.as_ref().map_or_else(code, |_| Code::Ok),
        last,
    ]
}

#[tokio::test]
async fn grpc_ports_without_service_token_are_unauthenticated() {
    let stack = Stack::builder().env("ORCH_API_TOKEN", "t").start().await;
    for wrong in ["t", "another-token"] {
        let codes = answers(&stack, &ServiceToken::new(wrong).unwrap()).await;
        assert_eq!(codes, [Code::Unauthenticated; 4], "{wrong}");
    }
    // With the token, each call is validated by its content.
    let invalid = Code::InvalidArgument;
    assert_eq!(answers(&stack, &stack.service_token()).await, [Code::Ok, invalid, invalid, invalid]);
    for role in SERVICES {
        let open = client::channel(&stack.url(role), ServiceToken::new("any").unwrap()).unwrap();
        until(&format!("the {role} answers health checks without a token"), async || {
            client::is_serving(open.clone(), LIMIT).await
        })
        .await;
    }
}

#[tokio::test]
async fn service_token_of_up_is_in_a_private_file_only() {
    let stack = Stack::builder().start().await;
    let path = stack.dir().join("data/service.token");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(&path).unwrap();
    assert_eq!(pids_with_environment(token.trim()), Vec::<i32>::new());
    assert!(!stack.stderr_text().contains(token.trim()));
}

#[tokio::test]
async fn service_without_token_exits_64_and_names_the_settings() {
    let dir = tempfile::tempdir().unwrap();
    for role in Role::ALL {
        let mut command = Command::new(phoenix_bin());
        command.arg(role.as_str()).current_dir(dir.path()).env_clear().kill_on_drop(true);
        let output = tokio::time::timeout(LIMIT, command.output()).await.expect("the process exits").unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{role}: {text}");
        for word in ["PHOENIX_SERVICE_TOKEN_FILE", "PHOENIX_SERVICE_TOKEN ", "data/service.token"] {
            assert!(text.contains(word), "{role}: {text}");
        }
    }
}

/// Every port of a stack.
fn ports(stack: &Stack) -> Vec<SocketAddr> {
    let offset = |role: &Role| {
        let requests: SocketAddr = stack.url(*role).trim_start_matches("http://").parse().unwrap();
        requests.port() - role.default_port()
    };
    let ports = Role::ALL
        .iter()
        .flat_map(|role| [role.default_port(), role.default_metrics_port()].map(|port| port + offset(role)));
    ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
}

#[tokio::test]
async fn silent_connections_are_closed_within_30_s_on_every_port() {
    let stack = Stack::builder().start().await;
    let mut closed = tokio::task::JoinSet::new();
    for addr in ports(&stack) {
        for sent in ["", "G", "PRI * HT"] {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(sent.as_bytes()).await.unwrap();
            closed.spawn(async move {
                let mut rest = Vec::new();
                let end = stream.read_to_end(&mut rest);
                let closed = tokio::time::timeout(Duration::from_secs(30), end).await;
                (addr, sent, closed.is_ok())
            });
        }
    }
    for (addr, sent, is_closed) in closed.join_all().await {
        assert!(is_closed, "{addr} after {sent:?}");
    }
}

#[tokio::test]
async fn half_open_connections_on_every_port_do_not_delay_a_stop() {
    let mut stack = Stack::builder().start().await;
    let mut open = Vec::new();
    for addr in ports(&stack) {
        for said in
            ["", "GET /metrics HTTP/1.1\r\nHos", "POST /api/v1/chat HTTP/1.1\r\ncontent-length: 9\r\n\r\nx"]
        {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            open.push(stream);
        }
    }
    let asked = Instant::now();
    assert_eq!(stack.stop().await, Some(0));
    // Four services, one after the other.
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    drop(open);
}

#[tokio::test]
async fn gateway_keeps_answering_when_connections_flood_it() {
    let stack = Stack::builder().launcher(&["prlimit", "--nofile=256"]).start().await;
    let gateway: SocketAddr = stack.base_url().trim_start_matches("http://").parse().unwrap();
    let mut silent = Vec::new();
    for _ in 0..320 {
        silent.push(TcpStream::connect(gateway).await.unwrap());
    }
    for _ in 0..20 {
        assert_eq!(stack.rest().get("/livez").await.status, 200);
    }
    let lines = stack.stderr_text();
    let warnings = lines.lines().filter(|line| line.contains("cannot accept")).count();
    assert!(warnings <= 1, "{lines}");
    drop(silent);
}

/// A request whose body is announced and sent, but for its last byte.
async fn unfinished_request(gateway: SocketAddr) -> TcpStream {
    let head = format!(
        "POST /api/v1/chat HTTP/1.1\r\nhost: {gateway}\r\ncontent-type: application/json\r\n\
         content-length: {MAX_REQUEST_BYTES}\r\n\r\n"
    );
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    // The gateway refuses a body beyond the budget and may close its connection while the body is sent.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&vec![b' '; MAX_REQUEST_BYTES - 1]).await;
    stream
}

#[tokio::test]
async fn bodies_beyond_the_memory_budget_are_429() {
    let stack = Stack::builder().start().await;
    let gateway: SocketAddr = stack.base_url().trim_start_matches("http://").parse().unwrap();
    let rest = stack.rest();
    let message = "x".repeat(4096);
    // The budget holds 64 of them. Which ones are refused at its end depends on the order in which their bytes are read.
    let mut unfinished = Vec::new();
    let answer = loop {
        assert!(unfinished.len() < 100, "the budget has no end");
        unfinished.push(unfinished_request(gateway).await);
        let answer = rest.chat_with("echo_agent", &message).await;
        if answer.status.as_u16() != 200 {
            break answer;
        }
    };
    let code = answer.json["error"]["code"].as_str();
    assert_eq!((answer.status.as_u16(), code), (429, Some("overloaded")), "{}", answer.text);
    assert!(unfinished.len() >= 64, "refused after {} bodies", unfinished.len());
    drop(unfinished);
    until("the budget is free again", async || {
        rest.chat_with("echo_agent", &message).await.status.as_u16() == 200
    })
    .await;
}

/// The warnings that a health service logs about its metrics port until it is ready, with `METRICS_TOKEN` set or not.
async fn metrics_warnings(token: Option<&str>) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(phoenix_bin());
    command.args(["health", "--addr", "127.0.0.1:0", "--metrics-addr", "0.0.0.0:0", "--log-format", "json"]);
    command.current_dir(dir.path()).env_clear().env("PHOENIX_SERVICE_TOKEN", "service-token-of-a-test");
    command.envs(token.map(|token| ("METRICS_TOKEN", token)));
    let mut service = command.stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(service.stderr.take().unwrap()).lines();
    let mut warnings = Vec::new();
    let read = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            let message = line["message"].as_str().unwrap().to_owned();
            let is_ready = message == "gRPC server listening";
            if line["level"] == "WARN" && message.contains("METRICS_TOKEN") {
                warnings.push(message);
            }
            if is_ready {
                return true;
            }
        }
        false
    };
    let is_ready = tokio::time::timeout(LIMIT, read).await.unwrap();
    assert!(is_ready, "the service ended before it was ready");
    warnings
}

#[tokio::test]
async fn metrics_beyond_loopback_without_token_log_one_warning() {
    assert_eq!(metrics_warnings(None).await.len(), 1);
    assert!(metrics_warnings(Some("sesame")).await.is_empty());
}

#[tokio::test]
async fn chat_at_the_end_of_the_drain_is_503_and_journaled() {
    let builder = Stack::builder();
    let command = "[agents.slow]\ncommand = [\"sleep\", \"600\"]\ntimeout_secs = 300\n";
    let config = format!("[gateway]\nrequest_timeout_secs = 300\n{command}");
    let stack = builder.config(&config).start().await;
    let rest = stack.rest();
    let chat = tokio::spawn({
        let rest = rest.clone();
        async move { rest.chat_with("slow", "hello").await }
    });
    let listed =
        async || rest.get("/api/v1/plans").await.json["plans"][0]["plan_id"].as_str().map(str::to_owned);
    let plan_id = until_some("the plan runs", listed).await;
    stack.signal_role(Role::Gateway, Signal::SIGTERM);
    let answer = tokio::time::timeout(Duration::from_secs(60), chat).await.expect("an answer").unwrap();
    assert_eq!((answer.status.as_u16(), answer.json["error"]["code"].as_str()), (503, Some("unavailable")));
    // `phoenix up` restarts the gateway.
    let plan = until_some("the plan can be read", async || {
        let answer = rest.try_send("GET".parse().unwrap(), &format!("/api/v1/plans/{plan_id}"), None).await?;
        (answer.json["status"] == "cancelled").then_some(answer.text)
    })
    .await;
    assert!(plan.contains("the gateway stopped"), "{plan}");
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[test]
fn compose_tiers_are_on_separate_networks() {
    let text = std::fs::read_to_string(repository().join("docker-compose.yml")).unwrap();
    let mut file: yaml_serde::Value = yaml_serde::from_str(&text).unwrap();
    file.apply_merge().unwrap();
    let file = serde_json::to_value(file).unwrap();
    let networks = |service: &str| -> Vec<String> {
        match &file["services"][service]["networks"] {
            serde_json::Value::Array(names) => {
                names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
            }
            // With aliases.
            serde_json::Value::Object(names) => names.keys().cloned().collect(),
            _ => panic!("{service} is on the default network"),
        }
    };
    let meet = |one: &str, other: &str| networks(one).iter().any(|name| networks(other).contains(name));
    for service in ["planner", "executor", "health"] {
        assert!(meet("gateway", service) && meet("prometheus", service), "{service}");
        assert!(!meet("load-tester", service) && !meet("grafana", service), "{service}");
        assert!(file["services"][service]["environment"]["PHOENIX_SERVICE_TOKEN"].is_string(), "{service}");
    }
    assert!(
        meet("load-tester", "gateway") && meet("prometheus", "load-tester") && meet("grafana", "prometheus")
    );
}

#[test]
fn prometheus_presents_the_metrics_token_where_it_is_set() {
    let run = tempfile::tempdir().unwrap();
    let etc = repository().join("deploy/prometheus");
    let start = |token: &str| {
        let mut command = std::process::Command::new("sh");
        command.arg(etc.join("start.sh")).env("PROMETHEUS_ETC", &etc).env("PROMETHEUS_RUN", run.path());
        let output = command.env("PROMETHEUS_BIN", "echo").env("METRICS_TOKEN", token).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(start("").contains(&format!("--config.file={}/prometheus.yml", etc.display())));
    assert!(start("sesame").contains(&format!("--config.file={}/prometheus.yml", run.path().display())));
    assert_eq!(std::fs::read_to_string(run.path().join("metrics.token")).unwrap(), "sesame");
    let text = std::fs::read_to_string(run.path().join("prometheus.yml")).unwrap();
    let config: yaml_serde::Value = yaml_serde::from_str(&text).unwrap();
    let config = serde_json::to_value(config).unwrap();
    let file = config["scrape_configs"][0]["authorization"]["credentials_file"].as_str().unwrap();
    assert_eq!(Path::new(file), run.path().join("metrics.token"));
    assert!(config["rule_files"][0].as_str().unwrap().starts_with(etc.to_str().unwrap()));
}
