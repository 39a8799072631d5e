//! The sleeper answers as an agent does, and not before it may.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{process::Stdio, time::Duration};

use phoenix_domain::{
    CorrelationId, PlanId, TaskId,
    action::{API_VERSION, ActionMeta, ActionRequest, ActionResponse, ActionStatus},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
    time::timeout,
};

const TIME_LIMIT: Duration = Duration::from_secs(30);

fn request() -> ActionRequest {
    ActionRequest {
        request_id: PlanId::generate().to_string().parse().unwrap(),
        api_version: API_VERSION.into(),
        tool: "sleeper".parse().unwrap(),
        action: "chat".into(),
        context: String::new(),
        plan_id: PlanId::generate(),
        task_id: TaskId::generate(),
        correlation_id: CorrelationId::generate(),
        payload: phoenix_domain::json::Object::new(),
        meta: ActionMeta {
            traceparent: None,
            attempt: 1,
            deadline_ms: 1000,
            idempotency_key: "test".into(),
            stream: false,
        },
    }
}

#[tokio::test]
async fn answers_begin_when_the_gate_opens() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let mut command = Command::new(env!("CARGO_BIN_EXE_phoenix-bench"));
    command.args(["sleeper", "--millis", "1", "--gate"]).arg(&gate);
    let mut sleeper =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut answers = BufReader::new(sleeper.stdout.take().unwrap()).lines();
    let requests = [request(), request()];
    for request in &requests {
        let line = serde_json::to_string(request).unwrap() + "\n";
        sleeper.stdin.as_mut().unwrap().write_all(line.as_bytes()).await.unwrap();
    }
    assert!(timeout(Duration::from_millis(200), answers.next_line()).await.is_err(), "the gate is closed");
    std::fs::write(&gate, "").unwrap();
    for request in &requests {
        let line = timeout(TIME_LIMIT, answers.next_line()).await.expect("it answers").unwrap().unwrap();
        let answer: ActionResponse = serde_json::from_str(&line).unwrap();
        assert_eq!((answer.request_id, answer.status), (request.request_id, ActionStatus::Success));
    }
    drop(sleeper.stdin.take());
    let status = timeout(TIME_LIMIT, sleeper.wait()).await.expect("it ends with its input").unwrap();
    assert!(status.success(), "{status}");
}
