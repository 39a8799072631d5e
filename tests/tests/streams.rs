//! Streamed chats over real processes: killed planners and killed gateways.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{
    http::Rest,
    stack::Stack,
    wait::{until, until_some},
};
use serde_json::json;

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// A stack with one agent, `agent`, that counts its starts in the file `starts`.
async fn stack(mode: &str) -> Stack {
    let builder = Stack::builder();
    let command = json!([SCRIPTED, mode, builder.dir().join("starts")]);
    let config = format!("[agents.agent]\ncommand = {command}\n");
    builder.config(&config).start().await
}

fn streaming(stack: &Stack) -> Rest {
    stack.rest().with_header("accept", "text/event-stream")
}

async fn agent_runs(stack: &Stack) {
    until("the agent runs", async || stack.dir().join("starts").exists()).await;
}

#[tokio::test]
async fn streamed_chat_survives_a_killed_planner() {
    let stack = stack("slow").await;
    let rest = streaming(&stack);
    let chat = tokio::spawn(async move { rest.chat_with("agent", "hello").await });
    agent_runs(&stack).await;
    stack.signal_role(Role::Planner, Signal::SIGKILL);
    let answer = chat.await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    for kind in ["plan_accepted", "plan_ended", "response"] {
        assert_eq!(answer.text.matches(&format!("event: {kind}\n")).count(), 1, "{kind}: {}", answer.text);
    }
    let (_, response) = answer.text.rsplit_once("data: ").unwrap();
    let response: serde_json::Value = serde_json::from_str(response.trim()).unwrap();
    assert_eq!((&response["status"], &response["output"]), (&json!("success"), &json!("hello")));
}

#[tokio::test]
async fn streamed_chat_of_a_killed_gateway_is_cancelled() {
    let stack = stack("hang").await;
    let rest = streaming(&stack);
    let chat = tokio::spawn(async move {
        let body = json!({"message": "hello", "agent": "agent"});
        rest.try_send("POST".parse().unwrap(), "/api/v1/chat", Some(body)).await
    });
    agent_runs(&stack).await;
    stack.signal_role(Role::Gateway, Signal::SIGKILL);
    let status = until_some("the plan has ended", async || {
        let answer = stack.rest().try_send("GET".parse().unwrap(), "/api/v1/plans", None).await?;
        let plan = &answer.json["plans"][0];
        plan["ended_at"].is_string().then(|| plan["status"].as_str().map(str::to_owned)).flatten()
    })
    .await;
    assert_eq!(status, "cancelled");
    chat.abort();
}
