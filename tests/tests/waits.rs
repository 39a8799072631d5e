//! Tasks that wait for a time or a budget outlive their planners, and run once, with real processes.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use jiff::{Timestamp, ToSpan};
use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{http::Rest, services::Services, stack::Stack, wait::until};
use phoenix_testkit_postgres::Server;
use serde_json::{Value, json};

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// Settings of an agent that notes each of its starts in a file.
fn counted(starts: &Path) -> String {
    format!("[agents.counted]\ncommand = {}\nmode = \"oneshot\"\n", json!([SCRIPTED, "echo", starts]))
}

fn count(starts: &Path) -> usize {
    std::fs::read_to_string(starts).unwrap_or_default().lines().count()
}

async fn submit(rest: &Rest, conditions: Value) -> String {
    let task = json!({"key": "t", "agent": "counted", "action": "chat", "input": {"message": "hello"}});
    let mut plan = json!({"tasks": [task]});
    plan.as_object_mut().unwrap().extend(conditions.as_object().unwrap().clone());
    rest.submit("/api/v1/plans", plan).await
}

async fn until_it_waits(rest: &Rest, plan_id: &str) {
    until("the task waits", async || rest.plan(plan_id).await["tasks"][0]["status"] == "awaiting_time").await;
}

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn plan_starts_once_at_its_time_though_its_planner_is_killed() {
    let builder = Stack::builder();
    let starts = builder.dir().join("counted.starts");
    let config = counted(&starts);
    let stack = builder.config(&config).start().await;
    let rest = stack.rest();
    let start = Timestamp::now() + 20.seconds();
    let plan_id = submit(&rest, json!({"not_before": start.to_string(), "deadline_ms": 60_000})).await;
    let cancelled = submit(&rest, json!({"delay_ms": 3_600_000})).await;
    until_it_waits(&rest, &plan_id).await;
    until_it_waits(&rest, &cancelled).await;
    let shown = rest.plan(&plan_id).await;
    let expected = json!({"kind": "timer", "until": start.to_string()});
    assert_eq!(
        (&shown["status"], &shown["tasks"][0]["waits_for"]),
        (&json!("pending"), &expected),
        "{shown}"
    );
    for _ in 0..2 {
        let killed = stack.role_pid(Role::Planner).unwrap();
        stack.signal_role(Role::Planner, Signal::SIGKILL);
        until("another planner runs", async || {
            stack.role_pid(Role::Planner).is_some_and(|pid| pid != killed)
        })
        .await;
        until("the plan can be read", async || {
            let path = format!("/api/v1/plans/{plan_id}");
            let answer = rest.try_send("GET".parse().unwrap(), &path, None).await;
            answer.is_some_and(|answer| answer.status == 200)
        })
        .await;
    }
    let plan = rest.wait_for_end(&plan_id).await;
    assert_eq!((&plan["status"], &plan["output"]), (&json!("succeeded"), &json!("hello")), "{plan}");
    let attempts = plan["tasks"][0]["attempts"].as_array().unwrap();
    assert_eq!((attempts.len(), count(&starts)), (1, 1));
    assert!(time(&attempts[0]["started_at"]) >= start, "{plan}");
    let answer =
        rest.post(&format!("/api/v1/plans/{cancelled}:cancel"), json!({"reason": "not needed"})).await;
    assert_eq!((answer.status.as_u16(), answer.str("status")), (200, "cancelled"), "{}", answer.text);
}

#[tokio::test]
async fn plan_paused_by_its_budget_continues_after_a_kill() {
    let builder = Stack::builder();
    let starts = builder.dir().join("counted.starts");
    let config = counted(&starts);
    let stack = builder.config(&config).start().await;
    let rest = stack.rest();
    let task = |key: &str, after: &[&str]| json!({"key": key, "agent": "counted", "action": "chat", "input": {"message": key}, "depends_on": after});
    let limited = async || {
        let tasks = [task("a", &[]), task("b", &["a"])];
        rest.submit(
            "/api/v1/plans",
            json!({"tasks": tasks, "budget": {"max_calls": 1}, "on_budget": "pause"}),
        )
        .await
    };
    let (raised, refused) = (limited().await, limited().await);
    for plan_id in [&raised, &refused] {
        until("the second task waits", async || {
            rest.plan(plan_id).await["tasks"][1]["status"] == "awaiting_budget"
        })
        .await;
    }
    let waiting = rest.plan(&raised).await;
    let task = &waiting["tasks"][1];
    assert_eq!(
        (&task["waits_for"]["kind"], &task["pause"]["input"]["limit_value"]),
        (&json!("budget"), &json!(1))
    );
    let killed = stack.role_pid(Role::Planner).unwrap();
    stack.signal_role(Role::Planner, Signal::SIGKILL);
    until("another planner runs", async || stack.role_pid(Role::Planner).is_some_and(|pid| pid != killed))
        .await;
    until("what waits is listed", async || {
        let listed = rest.try_send("GET".parse().unwrap(), "/api/v1/approvals", None).await;
        let kinds = listed.map(|listed| listed.json["approvals"].clone());
        kinds.is_some_and(|kinds| {
            kinds.as_array().is_some_and(|all| all.iter().filter(|one| one["kind"] == "budget").count() == 2)
        })
    })
    .await;
    assert_eq!(count(&starts), 2, "nothing ran before the decision");
    let decide = async |plan_id: &str, action: &str, body: Value| {
        rest.post(&format!("/api/v1/plans/{plan_id}:{action}"), body).await
    };
    let small = decide(&raised, "approve", json!({"actor": "ann", "budget": {"max_calls": 1}})).await;
    assert_eq!(
        (small.status.as_u16(), &small.json["details"]["field"]),
        (400, &json!("budget")),
        "{}",
        small.text
    );
    let enough = json!({"actor": "ann", "budget": {"max_calls": 2}});
    assert_eq!(decide(&raised, "approve", enough.clone()).await.status, 200);
    assert_eq!(decide(&refused, "reject", json!({"actor": "ann", "reason": "enough"})).await.status, 200);
    let plan = rest.wait_for_end(&raised).await;
    assert_eq!((&plan["status"], &plan["budget"]["max_calls"]), (&json!("succeeded"), &json!(2)), "{plan}");
    let plan = rest.wait_for_end(&refused).await;
    assert_eq!(
        (&plan["status"], &plan["error"]["code"]),
        (&json!("failed"), &json!("budget_exhausted")),
        "{plan}"
    );
    assert_eq!(count(&starts), 3, "the task of the raised plan ran once, the other never");
    assert_eq!(decide(&raised, "approve", enough).await.status, 200, "a repetition");
}

/// The time by which the clock of the second planner is behind, in seconds.
const BEHIND: u64 = 20;

/// A plan that waits belongs to a planner whose clock is behind. The planner is frozen, and another one starts the plan.
/// Awake again, the first one starts nothing, although its clock says that the time has not come before.
async fn starts_once(environment: &[(&str, &str)], name: &str) {
    let folder = tempfile::tempdir().unwrap();
    let starts = folder.path().join("starts");
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("waits-{name}.log"));
    let mut services = Services::start_in(environment, &counted(&starts), "MARK", &log).await;
    let library = faketime();
    let offset = format!("-{BEHIND}s");
    let moved = library.as_deref().map(|library| {
        [
            ("LD_PRELOAD", library),
            ("FAKETIME", &*offset),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ]
    });
    let behind = if moved.is_some() { BEHIND } else { 0 };
    let mut second = services.start_second_planner_in(moved.as_ref().map_or(&[], |moved| &moved[..])).await;
    let (one, other) = (services.rest(), second.rest());
    let mut plans = Vec::new();
    for _ in 0..3 {
        plans.push(submit(&other, json!({"delay_ms": (behind + 8) * 1000})).await);
    }
    for plan_id in &plans {
        until_it_waits(&one, plan_id).await;
    }
    second.signal(Signal::SIGSTOP);
    for plan_id in &plans {
        let plan = one.wait_for_end(plan_id).await;
        assert_eq!(plan["status"], "succeeded", "{plan}");
        let task = &plan["tasks"][0];
        assert_eq!(task["attempts"].as_array().unwrap().len(), 1, "{plan}");
        assert!(time(&task["attempts"][0]["started_at"]) >= time(&task["not_before"]), "{plan}");
    }
    second.signal(Signal::SIGCONT);
    assert_eq!(second.wait().await.code(), Some(1), "it was taken over, and stops");
    // The executor drains: what was sent to it has started by then.
    services.stop().await;
    assert_eq!(count(&starts), plans.len(), "each plan started once");
}

/// The library of Debian's package `libfaketime`, which moves the clock of a process.
fn faketime() -> Option<String> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let libraries = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let found =
        libraries.filter(|library| library.is_file()).find_map(|path| path.to_str().map(str::to_owned));
    let may_be_absent = std::env::var_os("CI").is_none_or(|value| value.is_empty());
    assert!(found.is_some() || may_be_absent, "CI is set, and the Debian package faketime is not installed");
    found
}

#[tokio::test]
async fn plan_starts_once_though_clocks_differ_on_sqlite() {
    starts_once(&[], "sqlite").await;
}

#[tokio::test]
async fn plan_starts_once_though_clocks_differ_on_postgresql() {
    let Some(server) = Server::start().await else { return };
    starts_once(&[("DATABASE_URL", &server.database().await)], "postgresql").await;
}
