//! Tasks that wait for an approval.

use std::{sync::Arc, time::Duration};

use phoenix_domain::{
    AgentSpec, OrchestratorError, OrchestratorErrorCode as Code,
    approval::{ApprovalPolicy, input_hash},
    json::Object,
};
use phoenix_proto::planner::{
    Approval, ApprovalDecision, ApprovalTerms, CancelPlanRequest, DecideApprovalRequest,
    DecideApprovalResponse, ListApprovalsRequest, PlanAndExecuteRequest, PlanStatus, TaskSpec, TaskStatus,
    WaitingApproval, WatchPlanRequest,
};
use tonic::Response;

use crate::support::{
    ALL_PEERS, FakeExecutor, FakeHealth, Script, TestPlanner, answers, catalog, error_of, eventually, graph,
    status_of, task,
};

/// A task that waits.
fn guarded(key: &str, input: &str, depends_on: &[&str]) -> TaskSpec {
    guarded_with(key, input, depends_on, ApprovalTerms::default())
}

fn guarded_with(key: &str, input: &str, depends_on: &[&str], terms: ApprovalTerms) -> TaskSpec {
    TaskSpec { approval: Some(terms), ..task(key, "model", input, depends_on) }
}

fn decision(plan_id: &str, decision: ApprovalDecision) -> DecideApprovalRequest {
    DecideApprovalRequest {
        plan_id: plan_id.into(),
        decision: decision.into(),
        actor: "ann".into(),
        ..Default::default()
    }
}

fn approve(plan_id: &str) -> DecideApprovalRequest {
    decision(plan_id, ApprovalDecision::Approve)
}

fn reject(plan_id: &str) -> DecideApprovalRequest {
    DecideApprovalRequest { reason: "too risky".into(), ..decision(plan_id, ApprovalDecision::Reject) }
}

impl TestPlanner {
    async fn submit(&self, tasks: Vec<TaskSpec>) -> String {
        self.client.clone().submit_plan(graph(tasks)).await.unwrap().into_inner().plan_id
    }

    async fn decide(
        &self,
        request: DecideApprovalRequest,
    ) -> Result<DecideApprovalResponse, OrchestratorError> {
        let answer = self.client.clone().decide_approval(request).await;
        answer.map(Response::into_inner).map_err(|status| phoenix_proto::error_from_status(&status))
    }

    /// Waits until a task of the plan waits for an approval.
    async fn waiting(&self, plan_id: &str) -> Approval {
        let waits = async || {
            let tasks = self.plan(plan_id).await.tasks;
            tasks.iter().any(|task| task.status() == TaskStatus::AwaitingApproval)
        };
        eventually(waits).await;
        let tasks = self.plan(plan_id).await.tasks;
        let waiting = tasks.into_iter().find(|task| task.status() == TaskStatus::AwaitingApproval);
        waiting.unwrap().approval.unwrap()
    }

    async fn approvals(&self) -> Vec<WaitingApproval> {
        let request = ListApprovalsRequest::default();
        self.client.clone().list_approvals(request).await.unwrap().into_inner().approvals
    }

    fn inputs(&self) -> Vec<String> {
        let log = self.executor.log.lock().unwrap();
        log.calls.iter().map(|call| call.payload_json.clone()).collect()
    }

    async fn kinds(&self, plan_id: &str) -> Vec<String> {
        let request = WatchPlanRequest { plan_id: plan_id.into(), ..Default::default() };
        let mut events = self.client.clone().watch_plan(request).await.unwrap().into_inner();
        let mut kinds = Vec::new();
        while let Some(event) = events.message().await.unwrap() {
            kinds.push(event.kind);
        }
        kinds
    }
}

async fn on(dir: &Arc<tempfile::TempDir>) -> TestPlanner {
    TestPlanner::on(Arc::clone(dir), FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await
}

#[tokio::test]
async fn approved_task_runs_once_with_the_input_it_showed() {
    let planner = TestPlanner::new().await;
    planner.script("model", Script::Says(answers("seven")));
    let terms = ApprovalTerms {
        reason: "it writes".into(),
        approver: "release manager".into(),
        on_expiry: "reject".into(),
        ..Default::default()
    };
    let last = guarded_with("b", r#"{"text": "{{tasks.a.output}}"}"#, &[], terms);
    let plan_id = planner.submit(vec![task("a", "model", "{}", &[]), last]).await;
    let approval = planner.waiting(&plan_id).await;
    assert_eq!((&*approval.state, &*approval.input_json), ("waiting", r#"{"text":"seven"}"#));
    assert_eq!(approval.input_hash, input_hash(&Object::parse(&approval.input_json).unwrap()));
    assert_eq!((&*approval.reason, &*approval.approver), ("it writes", "release manager"));
    let listed = planner.approvals().await;
    assert_eq!((listed.len(), &*listed[0].key, &*listed[0].action), (1, "b", "do"));
    assert_eq!((&listed[0].input_preview, &*listed[0].on_expiry), (&approval.input_json, "reject"));

    let wrong = DecideApprovalRequest { input_hash: "0".repeat(64), ..approve(&plan_id) };
    let error = planner.decide(wrong).await.unwrap_err();
    assert_eq!((error.code, &error.details["input_hash"]), (Code::Conflict, &approval.input_hash));
    let right = DecideApprovalRequest { input_hash: approval.input_hash.clone(), ..approve(&plan_id) };
    let decided = planner.decide(right.clone()).await.unwrap();
    assert_eq!((&*decided.task_key, &*decided.approval.as_ref().unwrap().state), ("b", "approved"));
    assert_eq!(planner.decide(right).await.unwrap(), decided, "a repetition");
    let error = planner.decide(reject(&plan_id)).await.unwrap_err();
    assert_eq!((error.code, &*error.details["approval"]), (Code::Conflict, "approved"), "{error}");

    let plan = planner.ended(&plan_id).await;
    assert_eq!(status_of(&plan), PlanStatus::Succeeded);
    assert_eq!(planner.inputs(), ["{}", r#"{"text":"seven"}"#]);
    let made = plan.tasks[1].approval.as_ref().unwrap().decision.as_ref().unwrap();
    assert_eq!((&*made.actor, made.correlation_id.len()), ("ann", 36));
    assert!(planner.approvals().await.is_empty());
    let kinds = planner.kinds(&plan_id).await;
    let own: Vec<_> = kinds.iter().filter(|kind| kind.contains("appro")).collect();
    assert_eq!(own, ["approval_requested", "approved"], "{kinds:?}");
    assert_eq!(planner.decide(reject(&plan_id)).await.unwrap_err().code, Code::Conflict);
}

#[tokio::test]
async fn rejected_task_never_runs_and_ends_its_plan() {
    let planner = TestPlanner::new().await;
    let tasks = vec![guarded("a", "{}", &[]), task("b", "notes", "{}", &["a"])];
    let plan_id = planner.submit(tasks.clone()).await;
    planner.waiting(&plan_id).await;
    planner.decide(reject(&plan_id)).await.unwrap();
    let plan = planner.ended(&plan_id).await;
    assert_eq!((status_of(&plan), error_of(&plan).code.as_str()), (PlanStatus::Cancelled, "cancelled"));
    assert_eq!(error_of(&plan).message, "task `a` was rejected by ann: too risky");
    assert_eq!(planner.kinds(&plan_id).await[1..3], ["approval_requested", "rejected"]);

    let mut tasks = tasks;
    tasks[0].continue_on_failure = true;
    let plan_id = planner.submit(tasks).await;
    planner.waiting(&plan_id).await;
    planner.decide(reject(&plan_id)).await.unwrap();
    let plan = planner.ended(&plan_id).await;
    let statuses: Vec<_> = plan.tasks.iter().map(|task| task.status()).collect();
    assert_eq!(
        (status_of(&plan), statuses),
        (PlanStatus::Succeeded, vec![TaskStatus::Cancelled, TaskStatus::Succeeded])
    );
    assert_eq!(planner.inputs().len(), 1, "only the other task ran");
}

#[tokio::test]
async fn expired_approval_has_the_effect_of_its_terms() {
    let planner = TestPlanner::new().await;
    for (on_expiry, status, code) in [
        ("fail", PlanStatus::Failed, "timeout"),
        ("reject", PlanStatus::Cancelled, "cancelled"),
        ("approve", PlanStatus::Succeeded, ""),
    ] {
        let terms = ApprovalTerms { timeout_ms: 50, on_expiry: on_expiry.into(), ..Default::default() };
        let plan_id = planner.submit(vec![guarded_with("a", "{}", &[], terms)]).await;
        let plan = planner.ended(&plan_id).await;
        let found = plan.error.as_ref().map_or("", |error| &*error.code);
        assert_eq!((status_of(&plan), found), (status, code), "{plan:?}");
        assert_eq!(plan.tasks[0].approval.as_ref().unwrap().state, "expired");
        assert!(planner.kinds(&plan_id).await.contains(&"approval_expired".to_owned()));
        let error = planner.decide(approve(&plan_id)).await.unwrap_err();
        assert_eq!((error.code, &*error.details["approval"]), (Code::Conflict, "expired"), "{error}");
    }
    assert_eq!(planner.inputs().len(), 1);
}

#[tokio::test]
async fn edited_input_is_validated_and_runs_instead() {
    let planner = TestPlanner::new().await;
    let write =
        TaskSpec { agent: "strict".into(), action: "write".into(), ..guarded("a", r#"{"title": "x"}"#, &[]) };
    let plan_id = planner.submit(vec![write]).await;
    planner.waiting(&plan_id).await;
    let edit = |input: &str| DecideApprovalRequest { input_json: input.into(), ..approve(&plan_id) };
    for wrong in [
        r#"{"title": 7}"#,
        r#"{"titel": "x"}"#,
        "[]",
        &format!(r#"{{"title": {}1{}}}"#, "[".repeat(99), "]".repeat(99)),
    ] {
        assert_eq!(planner.decide(edit(wrong)).await.unwrap_err().code, Code::ValidationFailed, "{wrong}");
    }
    let refused = DecideApprovalRequest { input_json: "{}".into(), ..reject(&plan_id) };
    assert_eq!(planner.decide(refused).await.unwrap_err().details["field"], "input");
    planner.decide(edit(r#"{"title": "better"}"#)).await.unwrap();
    let plan = planner.ended(&plan_id).await;
    assert_eq!(planner.inputs(), [r#"{"title":"better"}"#]);
    let approval = plan.tasks[0].approval.as_ref().unwrap();
    assert_eq!(approval.decision.as_ref().unwrap().input_json, r#"{"title":"better"}"#);
    assert_eq!(approval.input_json, r#"{"title":"x"}"#, "what was asked for stays");
}

#[tokio::test]
async fn invalid_decisions_and_terms_are_rejected() {
    let planner = TestPlanner::new().await;
    let plan_id = planner
        .submit(vec![guarded("a", "{}", &[]), guarded("b", "{}", &[]), task("c", "model", "{}", &["b"])])
        .await;
    eventually(async || planner.approvals().await.len() == 2).await;
    for (request, code, field) in [
        (DecideApprovalRequest { actor: " ".into(), ..approve(&plan_id) }, Code::ValidationFailed, "actor"),
        (
            DecideApprovalRequest { actor: "x".repeat(257), ..approve(&plan_id) },
            Code::ValidationFailed,
            "actor",
        ),
        (
            DecideApprovalRequest { reason: "x".repeat(1025), ..approve(&plan_id) },
            Code::ValidationFailed,
            "reason",
        ),
        (approve(&plan_id), Code::ValidationFailed, "task"),
        (DecideApprovalRequest { decision: 0, ..approve(&plan_id) }, Code::ValidationFailed, "decision"),
        (DecideApprovalRequest { task_key: "z".into(), ..approve(&plan_id) }, Code::NotFound, ""),
        (DecideApprovalRequest { task_key: "c".into(), ..approve(&plan_id) }, Code::Conflict, ""),
        (approve("0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f"), Code::NotFound, ""),
    ] {
        let error = planner.decide(request).await.unwrap_err();
        let found = error.details.get("field").map_or("", String::as_str);
        assert_eq!((error.code, found), (code, field), "{error}");
    }
    let mut client = planner.client.clone();
    for (wrong, field) in [
        (ApprovalTerms { reason: "x".repeat(1025), ..Default::default() }, "tasks[0].approval.reason"),
        (ApprovalTerms { approver: "x".repeat(257), ..Default::default() }, "tasks[0].approval.approver"),
        (ApprovalTerms { timeout_ms: 31_536_000_001, ..Default::default() }, "tasks[0].approval.timeout_ms"),
        (ApprovalTerms { on_expiry: "explode".into(), ..Default::default() }, "on_expiry"),
    ] {
        let refused = client.submit_plan(graph(vec![guarded_with("a", "{}", &[], wrong)])).await;
        let error = phoenix_proto::error_from_status(&refused.unwrap_err());
        assert_eq!((error.code, &*error.details["field"]), (Code::ValidationFailed, field));
    }
}

#[tokio::test]
async fn policy_of_an_agent_makes_matching_actions_wait() {
    let policy = ApprovalPolicy { actions: vec!["d*".into()], timeout: Duration::from_secs(60) };
    let catalog = catalog();
    let agents = catalog.iter().cloned().map(move |spec| match spec.name.as_str() {
        "model" => AgentSpec { approval: policy.clone(), ..spec },
        _ => spec,
    });
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let executor = FakeExecutor::offering(agents.collect::<Vec<_>>());
    let planner = TestPlanner::on(dir, executor, FakeHealth::default(), ALL_PEERS).await;
    planner.chat("hello").await.expect("a chat needs no approval");
    let plan_id = planner.submit(vec![task("a", "model", "{}", &[])]).await;
    let approval = planner.waiting(&plan_id).await;
    let (from, to) = (approval.requested_at.unwrap().seconds, approval.expires_at.unwrap().seconds);
    assert_eq!((to - from, &*approval.on_expiry), (60, "fail"));
    let terms = ApprovalTerms { on_expiry: "approve".into(), ..Default::default() };
    let error = planner.client.clone().submit_plan(graph(vec![guarded_with("a", "{}", &[], terms)])).await;
    let error = phoenix_proto::error_from_status(&error.unwrap_err());
    assert_eq!(error.details["field"], "tasks[0].approval.on_expiry", "{error}");
    planner.decide(approve(&plan_id)).await.unwrap();
    assert_eq!(status_of(&planner.ended(&plan_id).await), PlanStatus::Succeeded);
}

#[tokio::test]
async fn waiting_plan_holds_no_permit_and_no_place_in_flight() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let planner =
        TestPlanner::configured(dir, FakeExecutor::default(), FakeHealth::default(), ALL_PEERS, |config| {
            config.max_plans_in_flight = 2;
        })
        .await;
    let mut waiting = Vec::new();
    for n in 0..5 {
        let single = TaskSpec { agent: "single".into(), ..guarded("a", &format!("{{\"n\":{n}}}"), &[]) };
        waiting.push(planner.submit(vec![single]).await);
        eventually(async || planner.approvals().await.len() == n + 1).await;
    }
    let request =
        PlanAndExecuteRequest { message: "hello".into(), agent: Some("single".into()), ..Default::default() };
    planner.client.clone().plan_and_execute(request).await.expect("the only permit is free");
    let oldest: Vec<_> = planner.approvals().await.into_iter().map(|waiting| waiting.plan_id).collect();
    assert_eq!(oldest, waiting);
    for plan_id in &waiting {
        planner.decide(approve(plan_id)).await.unwrap();
    }
    for plan_id in &waiting {
        assert_eq!(status_of(&planner.ended(plan_id).await), PlanStatus::Succeeded);
    }
}

#[tokio::test]
async fn cancel_and_deadline_end_a_waiting_plan() {
    let planner = TestPlanner::new().await;
    let plan_id = planner.submit(vec![guarded("a", "{}", &[])]).await;
    planner.waiting(&plan_id).await;
    let cancel =
        CancelPlanRequest { plan_id: plan_id.clone(), reason: "enough".into(), ..Default::default() };
    planner.client.clone().cancel_plan(cancel).await.unwrap();
    let plan = planner.plan(&plan_id).await;
    assert_eq!(status_of(&plan), PlanStatus::Cancelled);
    assert_eq!(plan.tasks[0].approval.as_ref().unwrap().state, "withdrawn");
    let error = planner.decide(approve(&plan_id)).await.unwrap_err();
    assert_eq!((error.code, &*error.details["approval"]), (Code::Conflict, "withdrawn"), "{error}");

    let limited = PlanAndExecuteRequest { deadline_ms: 50, ..graph(vec![guarded("a", "{}", &[])]) };
    let plan_id = planner.client.clone().submit_plan(limited).await.unwrap().into_inner().plan_id;
    let plan = planner.ended(&plan_id).await;
    assert_eq!((status_of(&plan), error_of(&plan).code.as_str()), (PlanStatus::Failed, "timeout"));
    assert!(error_of(&plan).message.contains("neither approved nor rejected"), "{plan:?}");
    assert!(planner.approvals().await.is_empty() && planner.inputs().is_empty());
}

#[tokio::test]
async fn wait_survives_restarts_and_decisions_without_a_planner() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mut first = on(&dir).await;
    let plan_id = first.submit(vec![guarded("a", r#"{"n": 1}"#, &[])]).await;
    let before = first.waiting(&plan_id).await;
    first.stop().await;
    let second = on(&dir).await;
    assert_eq!(second.waiting(&plan_id).await, before, "asked once");
    // Decided through a planner that does not run the plan, whose owner then stops.
    let third = on(&dir).await;
    third.decide(approve(&plan_id)).await.unwrap();
    drop(second);
    let plan = third.ended(&plan_id).await;
    assert_eq!(status_of(&plan), PlanStatus::Succeeded);
    assert_eq!(plan.tasks[0].attempts.len(), 1);
    let kinds = third.kinds(&plan_id).await;
    let own: Vec<_> = kinds.iter().filter(|kind| kind.contains("appro")).collect();
    assert_eq!(own, ["approval_requested", "approved"], "{kinds:?}");
}

#[tokio::test]
async fn first_of_opposite_decisions_at_two_planners_counts() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let (one, two) = (on(&dir).await, on(&dir).await);
    for _ in 0..5 {
        let plan_id = one.submit(vec![guarded("a", "{}", &[])]).await;
        one.waiting(&plan_id).await;
        let (yes, no) = tokio::join!(one.decide(approve(&plan_id)), two.decide(reject(&plan_id)));
        let expected = if yes.is_ok() { PlanStatus::Succeeded } else { PlanStatus::Cancelled };
        assert!(yes.is_ok() != no.is_ok(), "{yes:?} {no:?}");
        assert_eq!(status_of(&two.ended(&plan_id).await), expected);
    }
}

#[tokio::test]
async fn task_beside_a_waiting_one_runs_and_a_decision_joins_them() {
    let planner = TestPlanner::new().await;
    let tasks = vec![
        guarded("a", "{}", &[]),
        task("b", "notes", "{}", &[]),
        task("c", "notes", r#"{"x": "{{tasks.a.output}}"}"#, &["b"]),
    ];
    let plan_id = planner.submit(tasks).await;
    eventually(async || planner.plan(&plan_id).await.tasks[1].status() == TaskStatus::Succeeded).await;
    assert_eq!(planner.waiting(&plan_id).await.state, "waiting");
    planner.decide(approve(&plan_id)).await.unwrap();
    assert_eq!(status_of(&planner.ended(&plan_id).await), PlanStatus::Succeeded);
    assert_eq!(planner.inputs().len(), 3);
}
