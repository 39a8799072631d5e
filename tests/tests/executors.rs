//! Two executors with different agents as real processes: the loss of one affects the agents that only it offers.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{http::Rest, phoenix_bin, services::Services, wait::until};
use serde_json::json;

/// The promised limit for a chat whose executor is frozen, and a margin for a busy machine.
const FROZEN_LIMIT: Duration = Duration::from_secs(10 + 5);

/// An executor with an agent of its own, which answers with its message.
fn config(own: &str) -> String {
    let command = json!([phoenix_bin(), "agent", "echo"]);
    format!("[planner]\nagent_grace_secs = 3\n[agents.{own}]\ncommand = {command}\n")
}

async fn chat(rest: &Rest, agent: &str) -> (u16, String) {
    let answer = rest.post("/api/v1/chat", json!({"message": "hello", "agent": agent})).await;
    (answer.status.as_u16(), answer.text)
}

async fn submit(rest: &Rest, agent: &str) -> String {
    let task = json!({"key": "t", "agent": agent, "input": {"message": "hello"}});
    rest.submit("/api/v1/plans", json!({"tasks": [task]})).await
}

#[tokio::test]
async fn loss_of_an_executor_affects_only_its_own_agents() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut services = Services::start(&config("first"), "MARK", &log).await;
    let mut second = services.start_second_executor(&config("second")).await;
    let rest = services.rest();
    until("both executors are followed", async || {
        services.metric(Role::Planner, "phoenix_executors{state=\"reached\"}").await == 2.0
    })
    .await;
    for agent in ["first", "second", "echo_agent"] {
        assert_eq!(chat(&rest, agent).await.0, 200, "{agent}");
    }
    until("the health of all agents is listed", async || {
        let listed = rest.get("/api/v1/agents").await.json;
        let names =
            listed.as_array().map(|agents| agents.iter().filter_map(|agent| agent["agent_id"].as_str()));
        names.is_some_and(|mut names| names.any(|name| name == "second"))
    })
    .await;

    // Frozen: a chat that is sent to it is answered by the other one as soon as the silence is noticed.
    second.signal(Signal::SIGSTOP);
    for _ in 0..6 {
        let asked = Instant::now();
        let (status, text) = chat(&rest, "echo_agent").await;
        assert_eq!(status, 200, "{text}");
        assert!(asked.elapsed() < FROZEN_LIMIT, "{:?}", asked.elapsed());
    }
    second.signal(Signal::SIGCONT);
    until("its agent answers again", async || chat(&rest, "second").await.0 == 200).await;

    second.kill().await;
    let waiting = submit(&rest, "second").await;
    for agent in ["first", "echo_agent"] {
        for _ in 0..10 {
            let (status, text) = chat(&rest, agent).await;
            assert_eq!(status, 200, "{agent}: {text}");
        }
    }
    assert_eq!(rest.get("/readyz").await.status, 200, "one executor is left");
    let plan = rest.wait_for_end(&waiting).await;
    assert_eq!(plan["tasks"][0]["status"], "dead_lettered", "{plan}");
    assert_eq!(plan["error"]["code"], "agent_unavailable", "{plan}");
    let (status, text) = chat(&rest, "second").await;
    assert_eq!(status, 422, "{text}");
    services.stop().await;
}
