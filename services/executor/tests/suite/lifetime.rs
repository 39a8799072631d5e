//! However an executor ends, its agents end with it.

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

use crate::sandbox::{PATIENCE, PROGRAM, Sandbox, Told, agent, all_processes, client_of, processes, until};

#[tokio::test]
async fn at_shutdown_a_running_task_finishes_and_a_new_one_is_refused() {
    let sandbox = Sandbox::start(agent(&["slow-start", "500"])).await;
    let events = sandbox.start_running(sandbox.request()).await;
    sandbox.shutdown.cancel();
    let context = RequestContext::new(CorrelationId::generate());
    let begun = std::time::Instant::now();
    // The listener closes a moment after the signal.
    while let Ok(events) = sandbox.start_task(&context, sandbox.request()).await {
        drop(events);
        assert!(begun.elapsed() < PATIENCE);
    }
    assert!(Told::all_of(events).await.unwrap().failed.is_empty());
    sandbox.stop().await;
}

#[tokio::test]
async fn an_executor_that_is_dropped_takes_its_agents_along() {
    let sandbox = Sandbox::start(agent(&["ignore-sigterm"])).await;
    let events = sandbox.start_running(sandbox.request()).await;
    sandbox.served.abort();
    sandbox.no_process_left().await;
    let end = Told::all_of(events).await.unwrap_err();
    let error = phoenix_proto::error_from_status(&end);
    assert!(error.code.is_retryable(), "the task may be sent again: {error}");
}

/// An executor in a process of its own.
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

    /// A task of `agent` that was taken in.
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

    /// A task that runs, of an agent that hangs, with a child in its group and one outside.
    async fn start_task(&self) -> Streaming<ExecuteTaskResponse> {
        let mut events = self.ask("hanging", &json!({})).await;
        let first = events.message().await.unwrap().unwrap();
        assert!(matches!(first.event, Some(Event::AttemptStarted(_))), "{first:?}");
        until("the agent has its children", || processes(&self.tag).len() == 3).await;
        events
    }

    pub fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }

    /// Ends it like a crash.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        self.process.wait().unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).unwrap();
    }

    /// The process that guards this executor: its command ends in the executor's marker.
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
async fn a_guard_that_dies_is_replaced() {
    let executor = Executor::start();
    until("there is a guard", || executor.guard().is_some()).await;
    let first = executor.guard().unwrap();
    kill(first, Signal::SIGKILL).unwrap();
    until("there is another guard", || executor.guard().is_some_and(|guard| guard != first)).await;
}

#[tokio::test]
async fn an_executor_that_is_killed_leaves_no_agent_behind() {
    let mut executor = Executor::start();
    let _events = executor.start_task().await;
    executor.signal(Signal::SIGKILL);
    executor.process.wait().unwrap();
    until("no agent is left", || processes(&executor.tag).is_empty()).await;
}

#[tokio::test]
async fn a_second_executor_ends_what_one_that_was_killed_together_with_its_guard_left_behind() {
    let mut executor = Executor::start();
    let _events = executor.start_task().await;
    let guard = executor.guard().expect("there is a guard");
    // The guard is stopped first, so that it can't act on the executor's end.
    kill(guard, Signal::SIGSTOP).unwrap();
    executor.signal(Signal::SIGKILL);
    executor.process.wait().unwrap();
    kill(guard, Signal::SIGKILL).unwrap();
    // Executors of other tests look for orphans too when they start; whoever comes first ends them.
    let second = Sandbox::start(agent(&["answer"])).await;
    until("no agent is left", || processes(&executor.tag).is_empty()).await;
    second.stop().await;
}

#[tokio::test]
async fn only_agents_of_an_executor_that_is_provably_gone_are_ended() {
    let dead = Command::new("true").spawn().and_then(|mut child| child.wait().map(|_| child.id())).unwrap();
    let marked = |executor: Uuid| {
        let mut sleep = Command::new("sleep");
        sleep.arg("600").env("PHOENIX_EXECUTOR", format!("{executor}:0:{dead}")).process_group(0);
        sleep.spawn().unwrap()
    };
    // One whose executor left its lock file behind, unlocked, and one whose executor may live elsewhere.
    let gone = Uuid::new_v4();
    let lock = std::env::temp_dir().join(format!("phoenix-executor-{gone}.lock"));
    let (mut orphan, mut other) = (marked(gone), marked(Uuid::new_v4()));
    std::fs::write(&lock, "").unwrap();
    // Executors of other tests look for orphans too when they start; whoever comes first ends them.
    let sandbox = Sandbox::start(agent(&["answer"])).await;
    let orphan = std::sync::Mutex::new(&mut orphan);
    until("the orphan is ended", || orphan.lock().unwrap().try_wait().unwrap().is_some()).await;
    assert!(other.try_wait().unwrap().is_none(), "nothing is known of its executor");
    until("its lock file is tidied up", || !lock.exists()).await;
    other.kill().unwrap();
    other.wait().unwrap();
    sandbox.stop().await;
}
