//! Redrives through the server.

use std::{collections::HashMap, sync::Arc};

use crate::support::{
    ALL_PEERS, FakeExecutor, FakeHealth, Peers, Script, TestPlanner, answers, error_of, eventually, finished,
    graph, started, status_of, task,
};
use phoenix_domain::{CorrelationId, OrchestratorError, OrchestratorErrorCode as Code};
use phoenix_platform::RequestContext;
use phoenix_proto::planner::{
    CancelPlanRequest, Plan, PlanAndExecuteRequest, PlanStatus, RedrivePlanRequest, TaskSpec, TaskStatus,
    WatchPlanRequest,
};

async fn redrive(planner: &TestPlanner, request: RedrivePlanRequest) -> Result<String, OrchestratorError> {
    let context = RequestContext::new(CorrelationId::generate());
    let answer = planner.client.clone().redrive_plan(context.request(request)).await;
    answer
        .map(|response| response.into_inner().plan_id)
        .map_err(|status| phoenix_proto::error_from_status(&status))
}

fn of(plan: &Plan) -> RedrivePlanRequest {
    RedrivePlanRequest { plan_id: plan.plan_id.clone(), reason: "fixed".into(), ..Default::default() }
}

fn with_input(plan: &Plan, key: &str, input: &str) -> RedrivePlanRequest {
    RedrivePlanRequest { inputs_json: HashMap::from([(key.into(), input.into())]), ..of(plan) }
}

fn fails() -> Script {
    let error = OrchestratorError::new(Code::ExecutionFailed, "no").with_detail("error_class", "io");
    Script::Says(vec![started(1), finished(1, Err(error))])
}

async fn ended(planner: &TestPlanner, request: PlanAndExecuteRequest) -> Plan {
    let answer = planner.client.clone().submit_plan(request).await.unwrap();
    planner.ended(&answer.into_inner().plan_id).await
}

/// `a` and `d` succeed, `b` fails, `c` never starts.
async fn half_done(planner: &TestPlanner) -> Plan {
    planner.script("git_agent", Script::Says(answers("2 files")));
    planner.script("notes", fails());
    let tasks = vec![
        task("a", "git_agent", "{}", &[]),
        task("d", "git_agent", "{}", &["a"]),
        task("b", "notes", r#"{"x": "{{tasks.a.output}}"}"#, &["d"]),
        task("c", "model", r#"{"y": "{{tasks.b.output}}"}"#, &[]),
    ];
    let plan = ended(planner, graph(tasks)).await;
    assert_eq!(status_of(&plan), PlanStatus::Failed);
    planner.executor.log.lock().unwrap().calls.clear();
    plan
}

fn calls(planner: &TestPlanner) -> Vec<(String, String)> {
    let log = planner.executor.log.lock().unwrap();
    log.calls.iter().map(|call| (call.agent.clone(), call.payload_json.clone())).collect()
}

fn states(plan: &Plan) -> Vec<TaskStatus> {
    plan.tasks.iter().map(|task| task.status()).collect()
}

#[tokio::test]
async fn redrive_keeps_succeeded_tasks_and_reruns_the_others() {
    let planner = TestPlanner::new().await;
    let old = half_done(&planner).await;
    planner.script("notes", Script::Says(answers("noted")));
    let new = planner.ended(&redrive(&planner, of(&old)).await.unwrap()).await;
    assert_eq!((status_of(&new), new.output.as_deref()), (PlanStatus::Succeeded, Some("ok")));
    let expected = [("notes", r#"{"x":"2 files"}"#), ("model", r#"{"y":"noted"}"#)];
    assert_eq!(calls(&planner), expected.map(|(agent, input)| (agent.to_owned(), input.to_owned())));

    assert_eq!(new.redrive_of.as_ref(), Some(&old.plan_id));
    assert_ne!(new.correlation_id, old.correlation_id, "another request made it");
    let a = &new.tasks[0];
    assert_eq!((a.status(), a.attempts.len(), &a.dispatched_at), (TaskStatus::Succeeded, 0, &None));
    assert_eq!((&a.output, &a.input_json), (&old.tasks[0].output, &old.tasks[0].input_json));
    let keys: Vec<_> =
        planner.executor.log.lock().unwrap().calls.iter().map(|call| call.idempotency_key.clone()).collect();
    assert_eq!(keys, [new.tasks[2].task_id.clone(), new.tasks[3].task_id.clone()]);
    assert!(new.tasks.iter().zip(&old.tasks).all(|(new, old)| new.task_id != old.task_id), "a new run");

    let mut after = planner.plan(&old.plan_id).await;
    assert_eq!(after.redriven_as.take(), Some(new.plan_id.clone()));
    assert_eq!(after, old, "a terminal state never changes");
    let request = WatchPlanRequest { plan_id: old.plan_id.clone(), ..Default::default() };
    let mut events = planner.client.clone().watch_plan(request).await.unwrap().into_inner();
    let mut kinds = Vec::new();
    let mut last = None;
    while let Some(event) = events.message().await.unwrap() {
        kinds.push(event.kind.clone());
        last = Some(event);
    }
    assert_eq!(kinds[kinds.len() - 2..], ["plan_ended", "plan_redriven"]);
    let facts = last.unwrap().data_json;
    assert!(facts.contains(&new.plan_id) && facts.contains(&new.correlation_id) && facts.contains("fixed"));
}

#[tokio::test]
async fn redrive_of_unsuitable_plan_is_rejected_with_reason() {
    let planner = TestPlanner::new().await;
    let unknown = Plan { plan_id: "0190a6c1-5b0e-7cc3-9d6e-ffffffffffff".into(), ..Default::default() };
    assert_eq!(redrive(&planner, of(&unknown)).await.unwrap_err().code, Code::NotFound);
    let well = ended(&planner, graph(vec![task("a", "model", "{}", &[])])).await;
    let error = redrive(&planner, of(&well)).await.unwrap_err();
    assert_eq!((error.code, error.details.contains_key("plan_id")), (Code::Conflict, false), "{error}");

    planner.script("model", Script::Hangs);
    let request = graph(vec![task("a", "model", "{}", &[])]);
    let plan_id = planner.client.clone().submit_plan(request).await.unwrap().into_inner().plan_id;
    let running = planner.plan(&plan_id).await;
    assert_eq!(redrive(&planner, of(&running)).await.unwrap_err().code, Code::Conflict);
    let cancel = CancelPlanRequest { plan_id: plan_id.clone(), ..Default::default() };
    planner.client.clone().cancel_plan(cancel).await.unwrap();
    planner.script("model", Script::Says(answers("after all")));
    let long = RedrivePlanRequest { reason: "x".repeat(2000), ..of(&running) };
    assert_eq!(redrive(&planner, long).await.unwrap_err().details["field"], "reason");

    let new = redrive(&planner, of(&running)).await.expect("a cancelled plan can be redriven");
    let again = redrive(&planner, of(&running)).await.unwrap_err();
    assert_eq!((again.code, &again.details["redriven_as"]), (Code::Conflict, &new));
    assert_eq!(planner.ended(&new).await.output.as_deref(), Some("after all"));
}

#[tokio::test]
async fn concurrent_redrives_of_a_plan_create_one_plan() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let planner = async || {
        TestPlanner::on(dir.clone(), FakeExecutor::default(), FakeHealth::default(), ALL_PEERS).await
    };
    let stages = [planner().await, planner().await];
    for _ in 0..10 {
        let old = half_done(&stages[0]).await;
        let (one, two) = tokio::join!(redrive(&stages[0], of(&old)), redrive(&stages[1], of(&old)));
        let (new, error) = match (one, two) {
            (Ok(new), Err(error)) | (Err(error), Ok(new)) => (new, error),
            both => panic!("{both:?}"),
        };
        assert_eq!((error.code, &error.details["redriven_as"]), (Code::Conflict, &new));
    }
}

#[tokio::test]
async fn redrive_accepts_new_inputs_for_tasks_that_run_again() {
    let planner = TestPlanner::new().await;
    let old = half_done(&planner).await;
    for (key, input, field) in [
        ("missing", "{}", "input.missing"),
        ("a", "{}", "input.a"),
        ("b", r#"{"x": "{{tasks.missing.output}}"}"#, "tasks[2].input"),
        ("b", r#"{"x": "{{tasks.c.output}}"}"#, "tasks"),
        ("b", "[]", "inputs_json"),
    ] {
        let error = redrive(&planner, with_input(&old, key, input)).await.unwrap_err();
        assert_eq!(error.details["field"], field, "{error}");
    }
    planner.script("notes", Script::Says(answers("noted")));
    let request = with_input(&old, "b", r#"{"z": "{{tasks.d.output}}!"}"#);
    let new = planner.ended(&redrive(&planner, request).await.unwrap()).await;
    assert_eq!(status_of(&new), PlanStatus::Succeeded);
    assert_eq!(calls(&planner)[0], ("notes".into(), r#"{"z":"2 files!"}"#.into()));
    assert_eq!(new.tasks[2].input_json, r#"{"z":"{{tasks.d.output}}!"}"#);
}

#[tokio::test]
async fn redrive_input_outside_the_schema_is_rejected() {
    let planner = TestPlanner::new().await;
    planner.script("strict", fails());
    let write = TaskSpec { action: "write".into(), ..task("a", "strict", r#"{"title": "x"}"#, &[]) };
    let old = ended(&planner, graph(vec![write])).await;
    let error = redrive(&planner, with_input(&old, "a", r#"{"titel": "x"}"#)).await.unwrap_err();
    assert_eq!(
        (error.code, error.details["key"].as_str(), error.details["field"].as_str()),
        (Code::ValidationFailed, "a", "tasks[0].input.titel"),
        "{error}"
    );
    redrive(&planner, with_input(&old, "a", r#"{"title": "y"}"#)).await.unwrap();
}

#[tokio::test]
async fn redriven_chat_accepts_a_new_message() {
    let planner = TestPlanner::new().await;
    planner.script("model", fails());
    let old = ended(&planner, PlanAndExecuteRequest { message: "helo".into(), ..Default::default() }).await;
    for input in ["{}", r#"{"message": 1}"#, r#"{"message": " "}"#] {
        let error = redrive(&planner, with_input(&old, "chat", input)).await.unwrap_err();
        assert_eq!((error.code, &*error.details["field"]), (Code::ValidationFailed, "input.chat.message"));
    }
    planner.script("model", Script::Says(answers("hi")));
    // Free text, not a reference.
    let request = with_input(&old, "chat", r#"{"message": "{{tasks.x.output}}"}"#);
    let request = RedrivePlanRequest { wait: true, ..request };
    let new = planner.plan(&redrive(&planner, request).await.unwrap()).await;
    assert_eq!((status_of(&new), new.output.as_deref()), (PlanStatus::Succeeded, Some("hi")));
}

#[tokio::test]
async fn redrive_reruns_dependents_of_failed_tasks() {
    let planner = TestPlanner::new().await;
    planner.script("git_agent", fails());
    let mut tasks = vec![
        task("a", "git_agent", "{}", &[]),
        task("b", "notes", r#"{"x": "{{tasks.a.output}}"}"#, &[]),
        task("c", "model", "{}", &[]),
    ];
    tasks[0].continue_on_failure = true;
    let old = ended(&planner, graph(tasks)).await;
    assert_eq!(states(&old), [TaskStatus::DeadLettered, TaskStatus::Succeeded, TaskStatus::Succeeded]);
    assert_eq!(status_of(&old), PlanStatus::Succeeded);
    planner.executor.log.lock().unwrap().calls.clear();
    planner.script("git_agent", Script::Says(answers("2 files")));
    let new = planner.ended(&redrive(&planner, of(&old)).await.unwrap()).await;
    assert_eq!(status_of(&new), PlanStatus::Succeeded);
    let expected = [("git_agent", "{}"), ("notes", r#"{"x":"2 files"}"#)];
    assert_eq!(calls(&planner), expected.map(|(agent, input)| (agent.to_owned(), input.to_owned())));
}

#[tokio::test]
async fn waiting_redrive_returns_the_new_result() {
    let planner = TestPlanner::new().await;
    let first = half_done(&planner).await;
    let error = redrive(&planner, RedrivePlanRequest { wait: true, ..of(&first) }).await.unwrap_err();
    assert_eq!((error.code, error.message.as_str()), (Code::ExecutionFailed, "no"));
    let second = planner.plan(&error.details["plan_id"]).await;
    assert_eq!((status_of(&second), error_of(&second).message.as_str()), (PlanStatus::Failed, "no"));
    planner.script("notes", Script::Says(answers("noted")));
    let third = redrive(&planner, RedrivePlanRequest { wait: true, ..of(&second) }).await.unwrap();
    let third = planner.plan(&third).await;
    assert_eq!((status_of(&third), third.redrive_of), (PlanStatus::Succeeded, Some(second.plan_id)));
    let agents: Vec<_> = calls(&planner).into_iter().map(|(agent, _)| agent).collect();
    assert_eq!(agents, ["notes", "notes", "model"], "what had succeeded at first is kept for good");
}

#[tokio::test]
async fn repeated_redrive_receives_the_first_result() {
    let planner = TestPlanner::new().await;
    let old = half_done(&planner).await;
    planner.script("notes", Script::Says(answers("noted")));
    let request = |digest: &str| RedrivePlanRequest {
        wait: true,
        idempotency_key: "key-1".into(),
        idempotency_digest: digest.into(),
        ..of(&old)
    };
    let new = redrive(&planner, request("d1")).await.unwrap();
    assert_eq!(redrive(&planner, request("d1")).await.unwrap(), new);
    assert_eq!(redrive(&planner, RedrivePlanRequest { wait: false, ..request("d1") }).await.unwrap(), new);
    assert_eq!(redrive(&planner, request("d2")).await.unwrap_err().code, Code::IdempotencyMismatch);
    assert_eq!(calls(&planner).len(), 2);
}

#[tokio::test]
async fn redriven_plan_has_its_full_time_limit_again() {
    let planner = TestPlanner::new().await;
    planner.script("model", Script::Hangs);
    let request = PlanAndExecuteRequest { deadline_ms: 300, ..graph(vec![task("a", "model", "{}", &[])]) };
    let old = ended(&planner, request).await;
    assert_eq!(error_of(&old).code, "timeout");
    let new = planner.ended(&redrive(&planner, of(&old)).await.unwrap()).await;
    assert_eq!(error_of(&new).code, "timeout");
    let millis = |plan: &Plan| {
        let (from, to) = (plan.created_at.unwrap(), plan.deadline_at.unwrap());
        (to.seconds - from.seconds) * 1000 + i64::from(to.nanos - from.nanos) / 1_000_000
    };
    assert!((250..=350).contains(&millis(&new)), "{new:?}");
    assert!(new.deadline_at.unwrap().seconds >= old.ended_at.unwrap().seconds);
}

#[tokio::test]
async fn redriven_plan_is_recovered_with_its_kept_outputs() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let on = async |peers| {
        TestPlanner::on(dir.clone(), FakeExecutor::default(), FakeHealth::default(), peers).await
    };
    let mut planner = on(ALL_PEERS).await;
    let old = half_done(&planner).await;
    planner.stop().await;
    let mut planner = on(Peers { executor: false, health: true }).await;
    let new = redrive(&planner, of(&old)).await.unwrap();
    eventually(async || status_of(&planner.plan(&new).await) == PlanStatus::Running).await;
    planner.stop().await;
    let planner = on(ALL_PEERS).await;
    let new = planner.ended(&new).await;
    assert_eq!((status_of(&new), new.redrive_of), (PlanStatus::Succeeded, Some(old.plan_id)));
    let agents: Vec<_> = calls(&planner).into_iter().map(|(agent, _)| agent).collect();
    assert_eq!(agents, ["notes", "model"]);
}
