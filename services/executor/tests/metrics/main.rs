//! What `/metrics` says after a known series of tasks. In a process of its own, because the recorder is global.

#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../suite/sandbox.rs"]
mod sandbox;

use phoenix_domain::AgentSpec;
use phoenix_executor::metrics::METRICS;
use phoenix_platform::init_metrics;
use phoenix_proto::executor::ExecuteTaskRequest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use crate::sandbox::{Sandbox, agent, quick_retries};

#[tokio::test]
async fn tasks_count_once_attempts_each_and_nothing_is_left_running() {
    let exporter = init_metrics(METRICS).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let exporting = tokio::spawn(exporter.serve(listener, stop.clone()));
    let scrape = async || {
        let mut connection = TcpStream::connect(addr).await.unwrap();
        connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).await.unwrap();
        text
    };
    let before = scrape().await;
    for name in ["orchestrator_task_started_total", "agent_call_failures_total"] {
        assert!(before.contains(&format!("\n{name} 0\n")), "{name} is there from the start:\n{before}");
    }

    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    let behaviour = ["fail-until", notes.to_str().unwrap(), "3"];
    let sandbox = Sandbox::start(AgentSpec { retry: quick_retries(), ..agent(&behaviour) }).await;
    assert_eq!(sandbox.run().await.finished.attempts, 3);
    // Resumed: it was counted when it began.
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
        r#"phoenix_agent_running_tasks{agent="test_agent"} 0"#,
        r#"phoenix_agent_queued_tasks{agent="test_agent"} 0"#,
        r#"phoenix_agent_processes{agent="test_agent"} 0"#,
    ] {
        assert!(after.contains(&format!("\n{line}\n")), "{line} is missing from:\n{after}");
    }
    stop.cancel();
    exporting.await.unwrap().unwrap();
}
