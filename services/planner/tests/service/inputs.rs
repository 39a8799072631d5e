//! Inputs against what agents declare: when a plan is accepted, and when a task is about to run.

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
async fn what_an_agent_does_not_take_is_refused_before_anything_is_kept() {
    let stage = TestPlanner::new().await;
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
        let dry = stage.client.clone().dry_run_plan(request.clone()).await.unwrap_err();
        let refused = stage.client.clone().submit_plan(context.request(request)).await.unwrap_err();
        for status in [dry, refused] {
            let error = phoenix_proto::error_from_status(&status);
            assert_eq!(
                (error.code, &*error.details["field"], &*error.details["key"]),
                (code, field, "b"),
                "{error}"
            );
        }
        assert!(stage.plans_of(context.correlation_id).await.is_empty());
    }
    assert!(stage.executor.log.lock().unwrap().calls.is_empty());
    let chat =
        stage.send(RequestContext::new(CorrelationId::generate()), "a long message", Some("strict")).await;
    assert_eq!(chat.unwrap_err().details["field"], "message");
}

#[tokio::test]
async fn an_answer_that_does_not_fit_fails_the_task_it_was_meant_for_and_starts_nothing() {
    let stage = TestPlanner::new().await;
    stage.script("model", Script::Says(answers("much too long for a title")));
    let mut tasks = vec![task("a", "model", "{}", &[]), write("b", r#"{"title": "{{tasks.a.output}}"}"#)];
    let plan = stage.ended(&submit(&stage, graph(tasks.clone())).await.unwrap()).await;
    let failed = &plan.tasks[1];
    let error = failed.error.as_ref().unwrap();
    assert_eq!((status_of(&plan), failed.status()), (PlanStatus::Failed, TaskStatus::DeadLettered));
    assert_eq!(error.code, "validation_failed");
    assert_eq!((&*error.details["field"], &*error.details["key"]), ("tasks[1].input.title", "b"));
    assert!(failed.attempts.is_empty() && failed.dispatched_at.is_none());
    let agents = |stage: &TestPlanner| {
        let log = stage.executor.log.lock().unwrap();
        log.calls.iter().map(|call| call.agent.clone()).collect::<Vec<_>>()
    };
    assert_eq!(agents(&stage), ["model"]);

    tasks[1].continue_on_failure = true;
    let survived = stage.ended(&submit(&stage, graph(tasks)).await.unwrap()).await;
    assert_eq!(status_of(&survived), PlanStatus::Succeeded);

    stage.script("model", Script::Says(answers("short")));
    let tasks = vec![task("a", "model", "{}", &[]), write("b", r#"{"title": "{{tasks.a.output}}"}"#)];
    let plan = stage.ended(&submit(&stage, graph(tasks)).await.unwrap()).await;
    assert_eq!(status_of(&plan), PlanStatus::Succeeded);
    assert_eq!(agents(&stage), ["model", "model", "model", "strict"]);
}
