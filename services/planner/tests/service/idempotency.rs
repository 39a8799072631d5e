//! Requests that are sent twice.

use std::{collections::BTreeSet, sync::Arc};

use crate::support::{
    ALL_PEERS, FakeExecutor, FakeHealth, Script, TestPlanner, error_of, eventually, status_of,
};
use futures_util::future::join_all;
use jiff::Timestamp;
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode as Code, PlanId};
use phoenix_planner::store::{self, Entry, IdempotencyKey};
use phoenix_proto::planner::{CancelPlanRequest, PlanAndExecuteRequest, PlanStatus};

fn chat(key: &str, digest: &str) -> PlanAndExecuteRequest {
    PlanAndExecuteRequest {
        message: "hello".into(),
        idempotency_key: key.into(),
        idempotency_digest: digest.into(),
        ..Default::default()
    }
}

async fn submit(stage: &TestPlanner, request: PlanAndExecuteRequest) -> Result<String, OrchestratorError> {
    let answer = stage.client.clone().submit_plan(request).await;
    answer
        .map(|response| response.into_inner().plan_id)
        .map_err(|status| phoenix_proto::error_from_status(&status))
}

async fn cancel(
    stage: &TestPlanner,
    plan_id: &str,
    key: &str,
    digest: &str,
) -> Result<(), OrchestratorError> {
    let request = CancelPlanRequest {
        plan_id: plan_id.into(),
        reason: "enough".into(),
        idempotency_key: key.into(),
        idempotency_digest: digest.into(),
    };
    let answer = stage.client.clone().cancel_plan(request).await;
    answer.map(drop).map_err(|status| phoenix_proto::error_from_status(&status))
}

#[tokio::test]
async fn a_key_stands_for_one_plan() {
    let stage = TestPlanner::new().await;
    let first = stage.client.clone().plan_and_execute(chat("key-1", "d1")).await.unwrap().into_inner();
    let second = stage.client.clone().plan_and_execute(chat("key-1", "d1")).await.unwrap().into_inner();
    assert_eq!((&first.plan_id, &first.output), (&second.plan_id, &second.output));
    assert_eq!(stage.executor.log.lock().unwrap().calls.len(), 1, "run once");
    let other = stage.client.clone().plan_and_execute(chat("key-1", "d2")).await.unwrap_err();
    assert_eq!(phoenix_proto::error_from_status(&other).code, Code::IdempotencyMismatch);

    stage.script("model", Script::Hangs);
    submit(&stage, chat("key-2", "d1")).await.unwrap();
    let conflict = stage.client.clone().plan_and_execute(chat("key-2", "d1")).await.unwrap_err();
    let conflict = phoenix_proto::error_from_status(&conflict);
    assert_eq!((conflict.code, conflict.retry_after.is_some()), (Code::Conflict, true));
}

#[tokio::test]
async fn two_planners_that_are_sent_one_request_in_the_same_instant_run_it_once() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let stage = async || {
        TestPlanner::on(dir.clone(), FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await
    };
    let stages = [stage().await, stage().await];
    let keys: Vec<_> = (0..40).map(|n| format!("key-{n}")).collect();
    // Both at once, many times: some of them meet between the look and the write.
    let sent = keys.iter().flat_map(|key| stages.iter().map(move |stage| submit(stage, chat(key, "d"))));
    let answers: Vec<_> = join_all(sent).await.into_iter().collect::<Result<_, _>>().unwrap();
    assert!(answers.chunks(2).all(|pair| pair[0] == pair[1]), "one plan for each key: {answers:?}");
    assert_eq!(answers.iter().collect::<BTreeSet<_>>().len(), keys.len());
    let calls = || stages.iter().map(|stage| stage.executor.log.lock().unwrap().calls.len()).sum::<usize>();
    for plan_id in &answers {
        eventually(async || status_of(&stages[0].plan(plan_id).await) == PlanStatus::Succeeded).await;
    }
    assert_eq!(calls(), keys.len());
}

#[tokio::test]
async fn a_cancellation_that_is_sent_again_is_answered_again() {
    let stage = TestPlanner::new().await;
    stage.script("model", Script::Hangs);
    let plan_id = submit(&stage, chat("", "")).await.unwrap();
    eventually(async || status_of(&stage.plan(&plan_id).await) == PlanStatus::Running).await;
    cancel(&stage, &plan_id, "key-1", "d1").await.unwrap();
    let plan = stage.plan(&plan_id).await;
    assert_eq!((status_of(&plan), error_of(&plan).message.as_str()), (PlanStatus::Cancelled, "enough"));

    cancel(&stage, &plan_id, "key-1", "d1").await.unwrap();
    assert_eq!(cancel(&stage, &plan_id, "key-1", "d2").await.unwrap_err().code, Code::IdempotencyMismatch);
    let error = cancel(&stage, &plan_id, "key-2", "d1").await.unwrap_err();
    assert_eq!((error.code, error.retry_after), (Code::Conflict, None), "asked for by somebody else");
}

#[tokio::test]
async fn a_cancellation_that_came_too_late_came_too_late_whenever_it_is_sent() {
    let stage = TestPlanner::new().await;
    let answer = stage.client.clone().plan_and_execute(chat("", "")).await.unwrap().into_inner();
    let plan_id: PlanId = answer.plan_id.parse().unwrap();
    // The plan came to its own end after the key was taken.
    let journal = store::open(&stage.database_url).await.unwrap();
    journal.register("other").await.unwrap();
    let key = IdempotencyKey { key: "key-1".into(), digest: "d1".into(), by: None };
    let at = Timestamp::now();
    let used = Entry::KeyUsed { key, subject: *plan_id.as_uuid(), at, not_before: at };
    assert_eq!(journal.append("other", &[[used].into()]).await.unwrap(), [0; 0]);
    let error = cancel(&stage, &answer.plan_id, "key-1", "d1").await.unwrap_err();
    assert_eq!((error.code, error.message.contains("succeeded")), (Code::Conflict, true), "{error}");
}

#[tokio::test]
async fn a_cancellation_that_was_not_done_leaves_its_key_free() {
    let stage = TestPlanner::new().await;
    let nobody = "0190a6c1-5b0e-7cc3-9d6e-ffffffffffff";
    assert_eq!(cancel(&stage, nobody, "key-1", "d1").await.unwrap_err().code, Code::NotFound);
    stage.client.clone().plan_and_execute(chat("key-1", "d2")).await.expect("the key was not used up");
}
