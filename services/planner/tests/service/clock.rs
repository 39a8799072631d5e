//! Clocks that jump between one planner and the next.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use phoenix_domain::{action::ActionResult, plan::TaskStatus};
use phoenix_planner::store::{self, Entry, TaskRef};
use phoenix_proto::planner::PlanStatus;

use crate::support::{
    ALL_PEERS, FakeExecutor, FakeHealth, Script, TestPlanner, error_of, eventually, new_plan, status_of,
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
    journal.append("earlier", &[[Entry::PlanAccepted { plan: plan.into() }].into()]).await.unwrap();
    journal.release("earlier").await.unwrap();

    let executor = FakeExecutor::default();
    executor.scripts.lock().unwrap().insert("model".into(), Script::Hangs);
    let stage = TestPlanner::on(dir, executor, FakeHealth::default(), ALL_PEERS).await;
    eventually(async || status_of(&stage.plan(&plan_id).await) == PlanStatus::Failed).await;
    assert_eq!(error_of(&stage.plan(&plan_id).await).code, "timeout");
}

#[tokio::test]
async fn a_plan_whose_tasks_have_all_succeeded_has_succeeded_though_its_time_is_up_by_then() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let url = format!("sqlite://{}", dir.path().join("planner.db").display());
    let journal = store::open(&url).await.unwrap();
    journal.register("earlier").await.unwrap();
    // Its planner died between the end of its last task and its own.
    let mut plan = new_plan(Timestamp::now() - Duration::from_secs(60), &["model"]);
    plan.deadline_at = Some(plan.created_at + Duration::from_secs(30));
    let (plan_id, task) = (plan.plan_id.to_string(), TaskRef { plan_id: plan.plan_id, ordinal: 0 });
    let at = plan.created_at + Duration::from_secs(1);
    let result = Ok(ActionResult::text("done in time"));
    let ended = Entry::TaskEnded { task, status: TaskStatus::Succeeded, at, result };
    journal.append("earlier", &[[Entry::PlanAccepted { plan: plan.into() }, ended].into()]).await.unwrap();
    journal.release("earlier").await.unwrap();

    let stage = TestPlanner::on(dir, FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await;
    let plan = stage.ended(&plan_id).await;
    assert_eq!((status_of(&plan), plan.output.as_deref()), (PlanStatus::Succeeded, Some("done in time")));
}
