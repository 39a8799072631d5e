//! Two planners that live on one journal: each runs what it was given, and one of them takes over from the other.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests too")]

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{http::Rest, services::Services, wait::until};
use serde_json::{Value, json};

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// What a caller may count on, and a moment for a machine that has other things to do.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(5 + 2);

/// Hands over a plan for `agent`: its id.
async fn submit(rest: &Rest, agent: &str) -> String {
    let task = json!({"key": "t", "agent": agent, "action": "chat", "input": {"message": "hello"}});
    rest.submit("/api/v1/plans", json!({"tasks": [task]})).await
}

/// What a plan is, without what grows by itself.
async fn told(rest: &Rest, plan_id: &str) -> (Value, String) {
    let events = rest.get(&format!("/api/v1/plans/{plan_id}/events")).await;
    (rest.plan(plan_id).await, events.text)
}

#[tokio::test]
async fn two_planners_serve_one_journal_and_the_one_that_freezes_is_taken_over_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    let held = folder.path().join("held");
    std::fs::write(&held, "").unwrap();
    // Hangs for as long as the file is there.
    let command = json!([SCRIPTED, "hang", "", held]);
    let config = format!("[agents.held]\ncommand = {command}\nmode = \"oneshot\"\ntimeout_secs = 600\n");
    let log = folder.path().join("log");
    let mut services = Services::start(&config, "MARK", &log).await;
    let mut beside = services.start_beside().await;
    let (one, other) = (services.rest(), beside.rest());

    // Each runs what it was given, and shows what both know.
    let mut plans = Vec::new();
    for n in 0..20 {
        plans.push(submit(if n % 4 == 0 { &other } else { &one }, "echo_agent").await);
    }
    for (n, plan_id) in plans.iter().enumerate() {
        let rest = if n % 2 == 0 { &other } else { &one };
        assert_eq!(rest.ended(plan_id).await["output"], "hello");
    }
    let succeeded = "orchestrator_plan_succeeded_total";
    until("each has counted its own", async || {
        services.metric(Role::Planner, succeeded).await == 15.0 && beside.metric(succeeded).await == 5.0
    })
    .await;
    assert_eq!(services.metric(Role::Planner, "phoenix_plans_recovered_total").await, 0.0);

    let mine = submit(&one, "held").await;
    let theirs = submit(&other, "held").await;
    for plan_id in [&mine, &theirs] {
        until("the agent works on it", async || {
            one.plan(plan_id).await["tasks"][0]["status"] == "in_progress"
        })
        .await;
    }
    beside.signal(Signal::SIGSTOP);
    let frozen = Instant::now();
    std::fs::remove_file(&held).unwrap();
    until("it is taken over", async || {
        services.metric(Role::Planner, "phoenix_plans_recovered_total").await == 1.0
    })
    .await;
    assert!(frozen.elapsed() < TAKEN_OVER_WITHIN, "{:?}", frozen.elapsed());
    let taken_over = one.ended(&theirs).await;
    assert_eq!((&taken_over["status"], &taken_over["output"]), (&json!("succeeded"), &json!("hello")));
    let attempts: Vec<_> = taken_over["tasks"][0]["attempts"].as_array().unwrap().iter().collect();
    let outcomes: Vec<_> = attempts.iter().map(|attempt| attempt["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["cancelled", "succeeded"]);
    assert_eq!(one.plan(&mine).await["status"], "running", "its own goes on as it was");

    let before = told(&one, &theirs).await;
    beside.signal(Signal::SIGCONT);
    assert_eq!(beside.ended().await.code(), Some(1), "so that a supervisor starts another");
    assert!(std::fs::read_to_string(&log).unwrap().contains("taken for dead"));
    assert_eq!(told(&one, &theirs).await, before, "it has written nothing more");
    assert_eq!(one.plan(&mine).await["status"], "running");

    let again = services.start_beside().await;
    let later = submit(&again.rest(), "echo_agent").await;
    assert_eq!(one.ended(&later).await["status"], "succeeded");
    drop(again);
    drop(beside);
    services.stop().await;
}
