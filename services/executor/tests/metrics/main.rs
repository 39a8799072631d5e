//! `/metrics` after a known series of tasks. In its own process, because the recorder is global.

#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../suite/sandbox.rs"]
mod sandbox;

use phoenix_domain::{AgentMode, AgentSpec};
use phoenix_executor::metrics::METRICS;
use phoenix_platform::init_metrics;
use phoenix_proto::executor::ExecuteTaskRequest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use crate::sandbox::{Sandbox, TIMEOUT, agent, quick_retries};

#[tokio::test]
async fn metrics_count_tasks_once_and_attempts_each() {
    let exporter = init_metrics(METRICS).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let exporting = tokio::spawn(exporter.serve(listener, None, stop.clone()));
    let scrape = async || {
        let mut connection = TcpStream::connect(addr).await.unwrap();
        connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).await.unwrap();
        text
    };
    let before = scrape().await;
    for name in ["orchestrator_task_started_total", "agent_call_failures_total"] {
        assert!(before.contains(&format!("\n{name} 0\n")), "{name} exists from the start:\n{before}");
    }

    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    let behaviour = ["fail-until", notes.to_str().unwrap(), "3"];
    let sandbox = Sandbox::start(AgentSpec { retry: quick_retries(), ..agent(&behaviour) }).await;
    assert_eq!(sandbox.run().await.finished.attempts, 3);
    // A resumed task was counted when it started.
    let resumed = ExecuteTaskRequest { first_attempt: 2, ..sandbox.request() };
    assert!(sandbox.run_request(resumed).await.unwrap().failed.is_empty());
    sandbox.stop().await;

    let after = scrape().await;
    for line in [
        "orchestrator_task_started_total 1",
        "agent_call_failures_total 2",
        "orchestrator_task_duration_seconds_count 2",
        "agent_call_duration_seconds_count 4",
        r#"phoenix_agent_attempts_total{agent="test_agent",outcome="backend_failure"} 2"#,
        r#"phoenix_agent_attempts_total{agent="test_agent",outcome="succeeded"} 2"#,
        r#"phoenix_agent_attempts_total{agent="test_agent",outcome="cancelled"} 0"#,
        r#"phoenix_agent_retries_total{agent="test_agent",class="backend_failure"} 2"#,
        r#"phoenix_agent_retries_total{agent="test_agent",class="timeout"} 0"#,
        r#"phoenix_agent_places{agent="test_agent"} 16"#,
        r#"phoenix_agent_running_tasks{agent="test_agent"} 0"#,
        r#"phoenix_agent_queued_tasks{agent="test_agent"} 0"#,
        r#"phoenix_agent_processes{agent="test_agent"} 0"#,
    ] {
        assert!(after.contains(&format!("\n{line}\n")), "{line} is missing from:\n{after}");
    }
    check_pool_metrics(&scrape).await;
    stop.cancel();
    exporting.await.unwrap().unwrap();
}

/// Checks the metrics of running, busy and replaced workers.
async fn check_pool_metrics(scrape: &impl AsyncFn() -> String) {
    let name = "pool".parse().unwrap();
    let spec = AgentSpec { name, mode: AgentMode::Workers, workers: 3, ..agent(&["obey"]) };
    let sandbox = Sandbox::start(spec).await;
    let message = |message: &str| ExecuteTaskRequest {
        payload_json: format!(r#"{{"message":"{message}"}}"#),
        ..sandbox.request()
    };
    let wait_for = async |lines: &[(&str, u32)]| {
        let wait = async {
            loop {
                let text = scrape().await;
                let missing = lines
                    .iter()
                    .find(|(name, value)| !text.contains(&format!("\n{name}{{agent=\"pool\"}} {value}\n")));
                match missing {
                    None => return,
                    Some(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                }
            }
        };
        assert!(tokio::time::timeout(TIMEOUT, wait).await.is_ok(), "{lines:?}:\n{}", scrape().await);
    };
    let (capacity, live, busy) = ("phoenix_agent_places", "phoenix_agent_processes", "phoenix_workers_busy");
    let (restarts, crashes) = ("phoenix_worker_restarts_total", "phoenix_worker_crashes_total");
    sandbox.run_request(message("hello")).await.unwrap();
    wait_for(&[(capacity, 3), (live, 1), (busy, 0), (restarts, 0), (crashes, 0)]).await;
    let hanging = sandbox.start_running(message("hang")).await;
    sandbox.run_request(message("hello")).await.unwrap();
    wait_for(&[(live, 2), (busy, 1), (restarts, 0)]).await;
    // The caller leaves and its worker is retired: no crash, but a replacement is due.
    drop(hanging);
    wait_for(&[(live, 1), (busy, 0), (restarts, 0), (crashes, 0)]).await;
    sandbox.run_request(message("die")).await.unwrap();
    wait_for(&[(live, 0), (busy, 0), (crashes, 1)]).await;
    sandbox.run_request(message("hello")).await.unwrap();
    wait_for(&[(live, 1), (restarts, 1)]).await;
    let hanging = sandbox.start_running(message("hang")).await;
    sandbox.run_request(message("hello")).await.unwrap();
    wait_for(&[(capacity, 3), (live, 2), (busy, 1), (restarts, 2), (crashes, 1)]).await;
    drop(hanging);
    sandbox.stop().await;
}
