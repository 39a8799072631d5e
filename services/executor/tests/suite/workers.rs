//! Mode `workers`: processes are kept, and what goes wrong with one costs one request.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use phoenix_domain::{AgentMode, AgentSpec, CorrelationId, OrchestratorErrorCode};
use phoenix_platform::RequestContext;
use phoenix_proto::{executor::ExecuteTaskRequest, health_v1::Outcome};
use serde_json::json;

use crate::sandbox::{PATIENCE, Sandbox, Told, agent, processes, until};

fn workers(count: u32, behaviour: &[&str]) -> AgentSpec {
    AgentSpec { mode: AgentMode::Workers, workers: count, ..agent(behaviour) }
}

fn message(sandbox: &Sandbox, message: &str) -> ExecuteTaskRequest {
    let payload_json = json!({ "message": message, "what": message }).to_string();
    ExecuteTaskRequest { payload_json, ..sandbox.request() }
}

async fn tell(sandbox: &Sandbox, text: &str) -> Told {
    sandbox.run_request(message(sandbox, text)).await.unwrap()
}

fn pid(told: &Told) -> i32 {
    told.data()["pid"].as_i64().unwrap().try_into().unwrap()
}

#[tokio::test]
async fn one_process_answers_one_request_after_the_other() {
    let sandbox = Sandbox::start(workers(4, &["obey"])).await;
    let first = pid(&tell(&sandbox, "hello").await);
    for _ in 0..20 {
        assert_eq!(pid(&tell(&sandbox, "hello").await), first);
    }
    assert_eq!(processes(&sandbox.tag), [first]);
    sandbox.stop().await;
}

#[tokio::test]
async fn there_are_never_more_workers_than_configured() {
    let sandbox = Sandbox::start(workers(3, &["obey"])).await;
    let tasks: Vec<_> = (0..60).map(|_| tell(&sandbox, "hello")).collect();
    let pids: BTreeSet<_> = futures_util::future::join_all(tasks).await.iter().map(pid).collect();
    assert!(pids.len() <= 3, "{pids:?}");
    assert_eq!(processes(&sandbox.tag).into_iter().collect::<BTreeSet<_>>(), pids, "all of them are kept");
    sandbox.stop().await;
}

#[tokio::test]
async fn a_worker_that_hangs_is_killed_and_only_its_own_request_fails() {
    let spec = AgentSpec { timeout: Duration::from_secs(3), ..workers(2, &["obey"]) };
    let sandbox = Sandbox::start(spec).await;
    let hanging = tell(&sandbox, "hang");
    let others = async {
        for _ in 0..20 {
            assert!(tell(&sandbox, "hello").await.failed.is_empty());
        }
    };
    let (hanging, ()) = futures_util::future::join(hanging, others).await;
    assert_eq!(hanging.failed[0].error_class, "timeout", "{hanging:?}");
    until("only the good one is left", || processes(&sandbox.tag).len() == 1).await;
    sandbox.stop().await;
}

#[tokio::test]
async fn a_worker_that_dies_fails_its_request_at_once_with_its_last_words() {
    let spec = AgentSpec { timeout: PATIENCE * 20, ..workers(1, &["obey"]) };
    let sandbox = Sandbox::start(spec).await;
    let first = pid(&tell(&sandbox, "hello").await);
    let told = tell(&sandbox, "die").await;
    let error = told.error();
    assert_eq!(error.message, "agent `test_agent` exited with code 5");
    assert_eq!((error.details["stderr"].as_str(), error.details["exit_code"].as_str()), ("last words", "5"));
    assert_ne!(pid(&tell(&sandbox, "hello").await), first);
    sandbox.stop().await;
}

#[tokio::test]
async fn a_worker_that_dies_while_idle_costs_no_request() {
    let sandbox = Sandbox::start(workers(1, &["obey"])).await;
    let first = pid(&tell(&sandbox, "hello").await);
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    until("it is reaped", || !std::path::Path::new(&format!("/proc/{first}")).exists()).await;
    let told = tell(&sandbox, "hello").await;
    assert!(told.failed.is_empty());
    assert_ne!(pid(&told), first);
    sandbox.stop().await;
}

#[tokio::test]
async fn what_is_said_between_requests_is_never_taken_for_an_answer() {
    let sandbox = Sandbox::start(workers(1, &["obey"])).await;
    for _ in 0..5 {
        // Whether the surplus is seen with the answer or only later, the next request gets an answer of its own.
        let _ = tell(&sandbox, "answer and babble").await;
        let request = message(&sandbox, "hello");
        let task_id = request.task_id.clone();
        let mut told = sandbox.run_request(request.clone()).await.unwrap();
        if !told.failed.is_empty() {
            assert_eq!(told.failed[0].error_class, "backend_failure", "{told:?}");
            told = sandbox.run_request(request).await.unwrap();
        }
        assert_eq!(told.data()["request"]["task_id"], task_id);
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn complaints_belong_to_the_request_they_were_made_about() {
    let sandbox = Sandbox::start(workers(1, &["obey"])).await;
    let first = tell(&sandbox, "complain and refuse").await;
    assert_eq!(first.error().details["stderr"], r#"about "complain and refuse""#);
    assert_eq!(first.error().details["response_code"], "500");
    let again = tell(&sandbox, "complain and refuse").await;
    assert_eq!(again.error().details["stderr"], r#"about "complain and refuse""#, "once, not twice");
    assert_eq!(first.started[0].worker, again.started[0].worker, "a refusal is no reason to dismiss anyone");
    sandbox.stop().await;
}

#[tokio::test]
async fn a_caller_that_leaves_takes_its_worker_along() {
    let sandbox = Sandbox::start(workers(1, &["obey"])).await;
    let events = sandbox.start_running(message(&sandbox, "hang")).await;
    drop(events);
    sandbox.no_process_left().await;
    assert!(tell(&sandbox, "hello").await.failed.is_empty());
    sandbox.stop().await;
}

#[tokio::test]
async fn a_worker_may_leave_after_an_answer() {
    let spec = AgentSpec { retry: crate::sandbox::quick_retries(), ..workers(1, &["obey"]) };
    let sandbox = Sandbox::start(spec).await;
    for _ in 0..5 {
        let told = tell(&sandbox, "answer and leave").await;
        let left = pid(&told);
        until("it has left", || !processes(&sandbox.tag).contains(&left)).await;
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn a_crash_loop_is_slow_and_says_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    let spec = AgentSpec {
        timeout: Duration::from_millis(600),
        ..workers(1, &["crash-at-start", notes.to_str().unwrap()])
    };
    let sandbox = Sandbox::start(spec).await;
    let mut asked = 0;
    let refused = loop {
        let told = sandbox.run().await;
        asked += 1;
        match told.failed[0].error_class.as_str() {
            "backend_failure" => assert!(told.failed[0].stderr_tail.contains("cannot go on"), "{told:?}"),
            _ => break told,
        }
    };
    assert_eq!(refused.failed[0].error_class, "io");
    assert!(refused.failed[0].message.contains("crashes again and again"), "{refused:?}");
    assert_eq!(refused.started[0].worker, "", "nothing was started for it");
    let starts = std::fs::read_to_string(notes).unwrap().lines().count();
    assert!(starts < asked && asked < 20, "{starts} starts for {asked} requests");
    sandbox.stop().await;
}

#[tokio::test]
async fn workers_are_a_limit_like_any_other() {
    let spec = AgentSpec { max_queue: 0, ..workers(1, &["obey"]) };
    let sandbox = Sandbox::start(spec).await;
    let _running = sandbox.start_running(message(&sandbox, "hang")).await;
    let context = RequestContext::new(CorrelationId::generate());
    let refused = sandbox.start_task(&context, sandbox.request()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
}

#[tokio::test]
async fn request_to_a_worker_that_is_leaving_goes_to_another() {
    let sandbox = Sandbox::start(workers(2, &["obey"])).await;
    let mut pids = BTreeSet::new();
    for _ in 0..15 {
        for text in ["answer and leave soon", "hello"] {
            let told = tell(&sandbox, text).await;
            assert!(told.failed.is_empty(), "{told:?}");
            assert_eq!(told.finished.attempts, 1);
            pids.insert(pid(&told));
        }
    }
    assert!(pids.len() > 1, "it did leave");
    let failures: Vec<_> =
        sandbox.health.reports().into_iter().filter(|report| report.0 != Outcome::Success).collect();
    assert_eq!(failures, [], "no agent did anything wrong");
    sandbox.stop().await;
}

#[tokio::test]
async fn idle_worker_never_waits_for_its_stderr_to_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("done");
    let sandbox = Sandbox::start(workers(1, &["obey"])).await;
    let payload_json = json!({ "message": "answer and chatter", "file": file }).to_string();
    let told = sandbox.run_request(ExecuteTaskRequest { payload_json, ..sandbox.request() }).await.unwrap();
    assert!(told.failed.is_empty(), "{told:?}");
    until("all of 400 KiB are written", || file.exists()).await;
    let told = tell(&sandbox, "complain and refuse").await;
    let tail = &told.failed[0].stderr_tail;
    assert!(tail.ends_with(r#"about "complain and refuse""#), "{}", &tail[tail.len() - 100..]);
    assert!((60 * 1024..=64 * 1024).contains(&tail.len()), "{}", tail.len());
    sandbox.stop().await;
}

#[tokio::test]
async fn worker_that_starts_slowly_serves_the_next_request() {
    let folder = tempfile::tempdir().unwrap();
    let starts = folder.path().join("starts");
    let behaviour = ["slow-start-noted", starts.to_str().unwrap(), "6000"];
    let spec = AgentSpec { timeout: Duration::from_millis(2500), ..workers(1, &behaviour) };
    let sandbox = Sandbox::start(spec).await;
    let first = sandbox.run().await;
    assert_eq!(first.error().code, OrchestratorErrorCode::Timeout);
    assert!(first.error().message.contains("still starting"), "{}", first.error());
    assert_eq!(sandbox.health.reports(), [(Outcome::Neutral, String::new())], "it received nothing");
    let begun = Instant::now();
    while !sandbox.run().await.failed.is_empty() {
        assert!(begun.elapsed() < PATIENCE, "it never starts");
    }
    assert_eq!(std::fs::read_to_string(starts).unwrap().lines().count(), 1, "one start served");
    sandbox.stop().await;
}

#[tokio::test]
async fn worker_that_does_not_start_in_time_is_ended() {
    let start_timeout = Duration::from_millis(300);
    let spec = AgentSpec { start_timeout, timeout: PATIENCE, ..workers(1, &["slow-start", "600000"]) };
    let sandbox = Sandbox::start(spec).await;
    let told = sandbox.run().await;
    assert_eq!(told.failed[0].error_class, "io");
    assert!(told.error().message.contains("did not start within 300 ms"), "{}", told.error());
    assert_eq!(sandbox.health.reports(), [(Outcome::Failure, String::new())]);
    sandbox.no_process_left().await;
    sandbox.stop().await;
}
