//! Clocks that jump between one planner and the next.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use phoenix_planner::store::{self, Entry};
use phoenix_proto::planner::PlanStatus;

use crate::support::{
    ALL_PEERS, FakeExecutor, FakeHealth, Script, Stage, error_of, eventually, new_plan, status_of,
};

#[tokio::test]
async fn a_clock_that_was_set_back_gives_a_plan_no_more_time_than_it_had() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let url = format!("sqlite://{}", dir.path().join("planner.db").display());
    let journal = store::open(&url).await.unwrap();
    journal.register("earlier").await.unwrap();
    // Accepted for 300 ms when it was an hour later.
    let mut plan = new_plan(Timestamp::now() + Duration::from_secs(3600), &["model"]);
    plan.deadline_at = Some(plan.created_at + Duration::from_millis(300));
    let plan_id = plan.plan_id.to_string();
    journal.write("earlier", &[[Entry::PlanAccepted { plan: plan.into() }].into()]).await.unwrap();
    journal.release("earlier").await.unwrap();

    let executor = FakeExecutor::default();
    executor.scripts.lock().unwrap().insert("model".into(), Script::Hangs);
    let stage = Stage::on(dir, executor, FakeHealth::default(), ALL_PEERS).await;
    eventually(async || status_of(&stage.plan(&plan_id).await) == PlanStatus::Failed).await;
    assert_eq!(error_of(&stage.plan(&plan_id).await).code, "timeout");
}
