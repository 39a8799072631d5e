//! Services whose clocks differ by a minute.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{http::Rest, services::Services, wait::until};
use phoenix_testkit_postgres::Server;
use serde_json::json;

use crate::{SCRIPTED, faults::RECOVERY_LIMIT, load::Load, log_of};

/// The promised limit of a takeover, and a margin for a busy machine.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(5 + 2);

/// How long a circuit stays open: a small part of the minute by which clocks differ.
const COOLDOWN: Duration = Duration::from_secs(8);

/// The library of Debian's package `libfaketime`, which moves the clock of a process.
fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut libraries = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let found = libraries.find(|library| library.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none_or(|value| value.is_empty()),
            "CI is set, and the Debian package faketime is not installed"
        );
        eprintln!("SKIPPED: needs the Debian package faketime");
    }
    found
}

/// The environment of a process whose clock is moved by `offset`, such as `-60s`. The monotonic clock is not.
fn moved<'a>(library: &'a Path, offset: &'a str) -> [(&'a str, &'a str); 4] {
    [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME", offset),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ]
}

async fn status(rest: &Rest, agent: &str) -> (u16, String) {
    let answer = rest.post("/api/v1/chat", json!({"message": "hello", "agent": agent})).await;
    (answer.status.as_u16(), answer.text)
}

/// Runs the services with clocks that differ: the first planner's is right, those of the others are moved.
async fn run(library: &Path, test: &str, second_planner: &str, others: &str) {
    let Some(server) = Server::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let (held, broken) = (folder.path().join("held"), folder.path().join("broken"));
    for switch in [&held, &broken] {
        std::fs::write(switch, "").unwrap();
    }
    let (hangs, fails) = (json!([SCRIPTED, "gate", "", held]), json!([SCRIPTED, "fail", "", broken]));
    let config = format!(
        "[agents.held]\ncommand = {hangs}\nmode = \"oneshot\"\ntimeout_secs = 600\n\
         [agents.broken]\ncommand = {fails}\n[agents.broken.retry]\nmax_attempts = 1\n\
         [agents.broken.circuit_breaker]\nfailure_threshold = 3\ncooldown_ms = {}\n",
        COOLDOWN.as_millis()
    );
    let mut services =
        Services::start_in(&[("DATABASE_URL", &server.database().await)], &config, "MARK", &log_of(test))
            .await;
    for role in [Role::Executor, Role::Health, Role::Gateway] {
        services.kill(role).await;
        services.start_one_in(role, &moved(library, others));
    }
    services.until_ready().await;
    let second = services.start_second_planner_in(&moved(library, second_planner)).await;
    let (one, other) = (services.rest(), second.rest());
    let text = std::fs::read_to_string(log_of(test)).unwrap();
    assert!(text.contains("the clock of this machine differs from the database's"), "{text}");

    let (mut first_load, mut second_load) = (Load::start(&one), Load::start(&other));
    first_load.until_more().await;
    second_load.until_more().await;
    // A key that one planner has seen is known to the other.
    let keyed = |rest: &Rest| rest.clone().with_header("idempotency-key", "the-same");
    let body = json!({"message": "once", "agent": "echo_agent"});
    let first = keyed(&one).post("/api/v1/chat", body.clone()).await;
    let again = keyed(&other).post("/api/v1/chat", body).await;
    assert_eq!(first.str("plan_id"), again.str("plan_id"), "{}", again.text);

    // A circuit opens for its cooldown, and closes after it.
    let refused = async |rest: &Rest| status(rest, "broken").await.1.contains("agent_unavailable");
    until("the circuit opens", async || refused(&one).await).await;
    let opened = Instant::now();
    until("the other planner learns of it", async || refused(&other).await).await;
    for rest in [&one, &other, &one, &other] {
        assert!(refused(rest).await, "both planners refuse tasks while the circuit is open");
    }
    std::fs::remove_file(&broken).unwrap();
    until("the circuit closes", async || status(&other, "broken").await.0 == 200).await;
    assert!(opened.elapsed() < COOLDOWN + RECOVERY_LIMIT, "{:?}", opened.elapsed());

    let plan_id = other.submit("/api/v1/chat", json!({"message": "held", "agent": "held"})).await;
    until("the agent runs", async || one.plan(&plan_id).await["tasks"][0]["status"] == "in_progress").await;
    second.signal(Signal::SIGKILL);
    let killed = Instant::now();
    until("the plan is taken over", async || {
        services.metric(Role::Planner, "phoenix_plans_recovered_total").await > 0.0
    })
    .await;
    assert!(killed.elapsed() < TAKEOVER_LIMIT, "{:?}", killed.elapsed());
    std::fs::remove_file(&held).unwrap();
    let plan = one.wait_for_end(&plan_id).await;
    assert_eq!(plan["output"], "held", "{plan}");
    second_load.check(&one).await;
    first_load.check(&one).await;
    services.stop().await;
}

#[tokio::test]
async fn clocks_that_are_behind_delay_and_lose_nothing() {
    let Some(library) = library() else { return };
    run(&library, "clock-behind", "+60s", "-60s").await;
}

#[tokio::test]
async fn clocks_that_are_ahead_delay_and_lose_nothing() {
    let Some(library) = library() else { return };
    run(&library, "clock-ahead", "-60s", "+60s").await;
}
