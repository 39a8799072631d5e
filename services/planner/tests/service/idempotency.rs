//! Idempotency keys through the server.

use std::{collections::BTreeSet, sync::Arc};

use crate::support::{
    ALL_PEERS, FakeExecutor, FakeHealth, Script, TestPlanner, batch, error_of, eventually, status_of,
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

async fn submit(planner: &TestPlanner, request: PlanAndExecuteRequest) -> Result<String, OrchestratorError> {
    let answer = planner.client.clone().submit_plan(request).await;
    answer
        .map(|response| response.into_inner().plan_id)
        .map_err(|status| phoenix_proto::error_from_status(&status))
}

async fn cancel(
    planner: &TestPlanner,
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
    let answer = planner.client.clone().cancel_plan(request).await;
    answer.map(drop).map_err(|status| phoenix_proto::error_from_status(&status))
}

#[tokio::test]
async fn idempotency_key_names_one_plan() {
    let planner = TestPlanner::new().await;
    let first = planner.client.clone().plan_and_execute(chat("key-1", "d1")).await.unwrap().into_inner();
    let second = planner.client.clone().plan_and_execute(chat("key-1", "d1")).await.unwrap().into_inner();
    assert_eq!((&first.plan_id, &first.output), (&second.plan_id, &second.output));
    assert_eq!(planner.executor.log.lock().unwrap().calls.len(), 1, "run once");
    let other = planner.client.clone().plan_and_execute(chat("key-1", "d2")).await.unwrap_err();
    assert_eq!(phoenix_proto::error_from_status(&other).code, Code::IdempotencyMismatch);

    planner.script("model", Script::Hangs);
    submit(&planner, chat("key-2", "d1")).await.unwrap();
    let conflict = planner.client.clone().plan_and_execute(chat("key-2", "d1")).await.unwrap_err();
    let conflict = phoenix_proto::error_from_status(&conflict);
    assert_eq!((conflict.code, conflict.retry_after.is_some()), (Code::Conflict, true));
}

#[tokio::test]
async fn concurrent_request_to_two_planners_runs_once() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let planner = async || {
        TestPlanner::on(dir.clone(), FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await
    };
    let stages = [planner().await, planner().await];
    let keys: Vec<_> = (0..40).map(|n| format!("key-{n}")).collect();
    // Concurrent, many times: some requests race between the lookup and the commit.
    let sent = keys.iter().flat_map(|key| stages.iter().map(move |planner| submit(planner, chat(key, "d"))));
    let answers: Vec<_> = join_all(sent).await.into_iter().collect::<Result<_, _>>().unwrap();
    assert!(answers.chunks(2).all(|pair| pair[0] == pair[1]), "one plan for each key: {answers:?}");
    assert_eq!(answers.iter().collect::<BTreeSet<_>>().len(), keys.len());
    let calls =
        || stages.iter().map(|planner| planner.executor.log.lock().unwrap().calls.len()).sum::<usize>();
    for plan_id in &answers {
        eventually(async || status_of(&stages[0].plan(plan_id).await) == PlanStatus::Succeeded).await;
    }
    assert_eq!(calls(), keys.len());
}

#[tokio::test]
async fn repeated_cancel_receives_the_first_result() {
    let planner = TestPlanner::new().await;
    planner.script("model", Script::Hangs);
    let plan_id = submit(&planner, chat("", "")).await.unwrap();
    eventually(async || status_of(&planner.plan(&plan_id).await) == PlanStatus::Running).await;
    cancel(&planner, &plan_id, "key-1", "d1").await.unwrap();
    let plan = planner.plan(&plan_id).await;
    assert_eq!((status_of(&plan), error_of(&plan).message.as_str()), (PlanStatus::Cancelled, "enough"));

    cancel(&planner, &plan_id, "key-1", "d1").await.unwrap();
    assert_eq!(cancel(&planner, &plan_id, "key-1", "d2").await.unwrap_err().code, Code::IdempotencyMismatch);
    let error = cancel(&planner, &plan_id, "key-2", "d1").await.unwrap_err();
    assert_eq!((error.code, error.retry_after), (Code::Conflict, None), "a different request");
}

#[tokio::test]
async fn repeated_late_cancel_stays_a_conflict() {
    let planner = TestPlanner::new().await;
    let answer = planner.client.clone().plan_and_execute(chat("", "")).await.unwrap().into_inner();
    let plan_id: PlanId = answer.plan_id.parse().unwrap();
    // The plan ended after the key was reserved.
    let journal = store::open(&planner.database_url).await.unwrap();
    journal.register("other").await.unwrap();
    let key = IdempotencyKey { key: "key-1".into(), digest: "d1".into(), by: None };
    let at = Timestamp::now();
    let used = Entry::KeyUsed { key, subject: *plan_id.as_uuid(), at, not_before: at };
    assert_eq!(journal.append(&batch("other"), &[[used].into()]).await.unwrap(), [0; 0]);
    let error = cancel(&planner, &answer.plan_id, "key-1", "d1").await.unwrap_err();
    assert_eq!((error.code, error.message.contains("succeeded")), (Code::Conflict, true), "{error}");
}

#[tokio::test]
async fn failed_cancel_leaves_its_key_unused() {
    let planner = TestPlanner::new().await;
    let missing = "0190a6c1-5b0e-7cc3-9d6e-ffffffffffff";
    assert_eq!(cancel(&planner, missing, "key-1", "d1").await.unwrap_err().code, Code::NotFound);
    planner.client.clone().plan_and_execute(chat("key-1", "d2")).await.expect("the key was not used up");
}
