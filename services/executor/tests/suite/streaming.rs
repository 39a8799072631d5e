//! Lines before the answer: chunks and progress reports of a running attempt.

use std::time::Duration;

use phoenix_domain::{AgentMode, AgentSpec, limits::MAX_OUTPUT_LINE_BYTES};
use phoenix_platform::RequestContext;
use phoenix_proto::executor::{ExecuteTaskRequest, ExecuteTaskResponse, execute_task_response::Event};
use tokio::time::timeout;
use tonic::Streaming;

use crate::sandbox::{Sandbox, TIMEOUT, TaskOutcome, agent, quick_retries, until};

const MODES: [AgentMode; 2] = [AgentMode::Oneshot, AgentMode::Workers];

fn streamer(mode: AgentMode, steps: &[&str]) -> AgentSpec {
    let behaviour: Vec<_> = ["stream"].iter().chain(steps).copied().collect();
    AgentSpec { mode, timeout: TIMEOUT * 20, ..agent(&behaviour) }
}

async fn next(events: &mut Streaming<ExecuteTaskResponse>) -> Event {
    timeout(TIMEOUT, events.message()).await.unwrap().unwrap().unwrap().event.unwrap()
}

#[tokio::test]
async fn chunks_arrive_before_the_agent_answers() {
    for mode in MODES {
        let folder = tempfile::tempdir().unwrap();
        let gate = folder.path().join("gate");
        let wait = format!("wait:{}", gate.display());
        let delta = r#"line:{"type":"chunk","request_id":"ID","data":"ö","delta":{"content":"ö"}}"#;
        let progress = r#"line:{"type":"progress","request_id":"ID","message":"m","progress":1,"total":3}"#;
        let unknown = r#"line:{"type":"later","request_id":"ID"}"#;
        let steps = ["chunk:a", &wait, "chunk:b", delta, progress, unknown, "answer"];
        let sandbox = Sandbox::start(streamer(mode, &steps)).await;
        let mut events = sandbox.start_running(sandbox.request()).await;
        let Event::Output(first) = next(&mut events).await else { panic!("no output") };
        assert_eq!((first.attempt, first.data.as_str(), first.delta_json.as_str()), (1, "a", ""));
        std::fs::write(&gate, "").unwrap();
        let outcome = TaskOutcome::collect(events).await.unwrap();
        assert_eq!(outcome.said(), "bö");
        let last = outcome.output.last().unwrap();
        assert_eq!((last.data.as_str(), last.delta_json.as_str()), ("ö", r#"{"content":"ö"}"#));
        let report = &outcome.progress[0];
        assert_eq!((report.message.as_str(), report.progress, report.total), ("m", Some(1.0), Some(3.0)));
        assert_eq!(outcome.data()["request"]["_meta"]["stream"], true);
        assert_eq!(outcome.finished.attempts, 1);
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn caller_without_interest_gets_no_output() {
    let sandbox = Sandbox::start(streamer(AgentMode::Workers, &["chunk:a", "chunk:b", "answer"])).await;
    for _ in 0..3 {
        let request = ExecuteTaskRequest { with_output: false, ..sandbox.request() };
        let outcome = sandbox.run_request(request).await.unwrap();
        assert_eq!((outcome.output.len(), outcome.failed.len()), (0, 0));
        assert_eq!(outcome.data()["request"]["_meta"].get("stream"), None);
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn invalid_line_before_or_after_the_answer_fails_the_attempt() {
    let long = format!("chunk:{}", "x".repeat(MAX_OUTPUT_LINE_BYTES));
    let other = r#"line:{"type":"chunk","request_id":"0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f","data":"a"}"#;
    for (steps, says) in [
        (&[long.as_str(), "answer"][..], "before its answer; at most 65536 are allowed"),
        (&["chunk:a", other, "answer"], "for another request"),
        (&[r#"line:{"type":"chunk","request_id":"ID","data":7}"#, "answer"], "invalid line of type `chunk`"),
        (&["chunk:a", "line:not json"], "not an action response"),
        (&["flood:1000", "answer"], "chunks of more than 8 MiB"),
    ] {
        for mode in MODES {
            let sandbox = Sandbox::start(streamer(mode, steps)).await;
            let outcome = sandbox.run().await;
            assert_eq!(outcome.failed[0].error_class, "backend_failure");
            assert!(outcome.failed[0].message.contains(says), "{}", outcome.failed[0].message);
            sandbox.no_process_left().await;
            sandbox.stop().await;
        }
    }
}

#[tokio::test]
async fn chunk_after_the_answer_is_no_part_of_the_next_task() {
    let sandbox = Sandbox::start(streamer(AgentMode::Workers, &["chunk:a", "answer", "chunk:late"])).await;
    for _ in 0..5 {
        // The late chunk may arrive with the answer, after it, or when the next request is on its way.
        let outcome = sandbox.run().await;
        assert_eq!(outcome.said(), "a", "{outcome:?}");
        assert!(outcome.failed.iter().all(|failed| failed.message.contains("more after its answer")));
    }
    sandbox.stop().await;
}

#[tokio::test]
async fn reports_without_end_stop_at_the_deadline() {
    for mode in MODES {
        let spec = AgentSpec { timeout: Duration::from_secs(2), ..streamer(mode, &["report for ever"]) };
        let sandbox = Sandbox::start(spec).await;
        let outcome = sandbox.run().await;
        assert_eq!(outcome.failed[0].error_class, "timeout", "{outcome:?}");
        sandbox.no_process_left().await;
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn retry_after_a_partial_answer_has_its_own_attempt_number() {
    let folder = tempfile::tempdir().unwrap();
    let notes = folder.path().join("notes").display().to_string();
    let steps = ["chunk:half", &format!("die unless:{notes}"), "chunk: whole", "answer"];
    let spec = AgentSpec { retry: quick_retries(), ..streamer(AgentMode::Workers, &steps) };
    let sandbox = Sandbox::start(spec).await;
    let context = RequestContext::new(phoenix_domain::CorrelationId::generate());
    let mut events = sandbox.start_task(&context, sandbox.request()).await.unwrap();
    loop {
        if let Event::AttemptFailed(failed) = next(&mut events).await {
            assert_eq!(failed.attempt, 1);
            break;
        }
    }
    std::fs::write(&notes, "").unwrap();
    let outcome = TaskOutcome::collect(events).await.unwrap();
    let last = outcome.finished.attempts;
    let said: String = outcome.output.iter().filter(|o| o.attempt == last).map(|o| o.data.as_str()).collect();
    assert_eq!(said, "half whole");
    sandbox.stop().await;
}

#[tokio::test]
async fn slow_caller_blocks_its_own_agent_only() {
    let folder = tempfile::tempdir().unwrap();
    let written = folder.path().join("written");
    // 7.5 MiB, more than all buffers on the way hold.
    let steps = ["flood:480", &format!("note:{}", written.display()), "answer"];
    let spec = AgentSpec { workers: 2, ..streamer(AgentMode::Workers, &steps) };
    let sandbox = Sandbox::start(spec).await;
    let slow = sandbox.start_running(sandbox.request()).await;
    let other = sandbox.run().await;
    assert_eq!(other.said().len(), 480 * 16 * 1024);
    assert_eq!(std::fs::read_to_string(&written).unwrap().lines().count(), 1, "the other agent has finished");
    let outcome = TaskOutcome::collect(slow).await.unwrap();
    assert_eq!(outcome.said().len(), 480 * 16 * 1024);
    assert!(outcome.output.len() < 480, "chunks that waited are joined: {}", outcome.output.len());
    until("both have finished", || std::fs::read_to_string(&written).unwrap().lines().count() == 2).await;
    sandbox.stop().await;
}
