//! Validation of inputs against the schemas of agents, at acceptance and before a task runs.

use phoenix_domain::{CorrelationId, OrchestratorErrorCode as Code};
use phoenix_platform::RequestContext;
use phoenix_proto::planner::{PlanStatus, TaskSpec, TaskStatus};

use crate::{
    graphs::submit,
    support::{Script, TestPlanner, answers, graph, status_of, task},
};

fn write(key: &str, input: &str) -> TaskSpec {
    TaskSpec { action: "write".into(), ..task(key, "strict", input, &[]) }
}

#[tokio::test]
async fn input_outside_the_schema_is_rejected_before_the_journal() {
    let planner = TestPlanner::new().await;
    let knit = TaskSpec { action: "knit".into(), ..write("b", r#"{"title": "x"}"#) };
    for (wrong, code, field) in [
        (write("b", "{}"), Code::ValidationFailed, "tasks[1].input.title"),
        (write("b", r#"{"title": 1}"#), Code::ValidationFailed, "tasks[1].input.title"),
        (write("b", r#"{"title": "x", "titel": "x"}"#), Code::ValidationFailed, "tasks[1].input.titel"),
        (write("b", r#"{"titel": "{{tasks.a.output}}"}"#), Code::ValidationFailed, "tasks[1].input.titel"),
        (knit, Code::PlanningFailed, "tasks[1].action"),
    ] {
        let request = graph(vec![task("a", "model", "{}", &[]), wrong]);
        let context = RequestContext::new(CorrelationId::generate());
        let dry = planner.client.clone().dry_run_plan(request.clone()).await.unwrap_err();
        let refused = planner.client.clone().submit_plan(context.request(request)).await.unwrap_err();
        for status in [dry, refused] {
            let error = phoenix_proto::error_from_status(&status);
            assert_eq!(
                (error.code, &*error.details["field"], &*error.details["key"]),
                (code, field, "b"),
                "{error}"
            );
        }
        assert!(planner.plans_of(context.correlation_id).await.is_empty());
    }
    assert!(planner.executor.log.lock().unwrap().calls.is_empty());
    let chat =
        planner.send(RequestContext::new(CorrelationId::generate()), "a long message", Some("strict")).await;
    assert_eq!(chat.unwrap_err().details["field"], "message");
}

#[tokio::test]
async fn filled_input_outside_the_schema_fails_its_task_unstarted() {
    let planner = TestPlanner::new().await;
    planner.script("model", Script::Says(answers("much too long for a title")));
    let mut tasks = vec![task("a", "model", "{}", &[]), write("b", r#"{"title": "{{tasks.a.output}}"}"#)];
    let plan = planner.ended(&submit(&planner, graph(tasks.clone())).await.unwrap()).await;
    let failed = &plan.tasks[1];
    let error = failed.error.as_ref().unwrap();
    assert_eq!((status_of(&plan), failed.status()), (PlanStatus::Failed, TaskStatus::DeadLettered));
    assert_eq!(error.code, "validation_failed");
    assert_eq!((&*error.details["field"], &*error.details["key"]), ("tasks[1].input.title", "b"));
    assert!(failed.attempts.is_empty() && failed.dispatched_at.is_none());
    let agents = |planner: &TestPlanner| {
        let log = planner.executor.log.lock().unwrap();
        log.calls.iter().map(|call| call.agent.clone()).collect::<Vec<_>>()
    };
    assert_eq!(agents(&planner), ["model"]);

    tasks[1].continue_on_failure = true;
    let survived = planner.ended(&submit(&planner, graph(tasks)).await.unwrap()).await;
    assert_eq!(status_of(&survived), PlanStatus::Succeeded);

    planner.script("model", Script::Says(answers("short")));
    let tasks = vec![task("a", "model", "{}", &[]), write("b", r#"{"title": "{{tasks.a.output}}"}"#)];
    let plan = planner.ended(&submit(&planner, graph(tasks)).await.unwrap()).await;
    assert_eq!(status_of(&plan), PlanStatus::Succeeded);
    assert_eq!(agents(&planner), ["model", "model", "model", "strict"]);
}
