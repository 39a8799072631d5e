//! Tasks that wait for a budget which is used up.

use std::sync::Arc;

use phoenix_domain::{
    OrchestratorError, OrchestratorErrorCode as Code,
    budget::{Limits, OnBudget},
};
use phoenix_planner::PlannerConfig;
use phoenix_proto::{
    common::Budget,
    planner::{
        ApprovalDecision, CancelPlanRequest, DecideApprovalRequest, DecideApprovalResponse,
        ListApprovalsRequest, Plan, PlanAndExecuteRequest, PlanStatus, TaskSpec, TaskStatus, WaitingApproval,
        WatchPlanRequest,
    },
};
use tonic::Response;

use crate::support::{
    ALL_PEERS, FakeExecutor, FakeHealth, TestPlanner, error_of, eventually, graph, status_of, task,
};

fn calls(limit: u64) -> Budget {
    Budget { max_calls: Some(limit), ..Default::default() }
}

/// A plan with a budget of one call, which pauses.
fn limited(tasks: Vec<TaskSpec>) -> PlanAndExecuteRequest {
    PlanAndExecuteRequest { budget: Some(calls(1)), on_budget: "pause".into(), ..graph(tasks) }
}

fn two() -> Vec<TaskSpec> {
    vec![task("a", "model", "{}", &[]), task("b", "model", "{}", &["a"])]
}

async fn on(dir: &Arc<tempfile::TempDir>, change: impl FnOnce(&mut PlannerConfig)) -> TestPlanner {
    let (executor, health) = (FakeExecutor::default(), FakeHealth::default());
    TestPlanner::configured(Arc::clone(dir), executor, health, ALL_PEERS, change).await
}

fn of_agent(limit: u64) -> impl FnOnce(&mut PlannerConfig) {
    move |config| {
        let limits = Limits::new([None, None, Some(limit), None]);
        config.budgets.agents.insert("model".parse().unwrap(), limits);
    }
}

impl TestPlanner {
    async fn start(&self, request: PlanAndExecuteRequest) -> String {
        self.client.clone().submit_plan(request).await.unwrap().into_inner().plan_id
    }

    /// Waits until so many tasks of the plan wait for a budget.
    async fn paused(&self, plan_id: &str, count: usize) -> Plan {
        let waits = |plan: &Plan| {
            plan.tasks.iter().filter(|task| task.status() == TaskStatus::AwaitingBudget).count() == count
        };
        eventually(async || waits(&self.plan(plan_id).await)).await;
        self.plan(plan_id).await
    }

    async fn judge(
        &self,
        plan_id: &str,
        key: &str,
        decision: ApprovalDecision,
        budget: Option<Budget>,
    ) -> Result<DecideApprovalResponse, OrchestratorError> {
        let request = DecideApprovalRequest {
            plan_id: plan_id.into(),
            task_key: key.into(),
            decision: decision.into(),
            actor: "ann".into(),
            budget,
            ..Default::default()
        };
        let answer = self.client.clone().decide_approval(request).await;
        answer.map(Response::into_inner).map_err(|status| phoenix_proto::error_from_status(&status))
    }

    async fn grant(&self, plan_id: &str, key: &str, limit: u64) {
        self.judge(plan_id, key, ApprovalDecision::Approve, Some(calls(limit))).await.unwrap();
    }

    async fn asked(&self) -> Vec<WaitingApproval> {
        let request = ListApprovalsRequest::default();
        self.client.clone().list_approvals(request).await.unwrap().into_inner().approvals
    }

    /// Kinds and facts of the events of waits.
    async fn story(&self, plan_id: &str) -> Vec<(String, String)> {
        let request = WatchPlanRequest { plan_id: plan_id.into(), ..Default::default() };
        let mut events = self.client.clone().watch_plan(request).await.unwrap().into_inner();
        let mut found = Vec::new();
        while let Some(event) = events.message().await.unwrap() {
            found.extend(event.kind.starts_with("wait_").then_some((event.kind, event.data_json)));
        }
        found
    }
}

fn attempts(plan: &Plan) -> usize {
    plan.tasks.iter().map(|task| task.attempts.len()).sum()
}

#[tokio::test]
async fn plan_paused_by_its_budget_continues_after_a_raise() {
    let planner = TestPlanner::new().await;
    let plan_id = planner.start(limited(two())).await;
    let plan = planner.paused(&plan_id, 1).await;
    let waits = plan.tasks[1].waits_for.clone().unwrap();
    assert_eq!((&*waits.kind, plan.tasks[0].status()), ("budget", TaskStatus::Succeeded));
    let pause = plan.tasks[1].pause.clone().unwrap();
    assert_eq!((&*pause.state, waits.until), ("waiting", pause.expires_at));
    assert!(pause.input_json.contains(r#""limit":"max_calls","limit_value":1,"used":1"#), "{pause:?}");
    assert!(pause.reason.contains("the budget of the plan is used up"), "{pause:?}");
    let [asked] = &planner.asked().await[..] else { panic!("it is not listed") };
    assert_eq!((&*asked.kind, &*asked.key, &asked.reason), ("budget", "b", &pause.reason));

    for (budget, wrong) in
        [(None, "no limit"), (Some(calls(1)), "the same"), (Some(Budget::default()), "none")]
    {
        let error = planner.judge(&plan_id, "b", ApprovalDecision::Approve, budget).await.unwrap_err();
        assert_eq!(
            (error.code, &*error.details["field"]),
            (Code::ValidationFailed, "budget"),
            "{wrong}: {error}"
        );
    }
    planner.grant(&plan_id, "", 2).await;
    planner.grant(&plan_id, "b", 2).await;
    let plan = planner.ended(&plan_id).await;
    assert_eq!((status_of(&plan), attempts(&plan)), (PlanStatus::Succeeded, 2));
    assert_eq!(plan.budget.unwrap().max_calls, Some(2));
    assert!(planner.asked().await.is_empty());
    let story = planner.story(&plan_id).await;
    let kinds: Vec<_> = story.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["wait_started", "wait_ended"]);
    assert!(story[0].1.contains(r#""for":"budget""#) && story[0].1.contains(&plan_id), "{story:?}");
    assert!(
        story[1].1.contains(r#""decision":"approved","actor":"ann","budget":{"max_calls":2}"#),
        "{story:?}"
    );
    let late = planner.judge(&plan_id, "b", ApprovalDecision::Reject, None).await.unwrap_err();
    assert_eq!(late.code, Code::Conflict, "{late}");
}

#[tokio::test]
async fn refused_raise_and_cancel_end_the_plan() {
    let planner = TestPlanner::new().await;
    let plan_id = planner.start(limited(two())).await;
    planner.paused(&plan_id, 1).await;
    planner.judge(&plan_id, "b", ApprovalDecision::Reject, None).await.unwrap();
    let plan = planner.ended(&plan_id).await;
    assert_eq!((status_of(&plan), &*error_of(&plan).code), (PlanStatus::Failed, "budget_exhausted"));
    assert!(error_of(&plan).message.ends_with("; a larger one was refused by ann"), "{plan:?}");
    assert_eq!(plan.tasks[1].status(), TaskStatus::DeadLettered);

    let plan_id = planner.start(limited(two())).await;
    planner.paused(&plan_id, 1).await;
    let cancel = CancelPlanRequest { plan_id: plan_id.clone(), reason: "no".into(), ..Default::default() };
    planner.client.clone().cancel_plan(cancel).await.unwrap();
    let plan = planner.plan(&plan_id).await;
    assert_eq!(
        (status_of(&plan), &*plan.tasks[1].pause.as_ref().unwrap().state),
        (PlanStatus::Cancelled, "withdrawn")
    );
    assert!(planner.asked().await.is_empty());

    // Without the option, the plan fails as it did.
    let fails = PlanAndExecuteRequest { on_budget: String::new(), ..limited(two()) };
    let plan_id = planner.start(fails).await;
    assert_eq!(error_of(&planner.ended(&plan_id).await).code, "budget_exhausted");
    let odd = PlanAndExecuteRequest { on_budget: "wait".into(), ..limited(two()) };
    let status = planner.client.clone().submit_plan(odd).await.unwrap_err();
    assert_eq!(phoenix_proto::error_from_status(&status).details["field"], "on_budget");
}

#[tokio::test]
async fn one_raise_lets_every_task_of_the_plan_go_on() {
    let planner = TestPlanner::new().await;
    let tasks = ["a", "b", "c"].map(|key| task(key, "model", "{}", &[])).to_vec();
    let plan_id = planner.start(limited(tasks)).await;
    planner.paused(&plan_id, 2).await;
    let error = planner.judge(&plan_id, "", ApprovalDecision::Approve, Some(calls(3))).await.unwrap_err();
    assert_eq!(error.details["field"], "task", "two tasks wait: {error}");
    let paused = planner.plan(&plan_id).await;
    let paused = paused.tasks.iter().rfind(|task| task.status() == TaskStatus::AwaitingBudget).unwrap();
    planner.grant(&plan_id, &paused.key, 3).await;
    let plan = planner.ended(&plan_id).await;
    assert_eq!((status_of(&plan), attempts(&plan)), (PlanStatus::Succeeded, 3), "{plan:?}");
}

#[tokio::test]
async fn task_pauses_again_when_the_raise_is_too_small() {
    let planner = TestPlanner::new().await;
    let third = task("c", "model", "{}", &["b"]);
    let plan_id = planner.start(limited(two().into_iter().chain([third]).collect())).await;
    planner.paused(&plan_id, 1).await;
    planner.grant(&plan_id, "b", 2).await;
    eventually(async || planner.plan(&plan_id).await.tasks[2].status() == TaskStatus::AwaitingBudget).await;
    let [asked] = &planner.asked().await[..] else { panic!("one task waits") };
    assert_eq!(asked.key, "c");
    planner.grant(&plan_id, "c", 3).await;
    let plan = planner.ended(&plan_id).await;
    assert_eq!((status_of(&plan), attempts(&plan)), (PlanStatus::Succeeded, 3));
}

#[tokio::test]
async fn pause_and_raise_survive_restarts() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut first = on(&dir, |_| ()).await;
    let plan_id = first.start(limited(two())).await;
    let before = first.paused(&plan_id, 1).await;
    first.stop().await;
    let mut second = on(&dir, |_| ()).await;
    second.paused(&plan_id, 1).await;
    // Decided by a planner that does not run the plan; the owner stops before or after it takes notice.
    let third = on(&dir, |_| ()).await;
    third.grant(&plan_id, "b", 2).await;
    second.stop().await;
    let plan = third.ended(&plan_id).await;
    assert_eq!((status_of(&plan), attempts(&plan)), (PlanStatus::Succeeded, 2));
    assert_eq!(plan.budget.unwrap().max_calls, Some(2));
    let requested = plan.tasks[1].pause.as_ref().unwrap().requested_at;
    assert_eq!(requested, before.tasks[1].pause.as_ref().unwrap().requested_at, "asked once");
    assert_eq!(third.story(&plan_id).await.len(), 2);
}

#[tokio::test]
async fn pause_ends_when_the_configured_budget_is_larger() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut first = on(&dir, of_agent(1)).await;
    let plan_id =
        first.start(PlanAndExecuteRequest { budget: None, on_budget: "pause".into(), ..graph(two()) }).await;
    let plan = first.paused(&plan_id, 1).await;
    assert!(plan.tasks[1].pause.as_ref().unwrap().input_json.contains("resets_at"), "{plan:?}");
    let error = first.judge(&plan_id, "b", ApprovalDecision::Approve, Some(calls(5))).await.unwrap_err();
    assert!(error.message.contains("raised in the configuration"), "{error}");
    // Another look finds the same budget.
    first.judge(&plan_id, "b", ApprovalDecision::Approve, None).await.unwrap();
    eventually(async || first.plan(&plan_id).await.tasks[1].pause.as_ref().unwrap().state == "waiting").await;
    first.paused(&plan_id, 1).await;
    first.stop().await;
    let mut same = on(&dir, of_agent(1)).await;
    same.paused(&plan_id, 1).await;
    same.stop().await;
    let larger = on(&dir, of_agent(2)).await;
    let plan = larger.ended(&plan_id).await;
    assert_eq!((status_of(&plan), attempts(&plan)), (PlanStatus::Succeeded, 2));
    assert_eq!(plan.tasks[1].pause.as_ref().unwrap().state, "withdrawn");
}

#[tokio::test]
async fn setting_is_for_plans_for_which_no_caller_waits() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let planner = on(&dir, |config| {
        of_agent(1)(config);
        config.budgets.on_budget = OnBudget::Pause;
    })
    .await;
    planner.chat("hello").await.unwrap();
    assert_eq!(planner.chat("hello").await.unwrap_err().code, Code::BudgetExhausted);
    let chat = PlanAndExecuteRequest { message: "hello".into(), ..Default::default() };
    let plan_id = planner.start(chat).await;
    planner.paused(&plan_id, 1).await;
    let fails = PlanAndExecuteRequest { on_budget: "fail".into(), ..graph(two()) };
    let plan_id = planner.start(fails).await;
    assert_eq!(error_of(&planner.ended(&plan_id).await).code, "budget_exhausted");
}
