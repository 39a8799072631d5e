//! Plans that are executed and followed through one stream.

use std::time::{Duration, Instant};

use phoenix_domain::{CorrelationId, OrchestratorError, OrchestratorErrorCode as Code};
use phoenix_platform::RequestContext;
use phoenix_proto::{
    error_from_status,
    executor::execute_task_response::Event,
    planner::{
        ExecutePlanRequest, ExecutePlanResponse, PlanAndExecuteRequest, PlanAndExecuteResponse, PlanStatus,
        ResumeExecution, execute_plan_request::Subject, execute_plan_response::Step, plan_result::Outcome,
    },
};
use tonic::Streaming;

use crate::support::{
    PATIENCE, Script, TestPlanner, answers, error_of, eventually, failed, finished, started, status_of,
};

type Steps = Streaming<ExecutePlanResponse>;

async fn open(
    planner: &TestPlanner,
    context: &RequestContext,
    subject: Subject,
) -> Result<Steps, OrchestratorError> {
    let request = ExecutePlanRequest { subject: Some(subject), with_output: true };
    let answer = planner.client.clone().execute_plan(context.request(request)).await;
    answer.map(tonic::Response::into_inner).map_err(|status| error_from_status(&status))
}

pub(crate) async fn execute(
    planner: &TestPlanner,
    request: PlanAndExecuteRequest,
) -> Result<Steps, OrchestratorError> {
    open(planner, &RequestContext::new(CorrelationId::generate()), Subject::Plan(request)).await
}

async fn resume(
    planner: &TestPlanner,
    plan_id: &str,
    after_position: u64,
    continue_on_disconnect: bool,
) -> Result<Steps, OrchestratorError> {
    let resume = ResumeExecution { plan_id: plan_id.into(), after_position, continue_on_disconnect };
    open(planner, &RequestContext::new(CorrelationId::generate()), Subject::Resume(resume)).await
}

fn chat() -> PlanAndExecuteRequest {
    PlanAndExecuteRequest { message: "hello".into(), ..Default::default() }
}

async fn next(steps: &mut Steps) -> Option<Step> {
    let message = tokio::time::timeout(PATIENCE, steps.message()).await.expect("a step comes in time");
    message.unwrap().map(|response| response.step.unwrap())
}

/// The id of the plan, which is the first step.
async fn accepted(steps: &mut Steps) -> String {
    match next(steps).await {
        Some(Step::Accepted(accepted)) => accepted.plan_id,
        other => panic!("not accepted: {other:?}"),
    }
}

/// Positions and kinds of the events up to the result, which is the last step.
async fn rest(mut steps: Steps) -> (Vec<(u64, String)>, Outcome) {
    let mut events = Vec::new();
    loop {
        match next(&mut steps).await {
            Some(Step::Event(event)) => events.push((event.position, event.kind)),
            Some(Step::Result(result)) => {
                assert_eq!(next(&mut steps).await, None, "the result is the last step");
                return (events, result.outcome.unwrap());
            }
            other => panic!("neither an event nor the result: {other:?}"),
        }
    }
}

fn failure(outcome: Outcome) -> OrchestratorError {
    match outcome {
        Outcome::Failure(error) => error.into(),
        Outcome::Success(answer) => panic!("it succeeded: {answer:?}"),
    }
}

fn kinds(events: &[(u64, String)]) -> Vec<&str> {
    events.iter().map(|(_, kind)| kind.as_str()).collect()
}

#[tokio::test]
async fn stream_has_acceptance_events_and_whole_result() {
    let planner = TestPlanner::new().await;
    let long = "x".repeat(200_000);
    let (mut begun, worked) = (started(1), Duration::from_millis(250));
    if let Some(Event::AttemptStarted(attempt)) = &mut begun.event {
        attempt.started_at = Some(phoenix_proto::to_timestamp(jiff::Timestamp::now() - worked));
    }
    planner.script("model", Script::Says(vec![begun, finished(1, Ok(&long))]));
    let mut steps = execute(&planner, chat()).await.unwrap();
    let plan_id = accepted(&mut steps).await;
    let (events, outcome) = rest(steps).await;
    assert_eq!(
        kinds(&events),
        ["plan_accepted", "task_dispatched", "attempt_started", "attempt_ended", "task_ended", "plan_ended"]
    );
    assert!(events.is_sorted_by(|a, b| a.0 < b.0), "{events:?}");
    let Outcome::Success(PlanAndExecuteResponse { plan_id: of, output, agent, agent_time_us, .. }) = outcome
    else {
        panic!("it failed: {outcome:?}")
    };
    assert_eq!((of, agent.as_str()), (plan_id.clone(), "model"));
    let attempt = planner.plan(&plan_id).await.tasks.remove(0).attempts.remove(0);
    let [started, ended] = [attempt.started_at, attempt.ended_at].map(|at| {
        let at = at.unwrap();
        at.seconds * 1_000_000 + i64::from(at.nanos) / 1_000
    });
    assert!(u128::from(agent_time_us) >= worked.as_micros(), "{attempt:?}");
    assert_eq!(i64::try_from(agent_time_us), Ok(ended - started));
    assert!(output == long, "the output is not cut: {} bytes", output.len());
}

#[tokio::test]
async fn failed_plan_ends_its_stream_with_a_failure() {
    let planner = TestPlanner::new().await;
    let error = OrchestratorError::new(Code::ExecutionFailed, "it broke").with_detail("attempts", 1);
    planner.script("model", Script::Says(vec![started(1), failed(1, None), finished(1, Err(error.clone()))]));
    let mut steps = execute(&planner, chat()).await.unwrap();
    let plan_id = accepted(&mut steps).await;
    let (events, outcome) = rest(steps).await;
    assert_eq!(kinds(&events).last(), Some(&"plan_ended"));
    let found = failure(outcome);
    assert_eq!((found.code, found.message.as_str()), (error.code, "it broke"));
    assert_eq!(status_of(&planner.plan(&plan_id).await), PlanStatus::Failed);
}

#[tokio::test]
async fn refused_request_is_an_error_and_leaves_no_plan() {
    let planner = TestPlanner::new().await;
    let context = RequestContext::new(CorrelationId::generate());
    let unknown = PlanAndExecuteRequest { agent: Some("unknown".into()), ..chat() };
    let refused = open(&planner, &context, Subject::Plan(unknown)).await.unwrap_err();
    assert_eq!(refused.code, Code::PlanningFailed);
    assert!(planner.plans_of(context.correlation_id).await.is_empty());
    let request = ExecutePlanRequest { subject: None, with_output: false };
    let refused = planner.client.clone().execute_plan(request).await.unwrap_err();
    assert_eq!(error_from_status(&refused).details["field"], "subject");
    let missing = resume(&planner, "0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f", 0, false).await.unwrap_err();
    assert_eq!(missing.code, Code::NotFound);
}

#[tokio::test]
async fn closed_stream_cancels_its_plan() {
    let planner = TestPlanner::new().await;
    planner.script("model", Script::Hangs);
    let mut steps = execute(&planner, chat()).await.unwrap();
    let plan_id = accepted(&mut steps).await;
    eventually(async || !planner.executor.log.lock().unwrap().calls.is_empty()).await;
    drop(steps);
    let plan = planner.ended(&plan_id).await;
    assert_eq!(status_of(&plan), PlanStatus::Cancelled);
    assert!(error_of(&plan).message.contains("went away"), "{:?}", plan.error);
    eventually(async || planner.executor.log.lock().unwrap().abandoned == 1).await;
}

#[tokio::test]
async fn closed_stream_of_a_plan_that_continues_leaves_it_running() {
    let planner = TestPlanner::new().await;
    let answer = tokio_util::sync::CancellationToken::new();
    planner.script("model", Script::SaysLater(answer.clone(), answers("done")));
    let request = PlanAndExecuteRequest { continue_on_disconnect: true, ..chat() };
    let mut steps = execute(&planner, request).await.unwrap();
    let plan_id = accepted(&mut steps).await;
    eventually(async || !planner.executor.log.lock().unwrap().calls.is_empty()).await;
    drop(steps);
    // Resumed and closed again, as often as the caller likes.
    let mut steps = resume(&planner, &plan_id, 0, true).await.unwrap();
    assert_eq!(accepted(&mut steps).await, plan_id);
    drop(steps);
    answer.cancel();
    assert_eq!(status_of(&planner.ended(&plan_id).await), PlanStatus::Succeeded);
}

#[tokio::test]
async fn deadline_of_the_call_is_the_deadline_of_the_plan() {
    let planner = TestPlanner::new().await;
    planner.script("model", Script::Hangs);
    let context = RequestContext::new(CorrelationId::generate());
    let limited = context.with_deadline(Instant::now() + Duration::from_millis(500));
    let mut steps = open(&planner, &limited, Subject::Plan(chat())).await.unwrap();
    let plan_id = accepted(&mut steps).await;
    assert!(planner.plan(&plan_id).await.deadline_at.is_some(), "it is durable");
    assert_eq!(failure(rest(steps).await.1).code, Code::Timeout);
}

#[tokio::test]
async fn resumed_stream_has_later_events_and_the_result() {
    let planner = TestPlanner::new().await;
    let answer = tokio_util::sync::CancellationToken::new();
    planner.script("model", Script::SaysLater(answer.clone(), answers("done")));
    let request = PlanAndExecuteRequest { continue_on_disconnect: true, ..chat() };
    let mut first = execute(&planner, request).await.unwrap();
    let plan_id = accepted(&mut first).await;
    let mut running = resume(&planner, &plan_id, 0, false).await.unwrap();
    accepted(&mut running).await;
    answer.cancel();
    let (events, outcome) = rest(first).await;
    assert_eq!(rest(running).await, (events.clone(), outcome.clone()));
    for at in 0..events.len() {
        let mut resumed = resume(&planner, &plan_id, events[at].0, false).await.unwrap();
        accepted(&mut resumed).await;
        assert_eq!(rest(resumed).await, (events[at + 1..].to_vec(), outcome.clone()), "after {at}");
    }
}

#[tokio::test]
async fn closed_resumed_stream_cancels_its_plan() {
    let planner = TestPlanner::new().await;
    planner.script("model", Script::Hangs);
    let request = PlanAndExecuteRequest { continue_on_disconnect: true, ..chat() };
    let plan_id = accepted(&mut execute(&planner, request).await.unwrap()).await;
    let mut resumed = resume(&planner, &plan_id, 0, false).await.unwrap();
    accepted(&mut resumed).await;
    drop(resumed);
    assert_eq!(status_of(&planner.ended(&plan_id).await), PlanStatus::Cancelled);
}

#[tokio::test]
async fn repeated_request_follows_the_first_plan() {
    let planner = TestPlanner::new().await;
    let answer = tokio_util::sync::CancellationToken::new();
    planner.script("model", Script::SaysLater(answer.clone(), answers("done")));
    let request = PlanAndExecuteRequest {
        idempotency_key: "key".into(),
        idempotency_digest: "digest".into(),
        ..chat()
    };
    let context = RequestContext::new(CorrelationId::generate());
    let mut first = open(&planner, &context, Subject::Plan(request.clone())).await.unwrap();
    let plan_id = accepted(&mut first).await;
    let mut again = execute(&planner, request.clone()).await.unwrap();
    let Some(Step::Accepted(repeat)) = next(&mut again).await else { panic!("not accepted") };
    assert_eq!((repeat.plan_id, repeat.replay_of), (plan_id, context.correlation_id.to_string()));
    drop(again);
    let mut last = execute(&planner, request).await.unwrap();
    accepted(&mut last).await;
    answer.cancel();
    let (events, outcome) = rest(first).await;
    assert!(matches!(outcome, Outcome::Success(_)), "{outcome:?}");
    assert_eq!(rest(last).await.0, events);
    assert_eq!(planner.executor.log.lock().unwrap().calls.len(), 1, "run once");
}

#[tokio::test]
async fn stream_ends_at_shutdown_and_can_be_resumed() {
    let mut planner = TestPlanner::new().await;
    planner.script("model", Script::Hangs);
    let request = PlanAndExecuteRequest { continue_on_disconnect: true, ..chat() };
    let mut steps = execute(&planner, request).await.unwrap();
    accepted(&mut steps).await;
    eventually(async || !planner.executor.log.lock().unwrap().calls.is_empty()).await;
    planner.shutdown.cancel();
    let end = async {
        loop {
            match steps.message().await {
                Ok(Some(_)) => {}
                end => return end,
            }
        }
    };
    let end = tokio::time::timeout(PATIENCE, end).await.expect("the stream ends");
    assert_eq!(error_from_status(&end.unwrap_err()).code, Code::Unavailable);
    planner.stop().await;
}
