//! Agents end with their executor, however it ends.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use phoenix_domain::CorrelationId;
use phoenix_platform::RequestContext;
use phoenix_proto::executor::{ExecuteTaskResponse, execute_task_response::Event};
use serde_json::{Value, json};
use tonic::Streaming;
use uuid::Uuid;

use crate::sandbox::{
    PROGRAM, Sandbox, TIMEOUT, TaskOutcome, agent, all_processes, client_of, processes, until,
};

#[tokio::test]
async fn shutdown_finishes_running_tasks_and_rejects_new_ones() {
    let sandbox = Sandbox::start(agent(&["slow-start", "500"])).await;
    let events = sandbox.start_running(sandbox.request()).await;
    sandbox.shutdown.cancel();
    let context = RequestContext::new(CorrelationId::generate());
    let begun = std::time::Instant::now();
    // The listener closes a moment after the shutdown begins.
    while let Ok(events) = sandbox.start_task(&context, sandbox.request()).await {
        drop(events);
        assert!(begun.elapsed() < TIMEOUT);
    }
    assert!(TaskOutcome::collect(events).await.unwrap().failed.is_empty());
    sandbox.stop().await;
}

#[tokio::test]
async fn dropped_executor_kills_its_agents() {
    let sandbox = Sandbox::start(agent(&["ignore-sigterm"])).await;
    let events = sandbox.start_running(sandbox.request()).await;
    sandbox.served.abort();
    sandbox.no_process_left().await;
    let end = TaskOutcome::collect(events).await.unwrap_err();
    let error = phoenix_proto::error_from_status(&end);
    assert!(error.code.is_retryable(), "the task may be sent again: {error}");
}

/// An executor in its own process.
pub struct Executor {
    process: Child,
    url: String,
    pub tag: String,
}

impl Executor {
    pub fn start() -> Self {
        let tag = Uuid::new_v4().to_string();
        let mut process = Command::new(PROGRAM)
            .args(["executor", "http://127.0.0.1:1", &tag])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut url).unwrap();
        Self { process, url: url.trim().into(), tag }
    }

    /// Starts a task of `agent` and returns its events.
    pub async fn ask(&self, agent: &str, payload: &Value) -> Streaming<ExecuteTaskResponse> {
        let request = phoenix_proto::executor::ExecuteTaskRequest {
            plan_id: Uuid::new_v4().to_string(),
            task_id: Uuid::new_v4().to_string(),
            agent: agent.into(),
            action: "chat".into(),
            payload_json: payload.to_string(),
            idempotency_key: "k".into(),
            ..Default::default()
        };
        client_of(&self.url).execute_task(request).await.unwrap().into_inner()
    }

    /// Starts a task of an agent that hangs, with a child in its group and one outside.
    async fn start_task(&self) -> Streaming<ExecuteTaskResponse> {
        let mut events = self.ask("hanging", &json!({})).await;
        let first = events.message().await.unwrap().unwrap();
        assert!(matches!(first.event, Some(Event::AttemptStarted(_))), "{first:?}");
        until("the children of the agent run", || processes(&self.tag).len() == 3).await;
        events
    }

    pub fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.process.wait().unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).unwrap();
    }

    /// The guard of this executor: its command line ends in the executor's marker.
    pub fn guard(&self) -> Option<Pid> {
        let is_guard = |pid: &i32| {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = command.split('\0').skip(1);
            words.next() == Some("guard")
                && words.next().is_some_and(|marker| marker.ends_with(&format!(":{}", self.process.id())))
        };
        all_processes().find(is_guard).map(Pid::from_raw)
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn guard_that_exits_is_restarted() {
    let executor = Executor::start();
    until("the guard runs", || executor.guard().is_some()).await;
    let first = executor.guard().unwrap();
    kill(first, Signal::SIGKILL).unwrap();
    until("another guard runs", || executor.guard().is_some_and(|guard| guard != first)).await;
}

#[tokio::test]
async fn killed_executor_leaves_no_agent_behind() {
    let mut executor = Executor::start();
    let _events = executor.start_task().await;
    executor.signal(Signal::SIGKILL);
    executor.process.wait().unwrap();
    until("no agent is left", || processes(&executor.tag).is_empty()).await;
}

#[tokio::test]
async fn second_executor_kills_orphans_of_one_killed_with_its_guard() {
    let mut executor = Executor::start();
    let _events = executor.start_task().await;
    let guard = executor.guard().expect("the guard runs");
    // The guard is stopped first, so that it cannot react to the executor's exit.
    kill(guard, Signal::SIGSTOP).unwrap();
    executor.signal(Signal::SIGKILL);
    executor.process.wait().unwrap();
    kill(guard, Signal::SIGKILL).unwrap();
    // Executors of concurrent tests kill these orphans as well when they start.
    let second = Sandbox::start(agent(&["answer"])).await;
    until("no agent is left", || processes(&executor.tag).is_empty()).await;
    second.stop().await;
}

#[tokio::test]
async fn only_agents_of_a_provably_gone_executor_are_killed() {
    let dead = Command::new("true").spawn().and_then(|mut child| child.wait().map(|_| child.id())).unwrap();
    let marked = |executor: Uuid| {
        let mut sleep = Command::new("sleep");
        sleep.arg("600").env("PHOENIX_EXECUTOR", format!("{executor}:0:{dead}")).process_group(0);
        sleep.spawn().unwrap()
    };
    // The first executor left its lock file unlocked; the second may run elsewhere.
    let gone = Uuid::new_v4();
    let lock = std::env::temp_dir().join(format!("phoenix-executor-{gone}.lock"));
    let (mut orphan, mut other) = (marked(gone), marked(Uuid::new_v4()));
    std::fs::write(&lock, "").unwrap();
    // Executors of concurrent tests kill these orphans as well when they start.
    let sandbox = Sandbox::start(agent(&["answer"])).await;
    let orphan = std::sync::Mutex::new(&mut orphan);
    until("the orphan is killed", || orphan.lock().unwrap().try_wait().unwrap().is_some()).await;
    assert!(other.try_wait().unwrap().is_none(), "its executor may still run");
    until("the lock file is removed", || !lock.exists()).await;
    other.kill().unwrap();
    other.wait().unwrap();
    sandbox.stop().await;
}
