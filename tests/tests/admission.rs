//! An agent that is full, seen from outside: who waits is told at once, and nothing of it is kept.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use phoenix_platform::config::Role;
use phoenix_testkit::{
    http::{Answer, Rest},
    stack::Stack,
    wait::until,
};
use serde_json::json;

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// One task of it runs and one waits.
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

fn assert_refused(answer: &Answer, error: &serde_json::Value) {
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
async fn a_full_agent_is_429_before_anything_is_journalled_and_the_counters_agree() {
    let stack = Stack::builder().config(&config()).start().await;
    let rest = stack.rest();
    let holders = [rest.submit("/api/v1/chat", chat()).await, rest.submit("/api/v1/chat", chat()).await];
    until("both have a place", async || {
        let running = rest.get("/api/v1/plans?status=running").await;
        running.json["plans"].as_array().unwrap().len() == 2
    })
    .await;

    let refused = rest.post("/api/v1/chat", chat()).await;
    assert_refused(&refused, &refused.json["error"]);
    assert!(refused.json["plan_id"].is_null(), "{}", refused.text);
    let streamed = rest.clone().with_header("accept", "text/event-stream").post("/api/v1/chat", chat()).await;
    assert_refused(&streamed, &streamed.json["error"]);
    let task = json!({"key": "a", "agent": "hung", "action": "chat", "input": {"message": "hello"}});
    let plan = rest.post("/api/v1/plans", json!({"tasks": [task]})).await;
    assert_refused(&plan, &plan.json);
    assert_eq!(plans(&rest).await, 2);

    // Who does not wait is taken in.
    let waiting = rest.submit("/api/v1/chat", chat()).await;
    assert_eq!(rest.get(&format!("/api/v1/plans/{waiting}")).await.str("status"), "pending");
    agree(&stack, 6.0, 0.0, 3.0).await;
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
    agree(&stack, 6.0, 0.0, 6.0).await;
}

/// Waits until the counters of plans say so, and what is left is in flight.
async fn agree(stack: &Stack, started: f64, succeeded: f64, failed: f64) {
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
async fn plans_that_wait_are_told_apart_from_those_that_run() {
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
    until("the oldest grows older", async || stack.try_metric(Role::Planner, oldest).await > Some(0.5)).await;
    let plans = rest.get("/api/v1/plans").await.json["plans"].clone();
    for plan in plans.as_array().unwrap() {
        rest.post(&format!("/api/v1/plans/{}:cancel", plan["plan_id"].as_str().unwrap()), json!({})).await;
    }
    until("nothing is left", async || stack.try_metric(Role::Planner, oldest).await == Some(0.0)).await;
    for state in ["running", "waiting", "pending"] {
        let name = format!("phoenix_plans{{state=\"{state}\"}}");
        until(&name, async || stack.try_metric(Role::Planner, &name).await == Some(0.0)).await;
    }
}
