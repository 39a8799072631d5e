//! Clocks that jump between one planner and the next.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use phoenix_domain::{action::ActionResult, plan::TaskStatus};
use phoenix_planner::store::{self, Entry, TaskRef};
use phoenix_proto::planner::PlanStatus;

use crate::support::{
    ALL_PEERS, FakeExecutor, FakeHealth, Script, TestPlanner, batch, error_of, eventually, new_plan,
    status_of,
};

#[tokio::test]
async fn clock_set_back_does_not_extend_a_time_limit() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let url = format!("sqlite://{}", dir.path().join("planner.db").display());
    let journal = store::open(&url).await.unwrap();
    journal.register("earlier").await.unwrap();
    // Accepted with a limit of 300 ms by a clock that was an hour ahead.
    let mut plan = new_plan(Timestamp::now() + Duration::from_secs(3600), &["model"]);
    plan.deadline_at = Some(plan.created_at + Duration::from_millis(300));
    let plan_id = plan.plan_id.to_string();
    journal
        .append(&batch("earlier"), &[[Entry::PlanAccepted { trace: None, plan: plan.into() }].into()])
        .await
        .unwrap();
    journal.release("earlier").await.unwrap();

    let executor = FakeExecutor::default();
    executor.scripts.lock().unwrap().insert("model".into(), Script::Hangs);
    let planner = TestPlanner::on(dir, executor, FakeHealth::default(), ALL_PEERS).await;
    eventually(async || status_of(&planner.plan(&plan_id).await) == PlanStatus::Failed).await;
    assert_eq!(error_of(&planner.plan(&plan_id).await).code, "timeout");
}

#[tokio::test]
async fn recovered_plan_with_all_tasks_succeeded_succeeds_late() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let url = format!("sqlite://{}", dir.path().join("planner.db").display());
    let journal = store::open(&url).await.unwrap();
    journal.register("earlier").await.unwrap();
    // Its planner died between the end of the last task and the end of the plan.
    let mut plan = new_plan(Timestamp::now() - Duration::from_secs(60), &["model"]);
    plan.deadline_at = Some(plan.created_at + Duration::from_secs(30));
    let (plan_id, task) = (plan.plan_id.to_string(), TaskRef { plan_id: plan.plan_id, ordinal: 0 });
    let at = plan.created_at + Duration::from_secs(1);
    let result = Ok(ActionResult::text("done in time"));
    let ended = Entry::TaskEnded { task, status: TaskStatus::Succeeded, at, result };
    journal
        .append(&batch("earlier"), &[[Entry::PlanAccepted { trace: None, plan: plan.into() }, ended].into()])
        .await
        .unwrap();
    journal.release("earlier").await.unwrap();

    let planner = TestPlanner::on(dir, FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await;
    let plan = planner.ended(&plan_id).await;
    assert_eq!((status_of(&plan), plan.output.as_deref()), (PlanStatus::Succeeded, Some("done in time")));
}
