//! Mode `workers`: processes are reused, and the failure of one affects one request.

use std::{
    collections::BTreeSet,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};
use phoenix_domain::{AgentMode, AgentSpec, CorrelationId, OrchestratorErrorCode};
use phoenix_platform::RequestContext;
use phoenix_proto::{executor::ExecuteTaskRequest, health_v1::Outcome};
use serde_json::json;

use crate::sandbox::{Sandbox, TIMEOUT, TaskOutcome, agent, processes, until};

fn workers(count: u32, behaviour: &[&str]) -> AgentSpec {
    AgentSpec { mode: AgentMode::Workers, workers: count, ..agent(behaviour) }
}

fn message(sandbox: &Sandbox, message: &str) -> ExecuteTaskRequest {
    let payload_json = json!({ "message": message, "what": message }).to_string();
    ExecuteTaskRequest { payload_json, ..sandbox.request() }
}

async fn send(sandbox: &Sandbox, text: &str) -> TaskOutcome {
    sandbox.run_request(message(sandbox, text)).await.unwrap()
}

fn pid(outcome: &TaskOutcome) -> i32 {
    outcome.data()["pid"].as_i64().unwrap().try_into().unwrap()
}

#[tokio::test]
async fn one_worker_answers_consecutive_requests() {
    let sandbox = Sandbox::start(workers(4, &["obey"])).await;
    let first = pid(&send(&sandbox, "hello").await);
    for _ in 0..20 {
        assert_eq!(pid(&send(&sandbox, "hello").await), first);
    }
    assert_eq!(processes(&sandbox.tag), [first]);
    sandbox.stop().await;
}

#[tokio::test]
async fn burst_starts_few_workers_which_serve_it_together() {
    let folder = tempfile::tempdir().unwrap();
    let starts = folder.path().join("starts");
    let requests = 16 * available_parallelism().unwrap().get();
    let behaviour = ["slow-start-noted", starts.to_str().unwrap(), "100"];
    let sandbox = Sandbox::start(workers(requests.try_into().unwrap(), &behaviour)).await;
    let tasks = futures_util::future::join_all((0..requests).map(|_| send(&sandbox, "hello"))).await;
    tasks.iter().for_each(|task| assert!(task.data().is_object(), "{task:?}"));
    let started = std::fs::read_to_string(&starts).unwrap().lines().count();
    assert!(started <= requests / 2, "{started} workers for {requests} requests that take no time");
    sandbox.stop().await;
}

#[tokio::test]
async fn agents_run_at_a_lower_priority_than_the_executor() {
    let sandbox = Sandbox::start(workers(1, &["obey"])).await;
    let agent = pid(&send(&sandbox, "hello").await);
    let nice = |pid: i32| rustix::process::getpriority_process(rustix::process::Pid::from_raw(pid)).unwrap();
    assert_eq!(nice(agent), (nice(std::process::id().cast_signed()) + 10).min(19));
    sandbox.stop().await;
}

#[tokio::test]
async fn pool_never_exceeds_its_configured_size() {
    let sandbox = Sandbox::start(workers(3, &["obey"])).await;
    let tasks: Vec<_> = (0..60).map(|_| send(&sandbox, "hello")).collect();
    let pids: BTreeSet<_> = futures_util::future::join_all(tasks).await.iter().map(pid).collect();
    assert!(pids.len() <= 3, "{pids:?}");
    assert_eq!(processes(&sandbox.tag).into_iter().collect::<BTreeSet<_>>(), pids, "every worker stays");
    sandbox.stop().await;
}

#[tokio::test]
async fn hanging_worker_is_killed_and_fails_only_its_request() {
    let spec = AgentSpec { timeout: Duration::from_secs(3), ..workers(2, &["obey"]) };
    let sandbox = Sandbox::start(spec).await;
    let hanging = send(&sandbox, "hang");
    let others = async {
        for _ in 0..20 {
            assert!(send(&sandbox, "hello").await.failed.is_empty());
        }
    };
    let (hanging, ()) = futures_util::future::join(hanging, others).await;
    assert_eq!(hanging.failed[0].error_class, "timeout", "{hanging:?}");
    until("only the other worker is left", || processes(&sandbox.tag).len() == 1).await;
    sandbox.stop().await;
}

#[tokio::test]
async fn crashing_worker_fails_its_request_with_its_stderr() {
    let spec = AgentSpec { timeout: TIMEOUT * 20, ..workers(1, &["obey"]) };
    let sandbox = Sandbox::start(spec).await;
    let first = pid(&send(&sandbox, "hello").await);
    let outcome = send(&sandbox, "die").await;
    let error = outcome.error();
    assert_eq!(error.message, "agent `test_agent` exited with code 5");
    assert_eq!((error.details["stderr"].as_str(), error.details["exit_code"].as_str()), ("last words", "5"));
    assert_ne!(pid(&send(&sandbox, "hello").await), first);
    sandbox.stop().await;
}

#[tokio::test]
async fn idle_worker_that_dies_fails_no_request() {
    let sandbox = Sandbox::start(workers(1, &["obey"])).await;
    let first = pid(&send(&sandbox, "hello").await);
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    until("the worker is reaped", || !std::path::Path::new(&format!("/proc/{first}")).exists()).await;
    let outcome = send(&sandbox, "hello").await;
    assert!(outcome.failed.is_empty());
    assert_ne!(pid(&outcome), first);
    sandbox.stop().await;
}

#[tokio::test]
async fn output_between_requests_is_never_a_response() {
    let sandbox = Sandbox::start(workers(1, &["obey"])).await;
    for _ in 0..5 {
        // The surplus may arrive with the response or later. The next request gets its own response in both cases.
        let _ = send(&sandbox, "answer and write more").await;
        let request = message(&sandbox, "hello");
        let task_id = request.task_id.clone();
        let mut outcome = sandbox.run_request(request.clone()).await.unwrap();
        if !outcome.failed.is_empty() {
            assert_eq!(outcome.failed[0].error_class, "backend_failure", "{outcome:?}");
            outcome = sandbox.run_request(request).await.unwrap();
        }
        assert_eq!(outcome.data()["request"]["task_id"], task_id);
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn stderr_belongs_to_the_request_it_was_written_for() {
    let sandbox = Sandbox::start(workers(1, &["obey"])).await;
    let first = send(&sandbox, "write stderr and refuse").await;
    assert_eq!(first.error().details["stderr"], r#"about "write stderr and refuse""#);
    assert_eq!(first.error().details["response_code"], "500");
    let again = send(&sandbox, "write stderr and refuse").await;
    assert_eq!(again.error().details["stderr"], r#"about "write stderr and refuse""#, "once, not twice");
    assert_eq!(
        first.started[0].worker, again.started[0].worker,
        "an error response does not retire the worker"
    );
    sandbox.stop().await;
}

#[tokio::test]
async fn caller_that_leaves_retires_its_worker() {
    let sandbox = Sandbox::start(workers(1, &["obey"])).await;
    let events = sandbox.start_running(message(&sandbox, "hang")).await;
    drop(events);
    sandbox.no_process_left().await;
    assert!(send(&sandbox, "hello").await.failed.is_empty());
    sandbox.stop().await;
}

#[tokio::test]
async fn worker_may_exit_after_a_response() {
    let spec = AgentSpec { retry: crate::sandbox::quick_retries(), ..workers(1, &["obey"]) };
    let sandbox = Sandbox::start(spec).await;
    for _ in 0..5 {
        let outcome = send(&sandbox, "answer and exit").await;
        let left = pid(&outcome);
        until("the worker has exited", || !processes(&sandbox.tag).contains(&left)).await;
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn crash_loop_backs_off_and_names_itself() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes");
    let spec = AgentSpec {
        timeout: Duration::from_millis(600),
        ..workers(1, &["crash-at-start", notes.to_str().unwrap()])
    };
    let sandbox = Sandbox::start(spec).await;
    let mut asked = 0;
    let refused = loop {
        let outcome = sandbox.run().await;
        asked += 1;
        assert!(asked < 20, "{outcome:?}");
        match outcome.failed[0].error_class.as_str() {
            "backend_failure" => {
                assert!(outcome.failed[0].stderr_tail.contains("cannot continue"), "{outcome:?}");
            }
            // On a busy machine, a process may start too slowly to crash in time.
            "timeout" => {}
            _ => break outcome,
        }
    };
    assert_eq!(refused.failed[0].error_class, "io");
    assert!(refused.failed[0].message.contains("crashes again and again"), "{refused:?}");
    assert_eq!(refused.started[0].worker, "", "no process was started");
    let starts = std::fs::read_to_string(notes).unwrap().lines().count();
    assert!(starts < asked, "{starts} starts for {asked} requests");
    sandbox.stop().await;
}

#[tokio::test]
async fn workers_limit_concurrency_like_oneshot() {
    let spec = AgentSpec { max_queue: 0, ..workers(1, &["obey"]) };
    let sandbox = Sandbox::start(spec).await;
    let _running = sandbox.start_running(message(&sandbox, "hang")).await;
    let context = RequestContext::new(CorrelationId::generate());
    let refused = sandbox.start_task(&context, sandbox.request()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
}

#[tokio::test]
async fn request_to_an_exiting_worker_goes_to_another() {
    let sandbox = Sandbox::start(workers(2, &["obey"])).await;
    let mut pids = BTreeSet::new();
    for _ in 0..15 {
        for text in ["answer and exit soon", "hello"] {
            let outcome = send(&sandbox, text).await;
            assert!(outcome.failed.is_empty(), "{outcome:?}");
            assert_eq!(outcome.finished.attempts, 1);
            pids.insert(pid(&outcome));
        }
    }
    assert!(pids.len() > 1, "workers exited");
    let failures: Vec<_> =
        sandbox.health.reports().into_iter().filter(|report| report.0 != Outcome::Success).collect();
    assert_eq!(failures, [], "no failure is reported");
    sandbox.stop().await;
}

#[tokio::test]
async fn idle_worker_never_blocks_on_stderr() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("done");
    let sandbox = Sandbox::start(workers(1, &["obey"])).await;
    let begin = folder.path().join("begin");
    mkfifo(&begin, Mode::S_IRWXU).unwrap();
    let payload_json =
        json!({ "message": "answer and flood stderr", "file": file, "begin": begin }).to_string();
    let outcome =
        sandbox.run_request(ExecuteTaskRequest { payload_json, ..sandbox.request() }).await.unwrap();
    assert!(outcome.failed.is_empty(), "{outcome:?}");
    // The stderr of the request is taken before its outcome is reported, so the flood belongs to none.
    std::fs::write(&begin, "").unwrap();
    until("400 KiB are written", || file.exists()).await;
    let outcome = send(&sandbox, "write stderr and refuse").await;
    let tail = &outcome.failed[0].stderr_tail;
    assert!(tail.ends_with(r#"about "write stderr and refuse""#), "{}", &tail[tail.len() - 100..]);
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
    assert_eq!(
        sandbox.health.reports(),
        [(Outcome::Neutral, String::new())],
        "the worker received no request"
    );
    let begun = Instant::now();
    while !sandbox.run().await.failed.is_empty() {
        assert!(begun.elapsed() < TIMEOUT, "the worker never starts");
    }
    assert_eq!(std::fs::read_to_string(starts).unwrap().lines().count(), 1, "one start was enough");
    sandbox.stop().await;
}

#[tokio::test]
async fn worker_that_exceeds_its_start_timeout_is_killed() {
    let start_timeout = Duration::from_millis(300);
    let spec = AgentSpec { start_timeout, timeout: TIMEOUT, ..workers(1, &["slow-start", "600000"]) };
    let sandbox = Sandbox::start(spec).await;
    let outcome = sandbox.run().await;
    assert_eq!(outcome.failed[0].error_class, "io");
    assert!(outcome.error().message.contains("did not start within 300 ms"), "{}", outcome.error());
    assert_eq!(sandbox.health.reports(), [(Outcome::Failure, String::new())]);
    sandbox.no_process_left().await;
    sandbox.stop().await;
}
