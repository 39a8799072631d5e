//! The program from outside: spawned like a person would, against a gateway of the test's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    process::{Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{ConnectInfo, State},
    http::{HeaderMap, StatusCode},
    routing::post,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::Notify,
    time::timeout,
};

/// Far more than anything here takes.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// How the scripted gateway answers.
#[derive(Clone, Copy)]
enum Script {
    Answer,
    /// Every second chat is refused.
    RefuseEverySecond,
    /// The first chat is answered after this time, the others at once.
    StallFirst(Duration),
    /// Only this many chats are answered.
    AnswerOnly(u64),
}

struct Gateway {
    script: Script,
    chats: AtomicU64,
    peers: Mutex<BTreeSet<SocketAddr>>,
    last: Mutex<Option<(HeaderMap, Value)>>,
    unanswered: Notify,
}

impl Gateway {
    async fn start(script: Script) -> (Arc<Self>, String) {
        let gateway = Arc::new(Self {
            script,
            chats: AtomicU64::new(0),
            peers: Mutex::default(),
            last: Mutex::default(),
            unanswered: Notify::new(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().route("/api/v1/chat", post(chat)).with_state(Arc::clone(&gateway));
        let service = app.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        (gateway, url)
    }

    fn chats(&self) -> u64 {
        self.chats.load(Ordering::SeqCst)
    }
}

async fn chat(
    State(gateway): State<Arc<Gateway>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let number = gateway.chats.fetch_add(1, Ordering::SeqCst);
    gateway.peers.lock().unwrap().insert(peer);
    *gateway.last.lock().unwrap() = Some((headers, body));
    match gateway.script {
        Script::RefuseEverySecond if number % 2 == 1 => {
            let error = json!({"code": "agent_unavailable", "message": "later", "details": {}});
            return (
                StatusCode::SERVICE_UNAVAILABLE,
                Json(json!({"api_version": "v1", "status": "error", "output": null, "error": error})),
            );
        }
        Script::StallFirst(stall) if number == 0 => tokio::time::sleep(stall).await,
        Script::AnswerOnly(limit) if number >= limit => {
            gateway.unanswered.notify_one();
            std::future::pending::<()>().await;
        }
        _ => {}
    }
    (StatusCode::OK, Json(json!({"api_version": "v1", "status": "success", "output": "hi", "error": null})))
}

fn command(url: &str, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_load_tester"));
    command.args(["--url", url]).args(words);
    command.env_remove("METRICS_ADDR").env_remove("ORCH_API_TOKEN");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(url: &str, words: &[&str]) -> Output {
    let words = [words, &["--metrics-addr", "off"]].concat();
    timeout(TIME_LIMIT, command(url, &words).output()).await.expect("the run is bounded").unwrap()
}

async fn run_json(url: &str, words: &[&str]) -> (i32, Value) {
    let output = run(url, &[words, &["--json"]].concat()).await;
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|problem| {
        panic!(
            "{problem}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    });
    (output.status.code().unwrap(), json)
}

#[tokio::test]
async fn requested_number_is_sent_over_kept_connections() {
    let (gateway, url) = Gateway::start(Script::Answer).await;
    let (code, report) = run_json(&url, &["--requests", "237", "--concurrency", "4"]).await;
    assert_eq!((code, gateway.chats()), (0, 237));
    assert_eq!(gateway.peers.lock().unwrap().len(), 4);
    assert_eq!(report["outcomes"], json!([{"status": 200, "code": "success", "count": 237}]));
    let keys: Vec<_> = report.as_object().unwrap().keys().map(String::as_str).collect();
    let mut stable = [
        "url",
        "mode",
        "connections",
        "rate",
        "elapsed_secs",
        "sent",
        "ok",
        "errors",
        "error_rate",
        "req_per_sec",
        "latency_ms",
        "outcomes",
        "missed",
    ];
    stable.sort_unstable();
    assert_eq!(BTreeSet::from_iter(keys), BTreeSet::from(stable));
    for quantile in ["p50", "p90", "p99", "p99_9", "max"] {
        assert!(report["latency_ms"][quantile].as_f64().unwrap() > 0.0, "{quantile}");
    }
}

#[tokio::test]
async fn the_warm_up_is_sent_and_not_counted() {
    let (gateway, url) = Gateway::start(Script::Answer).await;
    let words = ["--requests", "10", "--warmup-secs", "0.2", "--concurrency", "2"];
    let (code, report) = run_json(&url, &words).await;
    assert_eq!((code, &report["sent"]), (0, &json!(10)));
    assert!(gateway.chats() > 10);
    assert_eq!(gateway.peers.lock().unwrap().len(), 2, "the measured run uses the warm connections");
}

#[tokio::test]
async fn an_open_loop_charges_a_stall_to_everyone_who_had_to_wait() {
    let (_, url) = Gateway::start(Script::StallFirst(Duration::from_millis(500))).await;
    let words = ["--rate", "100", "--requests", "20", "--concurrency", "1"];
    let (code, report) = run_json(&url, &words).await;
    assert_eq!((code, &report["mode"], &report["ok"]), (0, &json!("open"), &json!(20)));
    // The last chat was due 190 ms after the first and could not be sent before 500 ms.
    let median = report["latency_ms"]["p50"].as_f64().unwrap();
    assert!(median >= 310.0, "{median}");
}

#[tokio::test]
async fn an_open_loop_keeps_its_pace() {
    let (gateway, url) = Gateway::start(Script::Answer).await;
    let (code, report) = run_json(&url, &["--rate", "50", "--duration-secs", "0.5"]).await;
    assert_eq!((code, gateway.chats()), (0, 25));
    let elapsed = report["elapsed_secs"].as_f64().unwrap();
    assert!(elapsed >= 0.48, "the last of 25 chats is due after 480 ms, and all ended after {elapsed} s");
}

#[tokio::test]
async fn failures_are_counted_by_code_and_limited_by_share() {
    let (_, url) = Gateway::start(Script::RefuseEverySecond).await;
    let words = ["--requests", "40", "--concurrency", "2", "--max-error-rate"];
    let (code, report) = run_json(&url, &[&words[..], &["0.5"]].concat()).await;
    assert_eq!(code, 0, "{report}");
    assert_eq!(
        report["outcomes"],
        json!([
            {"status": 200, "code": "success", "count": 20},
            {"status": 503, "code": "agent_unavailable", "count": 20},
        ])
    );
    let (code, report) = run_json(&url, &[&words[..], &["0.49"]].concat()).await;
    assert_eq!((code, report["missed"].as_array().unwrap().len()), (1, 1), "{report}");
}

#[tokio::test]
async fn a_slow_p99_is_a_missed_limit() {
    let (_, url) = Gateway::start(Script::StallFirst(Duration::from_millis(300))).await;
    let words = ["--requests", "2", "--concurrency", "1", "--max-p99-ms"];
    let slow = run(&url, &[&words[..], &["299"]].concat()).await;
    assert_eq!(slow.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&slow.stderr).contains("--max-p99-ms"));
    let kept = run(&url, &[&words[..], &["60000"]].concat()).await;
    assert_eq!(kept.status.code(), Some(0));
    let table = String::from_utf8_lossy(&kept.stdout).into_owned();
    for row in ["sent        2", "req/s ", "p99.9 ", "200     success"] {
        assert!(table.contains(row), "{row} is missing from:\n{table}");
    }
}

#[tokio::test]
async fn a_server_that_is_down_is_named_and_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let output = run(&url, &["--requests", "3", "--concurrency", "3", "--json"]).await;
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(&format!("cannot connect to {url}")), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["outcomes"], json!([{"status": null, "code": "connect_failed", "count": 3}]));
    assert_eq!(report["latency_ms"]["p99"], Value::Null);
}

#[tokio::test]
async fn silent_server_is_waited_for_as_long_as_allowed() {
    let (_, url) = Gateway::start(Script::AnswerOnly(0)).await;
    let words = ["--requests", "4", "--concurrency", "2", "--timeout-secs", "0.2"];
    let (code, report) = run_json(&url, &words).await;
    assert_eq!(code, 1);
    assert_eq!(report["outcomes"], json!([{"status": null, "code": "client_timeout", "count": 4}]));
    assert!(report["latency_ms"]["p50"].as_f64().unwrap() >= 200.0, "a timeout is a latency");
}

#[tokio::test]
async fn message_agent_and_token_reach_the_gateway() {
    let (gateway, url) = Gateway::start(Script::Answer).await;
    let words = ["--requests", "1", "--message", "hi", "--agent", "echo_agent", "--metrics-addr", "off"];
    let output = command(&url, &words).env("ORCH_API_TOKEN", "secret").output().await.unwrap();
    assert_eq!(output.status.code(), Some(0));
    let (headers, body) = gateway.last.lock().unwrap().take().unwrap();
    assert_eq!(headers["authorization"], "Bearer secret");
    assert_eq!(body, json!({"message": "hi", "agent": "echo_agent"}));
}

#[tokio::test]
async fn wrong_usage_is_64_and_never_sends() {
    let (gateway, url) = Gateway::start(Script::Answer).await;
    for words in [&["--rate", "0"][..], &["--no-such-flag"], &["--token", "a\nb"]] {
        assert_eq!(run(&url, words).await.status.code(), Some(64), "{words:?}");
    }
    let no_authorities = ["--ca", "/dev/null"];
    assert_eq!(run("https://127.0.0.1", &no_authorities).await.status.code(), Some(64));
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let output = command(&url, &["--metrics-addr", &addr]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(64), "an explicit port must be had");
    assert_eq!(gateway.chats(), 0);
}

/// Starts a run whose fourth chat is never answered, and waits until it hangs there. Its standard error stays readable.
async fn start_and_hang(gateway: &Gateway, url: &str) -> (Child, SocketAddr) {
    let words = ["--requests", "10", "--concurrency", "1", "--metrics-addr", "127.0.0.1:0", "--json"];
    let mut child = command(url, &words).spawn().unwrap();
    let mut line = String::new();
    let stderr = child.stderr.as_mut().unwrap();
    timeout(TIME_LIMIT, BufReader::new(stderr).read_line(&mut line)).await.unwrap().unwrap();
    let addr = line.trim().strip_prefix("Metrics exporter listening on ").unwrap().parse().unwrap();
    timeout(TIME_LIMIT, gateway.unanswered.notified()).await.expect("the fourth chat arrives");
    (child, addr)
}

#[tokio::test]
async fn its_own_metrics_count_what_was_sent() {
    let (gateway, url) = Gateway::start(Script::AnswerOnly(3)).await;
    let (_child, addr) = start_and_hang(&gateway, &url).await;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    timeout(TIME_LIMIT, stream.read_to_string(&mut text)).await.unwrap().unwrap();
    assert!(text.contains("\nload_tester_requests_total 3\n"), "{text}");
    assert!(text.contains("\nload_tester_request_duration_seconds_count 3\n"), "{text}");
}

#[tokio::test]
async fn an_interrupt_ends_it_early_with_the_result_so_far() {
    let (gateway, url) = Gateway::start(Script::AnswerOnly(3)).await;
    let (child, _) = start_and_hang(&gateway, &url).await;
    kill(Pid::from_raw(child.id().unwrap().cast_signed()), Signal::SIGINT).unwrap();
    let output = timeout(TIME_LIMIT, child.wait_with_output()).await.expect("ends").unwrap();
    assert_eq!(output.status.code(), Some(0));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["sent"], &report["ok"]), (&json!(3), &json!(3)));
}
