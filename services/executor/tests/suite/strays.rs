//! What leaves its agent, in whatever way, is gone with the attempt that started it.

use std::time::{Duration, Instant};

use serde_json::json;
use uuid::Uuid;

use crate::{
    lifetime::Executor,
    sandbox::{Told, all_processes, processes, until},
};

/// Longer than it takes on a slow machine. Nothing is ever ended by its own time.
const SOON: Duration = Duration::from_secs(10);

/// The processes in whose command line `name` stands and that are no agents.
fn strays(name: &str) -> Vec<i32> {
    let is_stray = |pid: &i32| {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.starts_with("sh\0-c\0sleep") && command.contains(name)
    };
    all_processes().filter(is_stray).collect()
}

fn leave(name: &str, then: &str) -> serde_json::Value {
    json!({ "message": "leave children", "name": name, "then": then })
}

async fn gone(name: &str) {
    let begun = Instant::now();
    until("what it left is gone", || strays(name).is_empty()).await;
    assert!(begun.elapsed() < SOON, "{name}: {:?}", begun.elapsed());
}

/// The children of `executor` that have ended and were not reaped.
fn zombies(executor: i32) -> usize {
    let is_zombie = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(&format!("Z {executor} ")))
    };
    all_processes().filter(is_zombie).count()
}

#[tokio::test]
async fn strays_are_gone_after_success_crash_timeout_and_cancel() {
    let executor = Executor::start();
    for mode in ["oneshot", "worker"] {
        for (agent, then, succeeds) in [
            (mode.to_owned(), "answer", true),
            (mode.to_owned(), "die", false),
            (format!("impatient_{mode}"), "hang", false),
        ] {
            let name = Uuid::new_v4().to_string();
            let told = Told::all_of(executor.ask(&agent, &leave(&name, then)).await).await.unwrap();
            assert_eq!(told.failed.is_empty(), succeeds, "{told:?}");
            gone(&name).await;
        }
        let name = Uuid::new_v4().to_string();
        let events = executor.ask(mode, &leave(&name, "hang")).await;
        until("it has left its children", || strays(&name).len() == 4).await;
        drop(events);
        gone(&name).await;
    }
    until("all are reaped", || zombies(executor.pid()) == 0).await;
}

#[tokio::test]
async fn strays_of_a_running_attempt_survive_the_end_of_others() {
    let executor = Executor::start();
    let name = Uuid::new_v4().to_string();
    let events = executor.ask("oneshot", &leave(&name, "hang")).await;
    until("it has left its children", || strays(&name).len() == 4).await;
    for agent in ["oneshot", "worker", "oneshot", "worker"] {
        let other = Uuid::new_v4().to_string();
        let told = Told::all_of(executor.ask(agent, &leave(&other, "answer")).await).await.unwrap();
        assert!(told.failed.is_empty(), "{told:?}");
        gone(&other).await;
    }
    assert!(strays(&name).len() >= 3, "all but the one that left every trace of where it came from");
    drop(events);
    gone(&name).await;
}

#[tokio::test]
async fn worker_keeps_what_it_started_before_its_first_request() {
    let executor = Executor::start();
    let helpers = format!("helper-{}", executor.tag);
    let mut workers = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let name = Uuid::new_v4().to_string();
        let told = executor.ask("helped_worker", &leave(&name, "answer")).await;
        let told = Told::all_of(told).await.unwrap();
        assert!(told.failed.is_empty(), "{told:?}");
        workers.insert(told.started[0].worker.clone());
        gone(&name).await;
        assert_eq!(strays(&helpers).len(), 4, "its helpers stay");
    }
    assert_eq!(workers.len(), 1);
    drop(executor);
    gone(&helpers).await;
}

#[tokio::test]
async fn strays_are_gone_after_sigkill_of_the_executor() {
    let mut executor = Executor::start();
    until("there is a guard", || executor.guard().is_some()).await;
    let guard = executor.guard().unwrap();
    let name = Uuid::new_v4().to_string();
    let _oneshot = executor.ask("oneshot", &leave(&name, "hang")).await;
    let _worker = executor.ask("worker", &leave(&name, "hang")).await;
    until("they have left their children", || strays(&name).len() == 8).await;
    // The guard has looked since: it went to sleep twice.
    let sleeps = || {
        let status = std::fs::read_to_string(format!("/proc/{guard}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    let before = sleeps();
    until("the guard has looked", || sleeps() >= before + 2).await;
    executor.kill();
    gone(&name).await;
    until("no agent is left", || processes(&executor.tag).is_empty()).await;
}
