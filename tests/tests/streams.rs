//! Streams over real processes: killed planners and killed gateways.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::time::Duration;

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{
    http::{EventStream, Rest, ServerEvent},
    services::Services,
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

/// The next event of this kind.
async fn next_of(events: &mut EventStream, kind: &str) -> ServerEvent {
    let found = async {
        loop {
            let event = events.next().await.unwrap();
            if event.event == kind {
                return event;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(180), found).await.unwrap()
}

#[tokio::test]
async fn partial_answer_is_reset_when_its_planner_is_killed() {
    let builder = Stack::builder();
    let (starts, held) = (builder.dir().join("starts"), builder.dir().join("held"));
    std::fs::write(&held, "").unwrap();
    let command = json!([SCRIPTED, "talk", starts, held]);
    let config = format!("[agents.agent]\ncommand = {command}\ntimeout_secs = 600\n");
    let stack = builder.config(&config).start().await;
    let rest = streaming(&stack);
    let body = json!({"message": "one two three", "agent": "agent"});
    let mut chat = rest.try_events("POST".parse().unwrap(), "/api/v1/chat", Some(body)).await.unwrap();
    let text = |event: &ServerEvent| event.data["data"]["text"].as_str().unwrap().to_owned();
    assert_eq!(text(&next_of(&mut chat, "output").await), "one");
    let plans = stack.rest().get("/api/v1/plans").await.json;
    let path = format!("/api/v1/plans/{}/events", plans["plans"][0]["plan_id"].as_str().unwrap());
    let mut late = rest.try_events("GET".parse().unwrap(), &path, None).await.unwrap();
    assert_eq!(text(&next_of(&mut late, "output").await), "one", "what was said so far");

    stack.signal_role(Role::Planner, Signal::SIGKILL);
    for events in [&mut chat, &mut late] {
        next_of(events, "output_reset").await;
        let again = next_of(events, "output").await;
        assert_eq!((text(&again).as_str(), &again.data["data"]["offset"]), ("one", &json!(0)));
        assert!(again.data["data"]["attempt"].as_u64().unwrap() > 1, "{again:?}");
    }
    std::fs::remove_file(&held).unwrap();
    assert_eq!(text(&next_of(&mut chat, "output").await), " two three");
    let response = next_of(&mut chat, "response").await.data;
    assert_eq!((&response["status"], &response["output"]), (&json!("success"), &json!("one two three")));
    assert_eq!(text(&next_of(&mut late, "output").await), " two three");
    next_of(&mut late, "plan_ended").await;
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

#[tokio::test]
async fn output_through_another_planner_outlives_its_planner() {
    let folder = tempfile::tempdir().unwrap();
    let held = folder.path().join("held");
    std::fs::write(&held, "").unwrap();
    let command = json!([SCRIPTED, "talk", "", held]);
    let config = format!("[agents.agent]\ncommand = {command}\ntimeout_secs = 600\n");
    let mut services = Services::start(&config, "MARK", &folder.path().join("log")).await;
    let second = services.start_second_planner().await;
    let input = json!({"message": "one two three"});
    let task = json!({"key": "t", "agent": "agent", "action": "chat", "input": input});
    let plan_id = second.rest().submit("/api/v1/plans", json!({"tasks": [task]})).await;
    let rest = services.rest().with_header("accept", "text/event-stream");
    let path = format!("/api/v1/plans/{plan_id}/events");
    let mut events = rest.try_events("GET".parse().unwrap(), &path, None).await.unwrap();
    let text = |event: &ServerEvent| event.data["data"]["text"].as_str().unwrap().to_owned();
    assert_eq!(text(&next_of(&mut events, "output").await), "one", "the other planner has it");

    second.signal(Signal::SIGKILL);
    next_of(&mut events, "output_reset").await;
    let again = next_of(&mut events, "output").await;
    assert_eq!((text(&again).as_str(), &again.data["data"]["offset"]), ("one", &json!(0)));
    assert!(again.data["data"]["attempt"].as_u64().unwrap() > 1, "{again:?}");
    std::fs::remove_file(&held).unwrap();
    assert_eq!(text(&next_of(&mut events, "output").await), " two three");
    next_of(&mut events, "plan_ended").await;
    drop(second);
    services.stop().await;
}
