//! Retention while the planner serves.

use std::sync::Arc;

use jiff::Timestamp;
use phoenix_domain::{PlanId, plan::PlanStatus};
use phoenix_planner::store::{self, Entry, IdempotencyKey};
use phoenix_proto::planner::PlanAndExecuteRequest;

use crate::support::{
    ALL_PEERS, DAY, FakeExecutor, FakeHealth, TestPlanner, batch, eventually, new_plan, status_of,
};

/// Creates a journal with a finished plan of each of these ages, under a key of the same age. Returns their ids.
async fn journal(dir: &tempfile::TempDir, days: &[u32]) -> Vec<PlanId> {
    let url = format!("sqlite://{}", dir.path().join("planner.db").display());
    let journal = store::open(&url).await.unwrap();
    journal.register("earlier").await.unwrap();
    let mut ids = Vec::new();
    for days in days {
        let at = Timestamp::now() - DAY * *days;
        let plan = new_plan(at, &["model"]);
        let plan_id = plan.plan_id;
        let key = IdempotencyKey { key: format!("key of {days}"), digest: "d".into(), by: None };
        let used = Entry::KeyUsed { key, subject: *plan_id.as_uuid(), at, not_before: Timestamp::MIN };
        let ended = Entry::PlanEnded { plan_id, status: PlanStatus::Succeeded, at, result: Ok(()) };
        let entries = [Entry::PlanAccepted { trace: None, plan: plan.into() }, used, ended];
        assert!(journal.append(&batch("earlier"), &[entries.into()]).await.unwrap().is_empty());
        ids.push(plan_id);
    }
    journal.release("earlier").await.unwrap();
    ids
}

#[tokio::test]
async fn old_plans_and_keys_are_deleted_and_young_ones_kept() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let ids = journal(&dir, &[0, 29, 31, 400]).await;
    let planner = TestPlanner::on(dir, FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await;
    for old in &ids[2..] {
        eventually(async || planner.find_plan(&old.to_string()).await.is_err()).await;
    }
    for young in &ids[..2] {
        let plan = planner.plan(&young.to_string()).await;
        assert_eq!(status_of(&plan), phoenix_proto::planner::PlanStatus::Succeeded);
    }
    let with_key = async |key: &str| {
        let request = PlanAndExecuteRequest {
            message: "hello".into(),
            idempotency_key: key.into(),
            idempotency_digest: "d".into(),
            ..PlanAndExecuteRequest::default()
        };
        planner.client.clone().plan_and_execute(request).await.unwrap().into_inner()
    };
    assert_eq!(with_key("key of 0").await.plan_id, ids[0].to_string());
    assert_ne!(with_key("key of 400").await.plan_id, ids[3].to_string(), "it names nothing any more");
}
