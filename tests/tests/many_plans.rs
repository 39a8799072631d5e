//! Very many plans in flight at once, through the death of their planner. `PHOENIX_PLANS=10000` makes it the number that
//! the product promises; without it there are fewer, so that the suite stays quick.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use jiff::Timestamp;
use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{
    http::Rest,
    stack::{Stack, resident_bytes},
    wait::{until, until_some},
};
use serde_json::json;

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");
const PLANS: usize = 400;

/// Tasks of the agent that the executor takes at once.
const PLACES: usize = 4 + 28;

/// What the planner may hold in memory.
const MEMORY: u64 = 500 * 1000 * 1000;

#[tokio::test]
async fn they_fit_survive_and_all_end_in_their_order() {
    let plans = setting("PHOENIX_PLANS").unwrap_or(PLANS);
    let builder = Stack::builder();
    let gate = builder.dir().join("gate");
    std::fs::write(&gate, "").unwrap();
    let command = json!([SCRIPTED, "gate", "", gate]);
    let config = format!(
        "[agents.gated]\ncommand = {command}\nmode = \"workers\"\nworkers = 4\nmax_queue = 28\ntimeout_secs = 3600\n"
    );
    let stack = builder.config(&config).start().await;
    let report = |what: &str, since: Instant| {
        let memory = resident_bytes(stack.role_pid(Role::Planner).unwrap());
        eprintln!("{what}: {} MB after {:.1} s", memory / 1_000_000, since.elapsed().as_secs_f64());
        assert!(memory < MEMORY, "{memory} bytes");
    };

    let begun = Instant::now();
    report("idle", begun);
    submit_all(&stack.rest(), plans).await;
    report("accepted", begun);
    let count = plans as f64;
    assert_eq!(stack.metric(Role::Planner, "phoenix_plans_in_flight").await, count);
    let refused = stack.rest().chat_with("gated", "a caller who waits").await;
    assert_eq!(refused.status, 429, "{}", refused.text);

    let killed = Instant::now();
    let old = stack.role_pid(Role::Planner).unwrap();
    stack.signal_role(Role::Planner, Signal::SIGKILL);
    until("another planner runs", async || {
        stack.role_pid(Role::Planner).is_some_and(|pid| pid != old)
            && stack.try_metric(Role::Planner, "phoenix_plans_in_flight").await.is_some()
    })
    .await;
    rises(&stack, "phoenix_plans_recovered_total", count).await;
    report("taken over", killed);
    rises(&stack, "phoenix_admission_waiting_tasks{agent=\"gated\"}", count - PLACES as f64).await;
    report("in line", killed);

    std::fs::remove_file(&gate).unwrap();
    let opened = Instant::now();
    rises(&stack, "orchestrator_plan_succeeded_total", count).await;
    report("ended", opened);
    check_order(&stack.rest(), plans).await;
}

/// Waits until a metric of the planner has the value `goal`: for as long as it takes, if only it keeps rising.
async fn rises(stack: &Stack, metric: &str, goal: f64) {
    let mut value = -1.0;
    while value < goal {
        value = until_some(&format!("{metric} is more than {value}"), async || {
            stack.try_metric(Role::Planner, metric).await.filter(|now| *now > value)
        })
        .await;
    }
    assert_eq!(value, goal, "{metric}");
}

fn setting(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

async fn submit_all(rest: &Rest, plans: usize) {
    let rest = rest.clone().with_header("prefer", "respond-async");
    let context = "x".repeat(setting("PHOENIX_PLAN_BYTES").unwrap_or(0));
    let next = AtomicUsize::new(0);
    let sender = async || {
        while next.fetch_add(1, Ordering::Relaxed) < plans {
            let body = json!({"message": "hello", "agent": "gated", "context": context});
            let answer = rest.post("/api/v1/chat", body).await;
            assert_eq!(answer.status, 202, "{}", answer.text);
        }
    };
    let mut senders = Vec::new();
    senders.resize_with(16, sender);
    futures_util::future::join_all(senders).await;
}

/// No plan got its turn before one that had been accepted earlier, but for those that had a place at the same time.
async fn check_order(rest: &Rest, plans: usize) {
    let ids = all_ids(rest).await;
    assert_eq!(ids.len(), plans);
    let mut turns = Vec::new();
    for (rank, plan_id) in ids.iter().enumerate() {
        let plan = rest.get(&format!("/api/v1/plans/{plan_id}")).await.json;
        assert_eq!(plan["status"], "succeeded", "{plan:#}");
        let dispatched_at: Timestamp = plan["tasks"][0]["dispatched_at"].as_str().unwrap().parse().unwrap();
        turns.push((dispatched_at, rank));
    }
    turns.sort_unstable();
    for (turn, (_, rank)) in turns.iter().enumerate() {
        assert!(turn.abs_diff(*rank) <= PLACES, "plan {rank} of {plans} had turn {turn}");
    }
}

/// The ids of all plans, oldest first.
async fn all_ids(rest: &Rest) -> Vec<String> {
    let mut ids = Vec::new();
    let mut token = String::new();
    loop {
        let page = rest.get(&format!("/api/v1/plans?page_size=500{token}")).await.json;
        let plans = page["plans"].as_array().unwrap().iter();
        ids.extend(plans.map(|plan| plan["plan_id"].as_str().unwrap().to_owned()));
        match page["next_page_token"].as_str() {
            Some(next) => token = format!("&page_token={next}"),
            None => break,
        }
    }
    ids.reverse();
    ids
}
