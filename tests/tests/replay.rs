//! Replay of a request under its idempotency key: the answer equals the first, byte for byte.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use phoenix_testkit::{
    http::{Answer, Rest},
    stack::Stack,
    wait::until,
};
use serde_json::{Value, json};

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");
const FIRST: &str = "0190a6c1-5b0e-7cc3-9d6e-00000000000a";
const AGAIN: &str = "0190a6c1-5b0e-7cc3-9d6e-00000000000b";

fn agent(name: &str, mode: &str, dir: &Path) -> String {
    let command = json!([SCRIPTED, mode, dir.join(format!("{name}.starts"))]);
    format!(
        "[agents.{name}]\ncommand = {command}\n[agents.{name}.retry]\nmax_attempts = 1\n\
         [agents.{name}.circuit_breaker]\nfailure_threshold = 1000\n"
    )
}

async fn stack() -> Stack {
    let builder = Stack::builder();
    let dir = builder.dir().to_owned();
    let config = agent("good", "echo", &dir) + &agent("bad", "fail", &dir) + &agent("slow", "hang", &dir);
    builder.config(&config).start().await
}

/// A caller with the idempotency key `key` and the correlation id `id`.
fn caller(rest: &Rest, key: &str, id: &str) -> Rest {
    rest.clone().with_header("idempotency-key", key).with_header("x-correlation-id", id)
}

fn assert_replayed(first: &Answer, again: &Answer, what: &str) {
    assert_eq!((again.status, &again.text), (first.status, &first.text), "{what}");
    assert_eq!(first.header("idempotent-replayed"), "", "{what}");
    assert_eq!(again.header("idempotent-replayed"), "true", "{what}");
    for header in ["x-correlation-id", "content-type", "location", "preference-applied", "retry-after"] {
        assert_eq!(again.header(header), first.header(header), "{what} {header}");
    }
    assert_eq!(first.header("x-correlation-id"), FIRST, "{what}");
}

#[tokio::test]
async fn replayed_answer_equals_the_first_byte_for_byte() {
    let mut stack = stack().await;
    let rest = stack.rest();
    let task = |agent: &str| json!({"tasks": [{"key": "a", "agent": agent, "input": {"message": "hello"}}]});
    let requests: [(&str, &str, &str, Value); 7] = [
        ("chat", "/api/v1/chat", "", json!({"message": "hello", "agent": "good"})),
        ("failed chat", "/api/v1/chat", "", json!({"message": "hello", "agent": "bad"})),
        ("legacy chat", "/api/chat", "", json!({"message": "hello"})),
        ("plan", "/api/v1/plans", "", task("good")),
        ("failed plan", "/api/v1/plans", "", task("bad")),
        ("accepted chat", "/api/v1/chat", "respond-async", json!({"message": "hello", "agent": "good"})),
        ("accepted plan", "/api/v1/plans", "respond-async", task("good")),
    ];
    let mut failed = String::new();
    for (what, path, prefer, body) in &requests {
        let send = async |id| {
            let caller = caller(&rest, what.replace(' ', "-").as_str(), id).with_header("prefer", *prefer);
            caller.post(path, body.clone()).await
        };
        let first = send(FIRST).await;
        if *prefer == "respond-async" {
            rest.wait_for_end(first.str("plan_id")).await;
        }
        assert_replayed(&first, &send(AGAIN).await, what);
        if *what == "failed plan" {
            failed = first.str("plan_id").to_owned();
        }
    }

    let redrive = format!("/api/v1/plans/{failed}:redrive");
    let first = caller(&rest, "redrive", FIRST).post(&redrive, json!({})).await;
    assert_eq!(first.status, 200, "{}", first.text);
    assert_replayed(&first, &caller(&rest, "redrive", AGAIN).post(&redrive, json!({})).await, "redrive");
    // The first plan has been redriven, and its replayed answer is unchanged.
    assert!(rest.plan(&failed).await["redriven_as"].is_string());
    let (_, path, _, body) = &requests[4];
    let again = caller(&rest, "failed-plan", AGAIN).post(path, body.clone()).await;
    assert_eq!((again.json["redriven_as"].clone(), again.header("x-correlation-id")), (Value::Null, FIRST));

    for (key, path, status) in [
        ("bulk-redrive", "/api/v1/dead-letters:redrive", 202),
        ("discard", "/api/v1/dead-letters:discard", 200),
    ] {
        let body = json!({"filter": {"agent": "bad"}, "reason": "r"});
        let first = caller(&rest, key, FIRST).post(path, body.clone()).await;
        assert_eq!(first.status, status, "{}", first.text);
        assert_replayed(&first, &caller(&rest, key, AGAIN).post(path, body).await, key);
    }

    let slow = rest.submit("/api/v1/plans", task("slow")).await;
    until("the plan runs", async || rest.plan(&slow).await["status"] == "running").await;
    let cancel = format!("/api/v1/plans/{slow}:cancel");
    let first = caller(&rest, "cancel", FIRST).post(&cancel, json!({})).await;
    assert_eq!((first.status.as_u16(), first.str("status")), (200, "cancelled"), "{}", first.text);
    // The plan id in upper case makes the same request.
    let capitals = cancel.replace(&slow, &slow.to_uppercase());
    assert_replayed(&first, &caller(&rest, "cancel", AGAIN).post(&capitals, json!({})).await, "cancel");

    // Each repeat is logged under its own id, and names the first.
    until("every repeat is logged under its own id", async || {
        let lines = stack.log_of(AGAIN);
        lines.iter().filter(|line| line["service"] == "gateway" && line["replay_of"] == FIRST).count() == 12
    })
    .await;
    assert_eq!(stack.stop().await, Some(0));
}

#[tokio::test]
async fn repeat_of_a_running_request_is_no_replay() {
    let mut stack = stack().await;
    let rest = stack.rest();
    let body = json!({"tasks": [{"key": "a", "agent": "slow"}]});
    let plan_id = caller(&rest, "k", FIRST).submit("/api/v1/plans", body.clone()).await;
    let waits = caller(&rest, "k", AGAIN).post("/api/v1/plans", body.clone()).await;
    assert_eq!((waits.status.as_u16(), waits.header("idempotent-replayed")), (409, ""), "{}", waits.text);
    assert_eq!(waits.header("x-correlation-id"), AGAIN);
    // An accepted plan is acknowledged again, running or ended.
    let accepted =
        caller(&rest, "k", AGAIN).with_header("prefer", "respond-async").post("/api/v1/plans", body).await;
    assert_eq!((accepted.status.as_u16(), accepted.str("plan_id")), (202, plan_id.as_str()));
    assert_eq!((accepted.str("correlation_id"), accepted.header("idempotent-replayed")), (FIRST, "true"));
    rest.post(&format!("/api/v1/plans/{plan_id}:cancel"), json!({})).await;
    assert_eq!(stack.stop().await, Some(0));
}
