//! Many plans in flight at once, through a kill of their planner. `PHOENIX_PLANS=10000` sets the number that the product
//! promises; the default is lower, so that the suite stays fast.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use jiff::Timestamp;
use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{
    http::Rest,
    processes::resident_bytes,
    stack::Stack,
    wait::{until, until_some},
};
use serde_json::json;

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");
const PLANS: usize = 400;

/// Tasks of the agent that the executor accepts at once.
const CAPACITY: usize = 4 + 28;

/// Memory limit of the planner in bytes.
const MAX_MEMORY: u64 = 500 * 1000 * 1000;

#[tokio::test]
async fn many_plans_survive_a_killed_planner_and_end_in_order() {
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
        assert!(memory < MAX_MEMORY, "{memory} bytes");
    };

    let begun = Instant::now();
    report("idle", begun);
    submit_all(&stack.rest(), plans).await;
    report("accepted", begun);
    let count = plans as f64;
    assert_eq!(stack.metric(Role::Planner, "phoenix_plans_in_flight").await, count);
    let refused = stack.rest().chat_with("gated", "a synchronous caller").await;
    assert_eq!(refused.status, 429, "{}", refused.text);

    let killed = Instant::now();
    let old = stack.role_pid(Role::Planner).unwrap();
    stack.signal_role(Role::Planner, Signal::SIGKILL);
    until("another planner runs", async || {
        stack.role_pid(Role::Planner).is_some_and(|pid| pid != old)
            && stack.try_metric(Role::Planner, "phoenix_plans_in_flight").await.is_some()
    })
    .await;
    wait_for_rise(&stack, "phoenix_plans_recovered_total", count).await;
    report("taken over", killed);
    wait_for_rise(&stack, "phoenix_admission_waiting_tasks{agent=\"gated\"}", count - CAPACITY as f64).await;
    report("queued", killed);

    std::fs::remove_file(&gate).unwrap();
    let opened = Instant::now();
    wait_for_rise(&stack, "orchestrator_plan_succeeded_total", count).await;
    report("ended", opened);
    check_order(&stack.rest(), plans).await;
}

/// Waits until a metric of the planner has the value `goal`, for as long as it keeps rising.
async fn wait_for_rise(stack: &Stack, metric: &str, goal: f64) {
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

/// Checks that plans were dispatched in the order of acceptance, except for those that were admitted at the same time.
async fn check_order(rest: &Rest, plans: usize) {
    let ids = all_ids(rest).await;
    assert_eq!(ids.len(), plans);
    let mut dispatched = Vec::new();
    for (rank, plan_id) in ids.iter().enumerate() {
        let plan = rest.get(&format!("/api/v1/plans/{plan_id}")).await.json;
        assert_eq!(plan["status"], "succeeded", "{plan:#}");
        let dispatched_at: Timestamp = plan["tasks"][0]["dispatched_at"].as_str().unwrap().parse().unwrap();
        dispatched.push((dispatched_at, rank));
    }
    dispatched.sort_unstable();
    for (index, (_, rank)) in dispatched.iter().enumerate() {
        assert!(index.abs_diff(*rank) <= CAPACITY, "plan {rank} of {plans} was dispatched as number {index}");
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
