//! Tasks and plans that wait for a time.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use phoenix_proto::{
    planner::{
        ApprovalDecision, ApprovalTerms, CancelPlanRequest, DecideApprovalRequest, Plan,
        PlanAndExecuteRequest, PlanStatus, RedrivePlanRequest, TaskSpec, TaskStatus, Wait, WatchPlanRequest,
    },
    timestamp, to_timestamp,
};

use crate::support::{
    ALL_PEERS, FakeExecutor, FakeHealth, Script, TestPlanner, answers, error_of, eventually, graph,
    status_of, task,
};

const HOUR_MS: u64 = 3_600_000;

fn delayed(key: &str, delay_ms: u64, depends_on: &[&str]) -> TaskSpec {
    TaskSpec { delay_ms, ..task(key, "model", "{}", depends_on) }
}

fn delayed_plan(delay_ms: u64, tasks: Vec<TaskSpec>) -> PlanAndExecuteRequest {
    PlanAndExecuteRequest { delay_ms, ..graph(tasks) }
}

impl TestPlanner {
    async fn accept(&self, request: PlanAndExecuteRequest) -> String {
        self.client.clone().submit_plan(request).await.unwrap().into_inner().plan_id
    }

    async fn refusal(&self, request: PlanAndExecuteRequest) -> (String, String) {
        let status = self.client.clone().submit_plan(request).await.unwrap_err();
        let error = phoenix_proto::error_from_status(&status);
        (error.details.get("field").cloned().unwrap_or_default(), error.message)
    }

    /// Waits until the first task of the plan waits, and returns for what.
    async fn first_wait(&self, plan_id: &str) -> Wait {
        let has_status = async || self.plan(plan_id).await.tasks[0].status() == TaskStatus::AwaitingTime;
        eventually(has_status).await;
        self.plan(plan_id).await.tasks[0].waits_for.clone().unwrap()
    }

    async fn events_of_waits(&self, plan_id: &str) -> Vec<String> {
        let request = WatchPlanRequest { plan_id: plan_id.into(), ..Default::default() };
        let mut events = self.client.clone().watch_plan(request).await.unwrap().into_inner();
        let mut kinds = Vec::new();
        while let Some(event) = events.message().await.unwrap() {
            kinds.extend(event.kind.starts_with("wait_").then_some(event.kind));
        }
        kinds
    }
}

async fn on(dir: &Arc<tempfile::TempDir>) -> TestPlanner {
    TestPlanner::on(Arc::clone(dir), FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await
}

fn dispatched_at(plan: &Plan, ordinal: usize) -> Timestamp {
    timestamp("dispatched_at", plan.tasks[ordinal].dispatched_at).unwrap().unwrap()
}

fn not_before(plan: &Plan, ordinal: usize) -> Timestamp {
    timestamp("not_before", plan.tasks[ordinal].not_before).unwrap().unwrap()
}

#[tokio::test]
async fn plan_and_tasks_start_at_their_times() {
    let planner = TestPlanner::new().await;
    planner.script("model", Script::Says(answers("hi")));
    let tasks = vec![delayed("a", 0, &[]), delayed("b", 900, &[]), delayed("c", 1, &["a"])];
    let plan_id = planner.accept(delayed_plan(400, tasks)).await;
    let wait = planner.first_wait(&plan_id).await;
    let plan = planner.plan(&plan_id).await;
    assert_eq!((&*wait.kind, wait.until), ("timer", plan.tasks[0].not_before));
    assert_eq!(status_of(&plan), PlanStatus::Pending);
    assert_eq!(plan.tasks[2].waits_for, None, "it waits for another task");
    let plan = planner.ended(&plan_id).await;
    assert_eq!(status_of(&plan), PlanStatus::Succeeded);
    for ordinal in 0..3 {
        assert!(dispatched_at(&plan, ordinal) >= not_before(&plan, ordinal), "{ordinal}: {plan:?}");
        assert_eq!((plan.tasks[ordinal].attempts.len(), &plan.tasks[ordinal].waits_for), (1, &None));
    }
    assert!(dispatched_at(&plan, 1) > dispatched_at(&plan, 0), "its own time is later");
    let kinds = planner.events_of_waits(&plan_id).await;
    assert_eq!(kinds, ["wait_started", "wait_started", "wait_ended", "wait_ended"], "the third did not wait");
}

#[tokio::test]
async fn time_in_the_past_has_no_effect() {
    let planner = TestPlanner::new().await;
    let past = Some(to_timestamp(Timestamp::now() - Duration::from_secs(60)));
    let plan_id =
        planner.accept(PlanAndExecuteRequest { not_before: past, ..graph(vec![delayed("a", 0, &[])]) }).await;
    let plan = planner.ended(&plan_id).await;
    assert_eq!(status_of(&plan), PlanStatus::Succeeded);
    assert!(planner.events_of_waits(&plan_id).await.is_empty());
}

#[tokio::test]
async fn wait_takes_no_place_and_a_cancel_ends_it() {
    let planner = TestPlanner::new().await;
    let mut plans = Vec::new();
    for _ in 0..20 {
        plans.push(planner.accept(delayed_plan(HOUR_MS, vec![delayed("a", 0, &[])])).await);
    }
    for plan_id in &plans {
        planner.first_wait(plan_id).await;
    }
    // The agent has fewer places.
    assert!(planner.chat("hello").await.is_ok());
    for plan_id in &plans {
        let cancel =
            CancelPlanRequest { plan_id: plan_id.clone(), reason: "enough".into(), ..Default::default() };
        planner.client.clone().cancel_plan(cancel).await.unwrap();
        let plan = planner.plan(plan_id).await;
        assert_eq!(
            (status_of(&plan), plan.tasks[0].status()),
            (PlanStatus::Cancelled, TaskStatus::Cancelled)
        );
        assert_eq!((&plan.tasks[0].waits_for, plan.tasks[0].attempts.len()), (&None, 0));
    }
    // The new plan waits as long as the old one would have.
    let redrive = RedrivePlanRequest { plan_id: plans[0].clone(), ..Default::default() };
    let again = planner.client.clone().redrive_plan(redrive).await.unwrap().into_inner().plan_id;
    let wait = planner.first_wait(&again).await;
    assert_eq!(wait.until, planner.plan(&plans[0]).await.tasks[0].not_before);
}

#[tokio::test]
async fn wait_survives_restarts_and_takeovers() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut first = on(&dir).await;
    let plan_id = first.accept(delayed_plan(2_500, vec![delayed("a", 0, &[])])).await;
    let before = first.first_wait(&plan_id).await;
    first.stop().await;
    let mut second = on(&dir).await;
    assert_eq!(second.first_wait(&plan_id).await, before);
    second.stop().await;
    let third = on(&dir).await;
    let plan = third.ended(&plan_id).await;
    assert_eq!((status_of(&plan), plan.tasks[0].attempts.len()), (PlanStatus::Succeeded, 1));
    assert!(dispatched_at(&plan, 0) >= not_before(&plan, 0));
    assert_eq!(third.events_of_waits(&plan_id).await, ["wait_started", "wait_ended"], "recorded once");
}

#[tokio::test]
async fn task_is_approved_before_it_waits_for_its_time() {
    let planner = TestPlanner::new().await;
    let spec = TaskSpec { approval: Some(ApprovalTerms::default()), ..delayed("a", 1_500, &[]) };
    let plan_id = planner.accept(graph(vec![spec])).await;
    let asks = async || planner.plan(&plan_id).await.tasks[0].status() == TaskStatus::AwaitingApproval;
    eventually(asks).await;
    let approval = planner.plan(&plan_id).await.tasks.remove(0);
    let until = approval.approval.unwrap().expires_at;
    assert_eq!(approval.waits_for, Some(Wait { kind: "approval".into(), until }));
    let decision = DecideApprovalRequest {
        plan_id: plan_id.clone(),
        decision: ApprovalDecision::Approve.into(),
        actor: "ann".into(),
        ..Default::default()
    };
    planner.client.clone().decide_approval(decision).await.unwrap();
    assert_eq!(planner.first_wait(&plan_id).await.kind, "timer");
    let plan = planner.ended(&plan_id).await;
    assert_eq!(status_of(&plan), PlanStatus::Succeeded);
    assert!(dispatched_at(&plan, 0) >= not_before(&plan, 0));
}

#[tokio::test]
async fn deadline_counts_from_when_work_may_begin() {
    let planner = TestPlanner::new().await;
    planner.script("model", Script::Says(answers("hi")));
    let request =
        PlanAndExecuteRequest { deadline_ms: 1_000, ..delayed_plan(1_500, vec![delayed("a", 0, &[])]) };
    let plan_id = planner.accept(request).await;
    let plan = planner.ended(&plan_id).await;
    assert_eq!(status_of(&plan), PlanStatus::Succeeded);
    let deadline = timestamp("deadline_at", plan.deadline_at).unwrap().unwrap();
    assert_eq!(deadline, not_before(&plan, 0) + Duration::from_secs(1));

    let limited = |tasks| PlanAndExecuteRequest { deadline_ms: 1_000, ..graph(tasks) };
    let (field, message) =
        planner.refusal(limited(vec![delayed("a", 0, &[]), delayed("b", 1_001, &["a"])])).await;
    assert_eq!(field, "tasks[1].not_before", "{message}");
    assert!(message.contains("before the deadline of the plan"), "{message}");
    planner.script("model", Script::Hangs);
    let plan_id = planner.accept(limited(vec![delayed("a", 300, &[])])).await;
    assert_eq!(error_of(&planner.ended(&plan_id).await).code, "timeout");
}

#[tokio::test]
async fn impossible_times_are_refused() {
    let planner = TestPlanner::new().await;
    let far = Timestamp::now() + Duration::from_secs(400 * 24 * 3600);
    let times = [
        (Some(to_timestamp(far)), 0, "not_before"),
        (Some(to_timestamp(Timestamp::now())), 1, "not_before"),
        (None, 400 * 24 * HOUR_MS, "delay_ms"),
        (None, u64::MAX, "delay_ms"),
    ];
    for (not_before, delay_ms, expected) in times {
        let plan =
            PlanAndExecuteRequest { not_before, delay_ms, ..graph(vec![task("a", "model", "{}", &[])]) };
        assert_eq!(planner.refusal(plan).await.0, expected);
        let spec = TaskSpec { not_before, delay_ms, ..task("a", "model", "{}", &[]) };
        let (field, message) = planner.refusal(graph(vec![spec])).await;
        assert!(field.ends_with(expected), "{field}: {message}");
    }
    // A caller who waits has no hour.
    let mut request = tonic::Request::new(delayed_plan(HOUR_MS, vec![delayed("a", 0, &[])]));
    request.set_timeout(Duration::from_secs(20));
    let status = planner.client.clone().plan_and_execute(request).await.unwrap_err();
    let error = phoenix_proto::error_from_status(&status);
    assert!(error.message.contains("respond-async"), "{error}");
}
