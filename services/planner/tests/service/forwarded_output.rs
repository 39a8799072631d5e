//! Output of plans that another planner on the same journal runs.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use phoenix_domain::OrchestratorErrorCode as Code;
use phoenix_platform::propagation::ForwardedTo;
use phoenix_proto::planner::{
    ExecutePlanRequest, ResumeExecution, WatchPlanRequest, WatchPlanResponse, execute_plan_request::Subject,
    execute_plan_response::Step,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Streaming, body::Body, server::NamedService};

use crate::{
    forwarding::Pair,
    output::{facts, next, rest, said, submit, text, watch},
    support::{
        ALL_PEERS, FakeExecutor, FakeHealth, Script, TestPlanner, catalog, eventually, finished, says,
        serve_peer, started,
    },
};

/// What the agent says: "one two ", and "three" once the token is cancelled.
fn speaks(more: &CancellationToken) -> Script {
    let first = vec![started(1), says(1, "one "), says(1, "two ")];
    Script::SaysMoreLater(first, more.clone(), vec![says(1, "three"), finished(1, Ok("one two three"))])
}

/// Reads until this much was said.
async fn heard(events: &mut Streaming<WatchPlanResponse>, expected: &str) {
    let mut heard = String::new();
    while heard != expected {
        let event = said(events).await;
        assert_eq!((event.kind.as_str(), &facts(&event)["offset"]), ("output", &json!(heard.len())));
        heard += facts(&event)["text"].as_str().unwrap();
        assert!(expected.starts_with(&heard), "{heard}");
    }
}

/// Checks that positions increase, and that no output comes after the end of its task.
fn check_order(events: &[WatchPlanResponse]) {
    let positions: Vec<_> =
        events.iter().map(|event| event.position).filter(|position| *position > 0).collect();
    assert!(positions.is_sorted_by(|one, next| one < next), "{events:?}");
    let ended = events.iter().position(|event| event.kind == "task_ended").unwrap();
    assert!(events[ended..].iter().all(|event| event.position > 0), "{events:?}");
    assert_eq!(events.last().unwrap().kind, "plan_ended");
}

#[tokio::test]
async fn output_reaches_readers_through_another_planner() {
    let (pair, more) = (Pair::new().await, CancellationToken::new());
    pair.owner.script("model", speaks(&more));
    let plan_id = submit(&pair.owner).await;
    let mut early = watch(&pair.other, &plan_id, true).await;
    heard(&mut early, "one two ").await;
    let mut late = watch(&pair.other, &plan_id, true).await;
    let first = said(&mut late).await;
    assert_eq!(facts(&first), json!({"attempt": 1, "offset": 0, "text": "one two "}), "what was said so far");
    let resumed = ResumeExecution { plan_id, after_position: 0, continue_on_disconnect: true };
    let request = ExecutePlanRequest { subject: Some(Subject::Resume(resumed)), with_output: true };
    let mut steps = pair.other.client.clone().execute_plan(request).await.unwrap().into_inner();
    more.cancel();
    for events in [rest(early).await, rest(late).await] {
        assert_eq!(text(&events), "three");
        check_order(&events);
    }
    let (mut events, mut result) = (Vec::new(), None);
    while let Some(step) = steps.message().await.unwrap() {
        match step.step {
            Some(Step::Event(event)) => events.push(event),
            step => result = step,
        }
    }
    assert_eq!(text(&events), "one two three");
    check_order(&events);
    assert!(matches!(result, Some(Step::Result(_))), "{result:?}");
}

#[tokio::test]
async fn events_come_while_the_owner_cannot_be_reached() {
    let (pair, more) = (Pair::new().await, CancellationToken::new());
    pair.owner.script("model", speaks(&more));
    let plan_id = submit(&pair.owner).await;
    let own = pair.owner_of(&plan_id).await;
    let move_to = |url: &str| format!("UPDATE planners SET url = '{url}' WHERE instance = '{}'", own.planner);
    pair.execute(move_to("http://127.0.0.1:1")).await;
    let mut events = watch(&pair.other, &plan_id, true).await;
    let mut read = Vec::new();
    while read.last().is_none_or(|event: &WatchPlanResponse| event.kind != "attempt_started") {
        read.push(next(&mut events).await.unwrap());
    }
    assert!(read.iter().all(|event| event.position > 0), "{read:?}");
    pair.execute(move_to(&own.url)).await;
    heard(&mut events, "one two ").await;
    more.cancel();
    let later = rest(events).await;
    assert_eq!(text(&later), "three");
    check_order(&[read, later].concat());
}

/// An executor that does not offer the agent of the plans, so that its planner leaves them to another one.
fn without_model() -> FakeExecutor {
    let mut offered: Vec<_> = catalog().iter().cloned().collect();
    for agent in &mut offered {
        if agent.name.as_str() == "model" {
            agent.name = "unused".parse().unwrap();
        }
    }
    FakeExecutor::offering(offered)
}

#[tokio::test]
async fn output_continues_with_the_planner_that_takes_over() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let start = |executor| TestPlanner::on(Arc::clone(&dir), executor, FakeHealth::default(), ALL_PEERS);
    let more = CancellationToken::new();
    let pair = Pair::in_folder(Arc::clone(&dir), without_model()).await;
    pair.owner.script("model", speaks(&more));
    let plan_id = submit(&pair.owner).await;
    let mut events = watch(&pair.other, &plan_id, true).await;
    heard(&mut events, "one two ").await;

    let next_owner = start(FakeExecutor::default()).await;
    let first = vec![started(101), says(101, "once ")];
    let later = vec![says(101, "again"), finished(101, Ok("once again"))];
    next_owner.script("model", Script::SaysMoreLater(first, more.clone(), later));
    let own = pair.owner_of(&plan_id).await;
    // As if it had died: it can write no more, and another planner continues its plans.
    pair.execute(format!("DELETE FROM planners WHERE instance = '{}'", own.planner)).await;
    let reset = said(&mut events).await;
    assert_eq!((reset.kind.as_str(), facts(&reset)), ("output_reset", json!({"attempt": 101})));
    heard(&mut events, "once ").await;
    assert_ne!(pair.owner_of(&plan_id).await, own);
    more.cancel();
    let events = rest(events).await;
    assert_eq!(text(&events), "again");
    check_order(&events);
    assert!(pair.other.executor.log.lock().unwrap().calls.is_empty(), "it only forwards");
}

#[tokio::test]
async fn forwarded_watch_is_answered_by_the_named_planner_only() {
    let (pair, more) = (Pair::new().await, CancellationToken::new());
    pair.owner.script("model", speaks(&more));
    let plan_id = submit(&pair.owner).await;
    let own = pair.owner_of(&plan_id).await.planner;
    let watch = async |planner: &TestPlanner, instance: &str| {
        let request = WatchPlanRequest {
            plan_id: plan_id.clone(),
            after_position: 0,
            with_output: true,
            ..Default::default()
        };
        let request = ForwardedTo(instance.into()).mark(Request::new(request));
        let answer = planner.client.clone().watch_plan(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| phoenix_proto::error_from_status(&status).code)
    };
    for planner in [&pair.owner, &pair.other] {
        assert_eq!(watch(planner, "another").await.unwrap_err(), Code::Unavailable);
    }
    // Not even when it knows who runs the plan: a call is forwarded once.
    let others = pair.store.planners().await.unwrap();
    let other = others.iter().find(|known| known.planner != own).unwrap();
    assert_eq!(watch(&pair.other, &other.planner).await.unwrap_err(), Code::NotFound);
    heard(&mut watch(&pair.owner, &own).await.unwrap(), "one two ").await;
}

#[tokio::test]
async fn slow_readers_through_another_planner_delay_no_other() {
    let (pair, more) = (Pair::new().await, CancellationToken::new());
    let chunk = "x".repeat(60_000);
    // 3.6 MB: more than the buffers on the way hold.
    let flood: Vec<_> = (0..60).map(|_| says(1, &chunk)).chain([finished(1, Ok("done"))]).collect();
    let script = Script::SaysMoreLater(vec![started(1), says(1, "begin")], more.clone(), flood);
    pair.owner.script("model", script);
    let plan_id = submit(&pair.owner).await;
    let (mut slow, mut reader) =
        (watch(&pair.other, &plan_id, true).await, watch(&pair.other, &plan_id, true).await);
    said(&mut slow).await;
    said(&mut reader).await;
    more.cancel();
    assert_eq!(text(&rest(reader).await).len(), 60 * 60_000, "another does not read");
    pair.owner.ended(&plan_id).await;
    assert_eq!(text(&rest(slow).await).len(), 60 * 60_000);
}

/// A planner that accepts every call and never says anything, and counts the calls that are open.
#[derive(Clone, Default)]
struct SilentOwner(Arc<AtomicUsize>);

/// The body of an answer that never comes.
struct OpenCall(Arc<AtomicUsize>);

impl http_body::Body for OpenCall {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl NamedService for SilentOwner {
    const NAME: &'static str = "phoenix.planner.v1.PlannerService";
}

impl tower_service::Service<http::Request<Body>> for SilentOwner {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        self.0.fetch_add(1, Ordering::Relaxed);
        let silence = Body::new(OpenCall(Arc::clone(&self.0)));
        let answer = http::Response::builder().header("content-type", "application/grpc");
        std::future::ready(Ok(answer.body(silence).unwrap()))
    }
}

#[tokio::test]
async fn reader_that_leaves_ends_the_forwarded_call() {
    let (pair, stop) = (Pair::new().await, CancellationToken::new());
    let silent = SilentOwner::default();
    let url = serve_peer(silent.clone(), true, &stop).await;
    let plan_id = pair.running().await;
    let own = pair.owner_of(&plan_id).await;
    pair.execute(format!("UPDATE planners SET url = '{url}' WHERE instance = '{}'", own.planner)).await;
    let open = || silent.0.load(Ordering::Relaxed);
    let readers = [watch(&pair.other, &plan_id, true).await, watch(&pair.other, &plan_id, true).await];
    eventually(async || open() == 2).await;
    drop(readers);
    eventually(async || open() == 0).await;
    stop.cancel();
}
