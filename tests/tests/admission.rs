//! An agent at capacity: callers that wait are rejected at once, and nothing is journaled for them.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use phoenix_platform::config::Role;
use phoenix_testkit::{
    http::{Answer, Rest},
    stack::Stack,
    wait::until,
};
use serde_json::json;

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// An agent that runs one task and queues one.
fn config() -> String {
    let command = json!([SCRIPTED, "hang"]);
    format!("[agents.hung]\ncommand = {command}\nmax_concurrency = 1\nmax_queue = 1\n")
}

fn chat() -> serde_json::Value {
    json!({"message": "hello", "agent": "hung"})
}

async fn plans(rest: &Rest) -> usize {
    rest.get("/api/v1/plans").await.json["plans"].as_array().unwrap().len()
}

fn assert_rejected(answer: &Answer, error: &serde_json::Value) {
    assert_eq!(
        (answer.status.as_u16(), error["code"].as_str()),
        (429, Some("overloaded")),
        "{}",
        answer.text
    );
    assert!(answer.header("retry-after").parse::<u32>().unwrap() >= 1);
    assert_eq!(error["details"], json!({"agent": "hung", "running": "1", "waiting": "1"}), "{}", answer.text);
    assert!(!answer.header("x-correlation-id").is_empty());
}

#[tokio::test]
async fn agent_at_capacity_is_429_before_the_journal_is_written() {
    let stack = Stack::builder().config(&config()).start().await;
    let rest = stack.rest();
    let holders = [rest.submit("/api/v1/chat", chat()).await, rest.submit("/api/v1/chat", chat()).await];
    until("both plans are admitted", async || {
        let running = rest.get("/api/v1/plans?status=running").await;
        running.json["plans"].as_array().unwrap().len() == 2
    })
    .await;

    let rejected = rest.post("/api/v1/chat", chat()).await;
    assert_rejected(&rejected, &rejected.json["error"]);
    assert!(rejected.json["plan_id"].is_null(), "{}", rejected.text);
    let streamed = rest.clone().with_header("accept", "text/event-stream").post("/api/v1/chat", chat()).await;
    assert_rejected(&streamed, &streamed.json["error"]);
    let task = json!({"key": "a", "agent": "hung", "action": "chat", "input": {"message": "hello"}});
    let plan = rest.post("/api/v1/plans", json!({"tasks": [task]})).await;
    assert_rejected(&plan, &plan.json);
    assert_eq!(plans(&rest).await, 2);

    // An asynchronous plan is accepted.
    let waiting = rest.submit("/api/v1/chat", chat()).await;
    assert_eq!(rest.get(&format!("/api/v1/plans/{waiting}")).await.str("status"), "pending");
    assert_counters(&stack, 6.0, 0.0, 3.0).await;
    assert_eq!(
        stack.try_metric(Role::Planner, "phoenix_admission_refused_total{agent=\"hung\"}").await,
        Some(3.0)
    );
    for plan_id in holders.iter().chain([&waiting]) {
        let cancelled = rest.post(&format!("/api/v1/plans/{plan_id}:cancel"), json!({})).await;
        assert_eq!(
            (cancelled.status.as_u16(), cancelled.str("status")),
            (200, "cancelled"),
            "{}",
            cancelled.text
        );
    }
    assert_counters(&stack, 6.0, 0.0, 6.0).await;
}

/// Waits until the counters of plans have these values, and the rest is in flight.
async fn assert_counters(stack: &Stack, started: f64, succeeded: f64, failed: f64) {
    for (name, value) in [
        ("orchestrator_plan_started_total", started),
        ("orchestrator_plan_succeeded_total", succeeded),
        ("orchestrator_plan_failed_total", failed),
        ("phoenix_plans_in_flight", started - succeeded - failed),
    ] {
        until(&format!("{name} is {value}"), async || stack.metric(Role::Planner, name).await == value).await;
    }
}

#[tokio::test]
async fn waiting_plans_are_counted_apart_from_running_ones() {
    let command = json!([SCRIPTED, "hang"]);
    let config = format!("[agents.hung]\ncommand = {command}\nmax_concurrency = 1\nmax_queue = 2\n");
    let stack = Stack::builder().config(&config).start().await;
    let rest = stack.rest();
    for _ in 0..5 {
        rest.submit("/api/v1/chat", chat()).await;
    }
    // One runs, two wait in the executor, two in the planner.
    for (state, plans) in [("running", 1.0), ("waiting", 2.0), ("pending", 2.0)] {
        let name = format!("phoenix_plans{{state=\"{state}\"}}");
        until(&name, async || stack.try_metric(Role::Planner, &name).await == Some(plans)).await;
    }
    let oldest = "phoenix_plans_oldest_seconds";
    until("the age of the oldest plan grows", async || {
        stack.try_metric(Role::Planner, oldest).await > Some(0.5)
    })
    .await;
    let plans = rest.get("/api/v1/plans").await.json["plans"].clone();
    for plan in plans.as_array().unwrap() {
        rest.post(&format!("/api/v1/plans/{}:cancel", plan["plan_id"].as_str().unwrap()), json!({})).await;
    }
    until("no plan is left", async || stack.try_metric(Role::Planner, oldest).await == Some(0.0)).await;
    for state in ["running", "waiting", "pending"] {
        let name = format!("phoenix_plans{{state=\"{state}\"}}");
        until(&name, async || stack.try_metric(Role::Planner, &name).await == Some(0.0)).await;
    }
}
