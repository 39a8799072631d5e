//! Circuits of real processes: what opens them, what an operator decides, and what survives a crash.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{stack::Stack, wait::until};
use serde_json::json;

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// An agent that takes 1.5 s, and counts as slow from 0.2 s on.
fn slow_agent() -> String {
    format!(
        "[agents.slow]\ncommand = {}\ntimeout_secs = 60\n\
         [agents.slow.circuit_breaker]\nmin_calls = 3\nslow_call_ms = 200\nslow_percent = 100\n",
        json!([SCRIPTED, "slow", "/dev/null"])
    )
}

#[tokio::test]
async fn slow_calls_open_the_circuit_and_the_reason_is_shown() {
    let stack = Stack::builder().config(&slow_agent()).start().await;
    let rest = stack.rest();
    let chats = [(); 3].map(|()| {
        let rest = rest.clone();
        tokio::spawn(async move { rest.chat_with("slow", "hello").await })
    });
    for chat in chats {
        let answer = chat.await.unwrap();
        assert_eq!(answer.status, 200, "slow, but right: {}", answer.text);
    }
    let reason = "3 of 3 calls took 0.2 s or longer (100 %)";
    let refused = rest.chat_with("slow", "hello").await;
    assert_eq!(
        (refused.status.as_u16(), refused.json["error"]["code"].as_str()),
        (503, Some("agent_unavailable"))
    );
    assert_eq!(refused.json["error"]["details"]["reason"], reason, "{}", refused.text);
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&wait), "until the next probe: {wait}");
    let shown = rest.get("/api/v1/agents/slow").await.json;
    assert_eq!((&shown["state"], &shown["reason"]), (&json!("open"), &json!(reason)));
    assert_eq!(shown["next_probe_at"], shown["circuit_open_until"]);
    let opened = &shown["transitions"][0];
    assert_eq!((&opened["from"], &opened["cause"]), (&json!("closed"), &json!("slow_calls")));
    assert_eq!((&opened["evidence"]["slow_calls"], &opened["evidence"]["tasks"]), (&json!(3), &json!(3)));
    assert!(opened["evidence"]["took_ms"].as_u64().unwrap() >= 1500, "{opened}");

    // An operator is sure that it works.
    let restored = rest
        .post("/api/v1/agents/slow:restore", json!({"reason": "it is slow today", "actor": "alice"}))
        .await;
    assert_eq!(
        (restored.status.as_u16(), &restored.json["state"]),
        (200, &json!("closed")),
        "{}",
        restored.text
    );
    until("tasks run again", async || rest.chat_with("slow", "hello").await.status == 200).await;
}

#[tokio::test]
async fn isolation_survives_the_death_of_every_service() {
    let config = format!("[agents.quick]\ncommand = {}\n", json!([SCRIPTED, "echo", "/dev/null"]));
    let stack = Stack::builder().config(&config).start().await;
    let rest = stack.rest();
    let decision = json!({"reason": "it deletes files", "actor": "alice"});
    let isolated = rest.post("/api/v1/agents/quick:isolate", decision).await;
    assert_eq!(
        (isolated.status.as_u16(), &isolated.json["state"]),
        (200, &json!("isolated")),
        "{}",
        isolated.text
    );
    for role in [Role::Health, Role::Planner] {
        stack.signal_role(role, Signal::SIGKILL);
    }
    until("the isolation is shown again", async || {
        let shown = rest.try_send("GET".parse().unwrap(), "/api/v1/agents/quick", None).await;
        shown.is_some_and(|shown| shown.json["isolated_by"] == "alice")
    })
    .await;
    until("chats are refused with the reason", async || {
        let refused = rest.chat_with("quick", "hello").await;
        refused.json["error"]["details"]["reason"] == "it deletes files"
    })
    .await;
}

#[tokio::test]
async fn agent_shows_its_processes_and_last_stderr() {
    let command = json!([SCRIPTED, "fail", "/dev/null"]);
    let config = format!("[agents.bad]\ncommand = {command}\n[agents.bad.retry]\nmax_attempts = 1\n");
    let stack = Stack::builder().config(&config).start().await;
    let rest = stack.rest();
    let fresh = rest.get("/api/v1/agents/bad").await.json;
    assert_eq!((&fresh["last_stderr"], &fresh["state"]), (&json!(null), &json!("closed")), "{fresh}");
    assert_eq!(rest.chat_with("bad", "hello").await.status, 502);
    let shown = rest.get("/api/v1/agents/bad").await.json;
    assert!(shown["last_stderr"]["text"].as_str().is_some_and(|text| text.contains("boom")), "{shown}");
    let workers = shown["workers"].as_array().unwrap();
    assert_eq!(workers.len(), 1, "one executor: {shown}");
    assert_eq!((&workers[0]["restarts"], &workers[0]["crash_loop"]), (&json!(0), &json!(false)), "{shown}");
    assert!(workers[0]["free"].as_u64().unwrap() > 0 && workers[0]["executor"].is_string(), "{shown}");
}
