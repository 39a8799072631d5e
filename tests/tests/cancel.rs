//! Cancellation of plans: by a call, by a deadline, by a caller that leaves.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "helpers of tests")]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{
    http::Rest,
    processes::{is_alive, pids_of_stack},
    sandbox::Sandbox,
    stack::Stack,
    wait::{until, until_some},
};
use serde_json::{Value, json};

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// Time limit of a cancel on a busy machine; the product promises one second.
const CANCEL_LIMIT: Duration = Duration::from_secs(10);

fn agent(name: &str, mode: &str, starts: &Path, more: &str) -> String {
    let command = json!([SCRIPTED, mode, starts]);
    format!("[agents.{name}]\ncommand = {command}\nenv = [\"PATH\", \"MARK\"]\ntimeout_secs = 600\n{more}\n")
}

/// Process id of an agent that was started once.
async fn pid_in(starts: &Path) -> i32 {
    let pid = async || std::fs::read_to_string(starts).ok()?.trim().parse().ok();
    until_some("the agent runs", pid).await
}

async fn submit(rest: &Rest, agent: &str) -> String {
    rest.submit("/api/v1/chat", json!({"message": "hello", "agent": agent})).await
}

async fn cancel(rest: &Rest, plan_id: &str) {
    let answer = rest.post(&format!("/api/v1/plans/{plan_id}:cancel"), json!({"reason": "enough"})).await;
    assert_eq!((answer.status.as_u16(), answer.str("status")), (200, "cancelled"), "{}", answer.text);
    assert_eq!(answer.json["error"]["message"], "enough", "{}", answer.text);
}

#[tokio::test]
async fn cancel_waits_neither_for_the_agent_nor_its_executor() {
    let builder = Stack::builder();
    let starts = builder.dir().join("starts");
    let stack = builder.config(&agent("stubborn", "stubborn", &starts, "")).start().await;
    let rest = stack.rest();
    let plan_id = submit(&rest, "stubborn").await;
    let pid = pid_in(&starts).await;
    stack.signal_role(Role::Executor, Signal::SIGSTOP);
    cancel(&rest, &plan_id).await;
    assert!(is_alive(pid), "the agent has not been signalled");
    stack.signal_role(Role::Executor, Signal::SIGCONT);
    // The agent ignores SIGTERM.
    until("the agent is killed", async || !is_alive(pid)).await;
    let again = rest.post(&format!("/api/v1/plans/{plan_id}:cancel"), json!({})).await;
    assert_eq!((again.status.as_u16(), again.str("code")), (409, "conflict"), "{}", again.text);
}

#[tokio::test]
async fn concurrent_cancels_end_running_and_waiting_plans() {
    let builder = Stack::builder();
    let dir = builder.dir().to_owned();
    // 20 run, 30 wait in the executor, 50 in the planner.
    let limits = "max_concurrency = 20\nmax_queue = 30";
    let config = agent("stubborn", "stubborn", &dir.join("starts"), limits);
    let stack = builder.config(&config).env("MARK", dir.display().to_string()).start().await;
    let rest = stack.rest();
    let mut plans = Vec::new();
    for _ in 0..100 {
        plans.push(submit(&rest, "stubborn").await);
    }
    let count = || std::fs::read_to_string(dir.join("starts")).map_or(0, |text| text.lines().count());
    until("20 run", async || count() == 20).await;
    let cancels = plans.iter().map(async |plan_id| {
        let asked = Instant::now();
        cancel(&rest, plan_id).await;
        asked.elapsed()
    });
    let mut times = futures_util::future::join_all(cancels).await;
    times.sort_unstable();
    eprintln!("100 cancels at once: p50 {:?}, p99 {:?}", times[50], times[99]);
    assert!(times[99] < CANCEL_LIMIT, "{:?}", times[99]);
    // The four services carry the marker too.
    until("no agent is left", async || pids_of_stack(&dir).len() <= 5).await;
    until("nothing is in flight", async || {
        stack.metric(Role::Planner, "phoenix_plans_in_flight").await == 0.0
    })
    .await;
    for plan_id in &plans {
        let plan = rest.get(&format!("/api/v1/plans/{plan_id}")).await.json;
        assert_eq!(plan["tasks"][0]["status"], "cancelled", "{plan:#}");
    }
}

#[tokio::test]
async fn remaining_time_reaches_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        agent("curious", "meta", &dir.path().join("starts"), "") + "[gateway]\nrequest_timeout_secs = 40\n";
    let sandbox = Sandbox::start(&config).await;
    let rest = sandbox.rest();
    let deadline_ms = |meta: &str| {
        let meta: Value = serde_json::from_str(meta).unwrap();
        meta["deadline_ms"].as_u64().unwrap()
    };
    // The gateway's limit, minus the margin of each hop.
    let chat = rest.chat_with("curious", "hello").await;
    let left = deadline_ms(chat.str("output"));
    assert!(left > 0 && left < 40_000, "{left}");
    // The plan's own deadline, for both kinds of requests.
    let task = json!({"key": "a", "agent": "curious", "action": "chat", "input": {"message": "hello"}});
    let plan = json!({"tasks": [task], "deadline_ms": 30_000});
    let waited_for = rest.post("/api/v1/plans", plan.clone()).await.json;
    let plan_id = rest.submit("/api/v1/plans", plan).await;
    let later = until_some("the plan has ended", async || {
        let plan = rest.get(&format!("/api/v1/plans/{plan_id}")).await.json;
        (plan["status"] == "succeeded").then_some(plan)
    })
    .await;
    for plan in [waited_for, later] {
        let left = deadline_ms(plan["output"].as_str().unwrap_or_else(|| panic!("{plan:#}")));
        assert!(left > 0 && left < 30_000, "{left}");
    }
}

/// Sends a request whose agent does not answer, and disconnects once the agent runs. Returns the agent's process id.
async fn send_and_leave(rest: &Rest, path: &str, body: &Value, starts: &Path) -> i32 {
    let call = rest.post(path, body.clone());
    tokio::select! {
        answer = call => panic!("{path}: the agent does not answer, but: {}", answer.text),
        pid = pid_in(starts) => pid,
    }
}

#[tokio::test]
async fn plan_ends_with_its_caller_unless_told_to_continue() {
    let dir = tempfile::tempdir().unwrap();
    let starts = |name: &str| dir.path().join(name);
    let gate = dir.path().join("gate");
    for (path, kind) in [("/api/v1/chat", "chat"), ("/api/v1/plans", "plan")] {
        let (stays, leaves) = (starts(&format!("stays-{kind}")), starts(&format!("leaves-{kind}")));
        std::fs::write(&gate, "").unwrap();
        let gated = json!([SCRIPTED, "gate", stays, gate]);
        let config = agent("hung", "hang", &leaves, "") + &format!("[agents.gated]\ncommand = {gated}\n");
        let sandbox = Sandbox::start(&config).await;
        let rest = sandbox.rest();
        let body = |agent: &str| match kind {
            "chat" => json!({"message": "hello", "agent": agent}),
            _ => {
                json!({"tasks": [{"key": "a", "agent": agent, "action": "chat", "input": {"message": "hello"}}]})
            }
        };
        let status = async |agent: &str| {
            let page = rest.get(&format!("/api/v1/plans?agent={agent}")).await.json;
            page["plans"][0]["status"].as_str().unwrap_or_default().to_owned()
        };
        send_and_leave(&rest, &format!("{path}?on_disconnect=continue"), &body("gated"), &stays).await;
        let pid = send_and_leave(&rest, path, &body("hung"), &leaves).await;
        until("the plan is cancelled", async || status("hung").await == "cancelled").await;
        until("the agent is gone", async || !is_alive(pid)).await;
        // The other caller left earlier.
        std::fs::remove_file(&gate).unwrap();
        until("the other plan has ended", async || status("gated").await != "running").await;
        assert_eq!(status("gated").await, "succeeded", "{path}");
    }
}
