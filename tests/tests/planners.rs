//! Two planners on one journal: each runs its own plans, and one takes over from the other.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{http::Rest, services::Services, wait::until};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// The promised limit of a takeover, and a margin for a busy machine.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(5 + 2);

/// Submits a plan for `agent` and returns its id.
async fn submit(rest: &Rest, agent: &str) -> String {
    let task = json!({"key": "t", "agent": agent, "action": "chat", "input": {"message": "hello"}});
    rest.submit("/api/v1/plans", json!({"tasks": [task]})).await
}

/// A plan and its events.
async fn snapshot(rest: &Rest, plan_id: &str) -> (Value, String) {
    let events = rest.get(&format!("/api/v1/plans/{plan_id}/events")).await;
    (rest.plan(plan_id).await, events.text)
}

#[tokio::test]
async fn frozen_planner_is_taken_over_by_another_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    let held = folder.path().join("held");
    std::fs::write(&held, "").unwrap();
    // Hangs while the file exists.
    let command = json!([SCRIPTED, "hang", "", held]);
    let config = format!("[agents.held]\ncommand = {command}\nmode = \"oneshot\"\ntimeout_secs = 600\n");
    let log = folder.path().join("log");
    let mut services = Services::start(&config, "MARK", &log).await;
    let mut second = services.start_second_planner().await;
    let (one, other) = (services.rest(), second.rest());

    // Each runs its own plans, and serves the plans of both.
    let mut plans = Vec::new();
    for n in 0..20 {
        plans.push(submit(if n % 4 == 0 { &other } else { &one }, "echo_agent").await);
    }
    for (n, plan_id) in plans.iter().enumerate() {
        let rest = if n % 2 == 0 { &other } else { &one };
        assert_eq!(rest.wait_for_end(plan_id).await["output"], "hello");
    }
    let succeeded = "orchestrator_plan_succeeded_total";
    until("each counts its own plans", async || {
        services.metric(Role::Planner, succeeded).await == 15.0 && second.metric(succeeded).await == 5.0
    })
    .await;
    assert_eq!(services.metric(Role::Planner, "phoenix_plans_recovered_total").await, 0.0);

    let mine = submit(&one, "held").await;
    let theirs = submit(&other, "held").await;
    for plan_id in [&mine, &theirs] {
        until("the agent runs", async || one.plan(plan_id).await["tasks"][0]["status"] == "in_progress")
            .await;
    }
    second.signal(Signal::SIGSTOP);
    let frozen = Instant::now();
    std::fs::remove_file(&held).unwrap();
    until("the plan is taken over", async || {
        services.metric(Role::Planner, "phoenix_plans_recovered_total").await == 1.0
    })
    .await;
    assert!(frozen.elapsed() < TAKEOVER_LIMIT, "{:?}", frozen.elapsed());
    let taken_over = one.wait_for_end(&theirs).await;
    assert_eq!((&taken_over["status"], &taken_over["output"]), (&json!("succeeded"), &json!("hello")));
    let attempts: Vec<_> = taken_over["tasks"][0]["attempts"].as_array().unwrap().iter().collect();
    let outcomes: Vec<_> = attempts.iter().map(|attempt| attempt["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["cancelled", "succeeded"]);
    assert_eq!(one.plan(&mine).await["status"], "running", "the other plan is unaffected");

    let before = snapshot(&one, &theirs).await;
    second.signal(Signal::SIGCONT);
    assert_eq!(second.wait().await.code(), Some(1), "so that a supervisor restarts it");
    assert!(std::fs::read_to_string(&log).unwrap().contains("taken for dead"));
    assert_eq!(snapshot(&one, &theirs).await, before, "the frozen planner has written nothing");
    assert_eq!(one.plan(&mine).await["status"], "running");

    let again = services.start_second_planner().await;
    let later = submit(&again.rest(), "echo_agent").await;
    assert_eq!(one.wait_for_end(&later).await["status"], "succeeded");
    drop(again);
    drop(second);
    services.stop().await;
}

/// The promised limit of a cancel through another planner, and a margin for a busy machine.
const CANCEL_LIMIT: Duration = Duration::from_millis(500 + 500);

/// Longest time of a cancel whose planner died: the lease, the takeover and a margin for a busy machine.
const INHERITED_CANCEL_LIMIT: Duration = Duration::from_secs(8 + 2);

/// Cancels a plan. Returns how long that took.
async fn cancel(rest: &Rest, plan_id: &str) -> Duration {
    let asked = Instant::now();
    let answer = rest.post(&format!("/api/v1/plans/{plan_id}:cancel"), json!({"reason": "enough"})).await;
    assert_eq!((answer.status.as_u16(), answer.str("status")), (200, "cancelled"), "{}", answer.text);
    assert_eq!(answer.json["error"]["message"], "enough", "{}", answer.text);
    asked.elapsed()
}

#[tokio::test]
async fn cancel_through_another_planner_outlives_the_owner() {
    let folder = tempfile::tempdir().unwrap();
    let held = folder.path().join("held");
    std::fs::write(&held, "").unwrap();
    // Hangs while the file exists.
    let command = json!([SCRIPTED, "hang", "", held]);
    let config = format!(
        "[agents.held]\ncommand = {command}\nmode = \"oneshot\"\ntimeout_secs = 600\nmax_concurrency = 16\n"
    );
    let mut services = Services::start(&config, "MARK", &folder.path().join("log")).await;
    let one = services.rest();
    let running = async |rest: &Rest| {
        let plan_id = submit(rest, "held").await;
        until("the agent runs", async || rest.plan(&plan_id).await["tasks"][0]["status"] == "in_progress")
            .await;
        plan_id
    };
    let second = services.start_second_planner().await;
    let mut took = Vec::new();
    for _ in 0..5 {
        took.push(cancel(&one, &running(&second.rest()).await).await);
    }
    took.sort_unstable();
    assert!(took[2] < CANCEL_LIMIT, "{took:?}");

    let frozen = running(&second.rest()).await;
    second.signal(Signal::SIGSTOP);
    let took = cancel(&one, &frozen).await;
    assert!(took < INHERITED_CANCEL_LIMIT, "frozen: {took:?}");
    second.signal(Signal::SIGKILL);

    let third = services.start_second_planner().await;
    let (killed, frozen_later) = (running(&third.rest()).await, running(&third.rest()).await);
    // The owner freezes with the forwarded call on its connection, and dies.
    third.signal(Signal::SIGSTOP);
    let cancels = async { tokio::join!(cancel(&one, &killed), cancel(&one, &frozen_later)) };
    let journal = format!("sqlite://{}", services.dir().join("data/planner.db").display());
    let journal = phoenix_planner::store::open(&journal).await.unwrap();
    let dies = async {
        until("both are journaled", async || journal.cancel_requests().await.unwrap().len() == 2).await;
        third.signal(Signal::SIGKILL);
    };
    let (took, ()) = tokio::join!(cancels, dies);
    assert!(took.0.max(took.1) < INHERITED_CANCEL_LIMIT, "killed: {took:?}");
    for plan_id in [&frozen, &killed, &frozen_later] {
        let plan = one.plan(plan_id).await;
        assert_eq!(plan["status"], "cancelled", "{plan}");
    }
    journal.close().await;
    drop(third);
    drop(second);
    services.stop().await;
}

/// Callers that chat one after the other, each with one chat in flight.
struct Callers {
    tasks: JoinSet<usize>,
    answered: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

const CALLERS: usize = 8;

impl Callers {
    fn start(rest: &Rest, run: &str) -> Self {
        let (answered, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let mut tasks = JoinSet::new();
        for caller in 0..CALLERS {
            let (rest, run) = (rest.clone(), format!("{run} {caller}"));
            let (answered, stop) = (Arc::clone(&answered), Arc::clone(&stop));
            tasks.spawn(async move {
                let mut lost = 0;
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    lost += usize::from(!chat(&rest, &format!("{run} {number}")).await);
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                lost
            });
        }
        Self { tasks, answered, stop }
    }

    /// Waits for `count` further answers.
    async fn answers(&self, count: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        until("chats are answered", async || self.answered.load(Ordering::Relaxed) >= before + count).await;
    }

    /// Stops the callers. Returns the number of chats that each had to repeat.
    async fn stop(self) -> Vec<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await
    }
}

/// Sends a chat until it is answered, always under the same key. Returns whether the first answer was the chat's.
async fn chat(rest: &Rest, message: &str) -> bool {
    let sender = rest.clone().with_header("idempotency-key", message.replace(' ', "-"));
    let body = json!({"message": message, "agent": "echo_agent"});
    let mut is_first = true;
    loop {
        let answer = sender.post("/api/v1/chat", body.clone()).await;
        if answer.status == 200 {
            assert_eq!(answer.str("output"), message);
            return is_first;
        }
        assert!(matches!(answer.status.as_u16(), 409 | 503 | 504), "{}: {}", answer.status, answer.text);
        is_first = false;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn gateway_of_two_planners_outlives_the_loss_of_either() {
    let folder = tempfile::tempdir().unwrap();
    let mut services = Services::start("", "MARK", &folder.path().join("log")).await;
    let second = services.start_second_planner().await;
    let gateway = services.start_gateway_of_both(&second).await;
    let started = "orchestrator_plan_started_total";

    let callers = Callers::start(&gateway.rest(), "killed");
    until("both planners run chats", async || {
        services.metric(Role::Planner, started).await > 20.0 && second.metric(started).await > 20.0
    })
    .await;
    services.kill(Role::Planner).await;
    callers.answers(200).await;
    services.start_one(Role::Planner);
    services.until_ready().await;
    until("the planner runs chats again", async || services.metric(Role::Planner, started).await > 20.0)
        .await;
    let repeated = callers.stop().await;
    assert!(repeated.iter().all(|count| *count <= 1), "only chats in flight are lost: {repeated:?}");

    second.signal(Signal::SIGSTOP);
    let callers = Callers::start(&gateway.rest(), "frozen");
    callers.answers(400).await;
    let repeated = callers.stop().await;
    assert!(repeated.iter().all(|count| *count <= 1), "only chats in flight are lost: {repeated:?}");
    second.signal(Signal::SIGKILL);
    drop(gateway);
    services.stop().await;
}
