//! Processes that leave their agent end with the attempt that started them.

use std::{fs::OpenOptions, io::Read, os::unix::fs::OpenOptionsExt};

use nix::{fcntl::OFlag, sys::stat::Mode, unistd::mkfifo};
use serde_json::json;
use uuid::Uuid;

use crate::{
    lifetime::Executor,
    sandbox::{TaskOutcome, all_processes, processes, until},
};

/// The processes with `name` in their command line, except agents.
fn orphans(name: &str) -> Vec<i32> {
    let is_orphan = |pid: &i32| {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.starts_with("sh\0-c\0sleep") && command.contains(name)
    };
    all_processes().filter(is_orphan).collect()
}

fn leave(name: &str, then: &str) -> serde_json::Value {
    json!({ "message": "leave children", "name": name, "then": then })
}

/// Waits for the end of the processes with `name`, which would run for ten minutes.
async fn assert_gone(name: &str) {
    until("the orphans are gone", || orphans(name).is_empty()).await;
}

/// Number of children of `executor` that have exited and were not reaped.
fn zombies(executor: i32) -> usize {
    let is_zombie = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(&format!("Z {executor} ")))
    };
    all_processes().filter(is_zombie).count()
}

#[tokio::test]
async fn orphans_are_gone_after_success_crash_timeout_and_cancel() {
    let executor = Executor::start();
    for mode in ["oneshot", "worker"] {
        for (agent, then, succeeds) in [
            (mode.to_owned(), "answer", true),
            (mode.to_owned(), "die", false),
            (format!("short_{mode}"), "hang", false),
        ] {
            let name = Uuid::new_v4().to_string();
            let outcome =
                TaskOutcome::collect(executor.ask(&agent, &leave(&name, then)).await).await.unwrap();
            assert_eq!(outcome.failed.is_empty(), succeeds, "{outcome:?}");
            assert_gone(&name).await;
        }
        let name = Uuid::new_v4().to_string();
        let events = executor.ask(mode, &leave(&name, "hang")).await;
        until("the orphans run", || orphans(&name).len() == 4).await;
        drop(events);
        assert_gone(&name).await;
    }
    until("every orphan is reaped", || zombies(executor.pid()) == 0).await;
}

#[tokio::test]
async fn orphans_of_a_running_attempt_survive_the_end_of_others() {
    let executor = Executor::start();
    let name = Uuid::new_v4().to_string();
    let events = executor.ask("oneshot", &leave(&name, "hang")).await;
    until("the orphans run", || orphans(&name).len() == 4).await;
    for agent in ["oneshot", "worker", "oneshot", "worker"] {
        let other = Uuid::new_v4().to_string();
        let outcome =
            TaskOutcome::collect(executor.ask(agent, &leave(&other, "answer")).await).await.unwrap();
        assert!(outcome.failed.is_empty(), "{outcome:?}");
        assert_gone(&other).await;
    }
    assert!(orphans(&name).len() >= 3, "all but the one that cannot be attributed");
    drop(events);
    assert_gone(&name).await;
}

#[tokio::test]
async fn fork_chain_is_gone_with_the_attempt_that_started_it() {
    let executor = Executor::start();
    for agent in ["oneshot", "worker", "oneshot", "worker"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("chain");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let fifo = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path).unwrap();
        let payload = json!({ "message": "start fork chain", "fifo": path });
        let outcome = TaskOutcome::collect(executor.ask(agent, &payload).await).await.unwrap();
        assert!(outcome.failed.is_empty(), "{outcome:?}");
        assert_eq!((&fifo).read(&mut [0]).unwrap(), 1, "the chain has started");
        // The end of input: no process holds the write end any more.
        until("the chain is gone", || matches!((&fifo).read(&mut [0]), Ok(0))).await;
    }
    until("every link is reaped", || zombies(executor.pid()) == 0).await;
}

#[tokio::test]
async fn worker_keeps_processes_started_before_its_first_request() {
    let executor = Executor::start();
    let helpers = format!("helper-{}", executor.tag);
    let mut workers = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let name = Uuid::new_v4().to_string();
        let outcome = executor.ask("helped_worker", &leave(&name, "answer")).await;
        let outcome = TaskOutcome::collect(outcome).await.unwrap();
        assert!(outcome.failed.is_empty(), "{outcome:?}");
        workers.insert(outcome.started[0].worker.clone());
        assert_gone(&name).await;
        until("the helpers of the worker have started, and stay", || orphans(&helpers).len() == 4).await;
    }
    assert_eq!(workers.len(), 1);
    drop(executor);
    assert_gone(&helpers).await;
}

#[tokio::test]
async fn orphans_are_gone_after_sigkill_of_the_executor() {
    let mut executor = Executor::start();
    until("the guard runs", || executor.guard().is_some()).await;
    let guard = executor.guard().unwrap();
    let name = Uuid::new_v4().to_string();
    let _oneshot = executor.ask("oneshot", &leave(&name, "hang")).await;
    let _worker = executor.ask("worker", &leave(&name, "hang")).await;
    until("the orphans run", || orphans(&name).len() == 8).await;
    // Two sleeps of the guard show that it has recorded the orphans.
    let sleeps = || {
        let status = std::fs::read_to_string(format!("/proc/{guard}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    let before = sleeps();
    until("the guard has polled", || sleeps() >= before + 2).await;
    executor.kill();
    assert_gone(&name).await;
    until("no agent is left", || processes(&executor.tag).is_empty()).await;
}
