//! The limits at the planner's own door: callers that do not come through the gateway. Nothing is journaled.

use phoenix_domain::{
    OrchestratorError, OrchestratorErrorCode as Code,
    limits::{
        MAX_ACTION_BYTES, MAX_ACTOR_CHARS, MAX_CONTEXT_BYTES, MAX_DEPTH, MAX_IDEMPOTENCY_KEY_BYTES,
        MAX_KEY_CHARS, MAX_MESSAGE_BYTES, MAX_PLAN_BYTES, MAX_REASON_BYTES, MAX_SEARCH_CHARS, MAX_TASKS,
    },
};
use phoenix_proto::{
    error_from_status,
    planner::{
        ApprovalDecision, ApprovalTerms, CancelPlanRequest, DeadLetterFilter, DecideApprovalRequest,
        DiscardDeadLettersRequest, ExecutePlanRequest, ListPlansRequest, PlanAndExecuteRequest,
        RedriveDeadLettersRequest, RedrivePlanRequest, TaskSpec, execute_plan_request::Subject,
    },
};
use tonic::Status;

use crate::support::{TestPlanner, graph, task};

fn nested(levels: usize) -> String {
    format!(r#"{{"x":{}{}}}"#, "[".repeat(levels - 1), "]".repeat(levels - 1))
}

fn execute(plan: PlanAndExecuteRequest) -> ExecutePlanRequest {
    ExecutePlanRequest { subject: Some(Subject::Plan(plan)), ..Default::default() }
}

fn failed<T>(answer: Result<T, Status>) -> OrchestratorError {
    error_from_status(&answer.map(drop).unwrap_err())
}

/// The errors of a request for a plan at each door that takes one.
async fn refused_everywhere(
    planner: &TestPlanner,
    request: &PlanAndExecuteRequest,
) -> Vec<OrchestratorError> {
    let client = || planner.client.clone();
    vec![
        failed(client().submit_plan(request.clone()).await),
        failed(client().plan_and_execute(request.clone()).await),
        failed(client().dry_run_plan(request.clone()).await),
        failed(client().execute_plan(execute(request.clone())).await),
    ]
}

#[tokio::test]
async fn plan_over_a_limit_is_refused_with_field_limit_and_value() {
    let planner = TestPlanner::new().await;
    let one = |change: &dyn Fn(&mut TaskSpec)| {
        let mut task = task("a", "model", "{}", &[]);
        change(&mut task);
        graph(vec![task])
    };
    let many = (0..=MAX_TASKS).map(|n| task(&format!("t{n}"), "model", "{}", &[])).collect();
    let large = format!(r#"{{"x":"{}"}}"#, "x".repeat(1024 * 1024));
    let large = (0..5).map(|n| task(&format!("t{n}"), "model", &large, &[])).collect();
    let terms = |reason: usize, approver: usize| ApprovalTerms {
        reason: "r".repeat(reason),
        approver: "a".repeat(approver),
        ..Default::default()
    };
    for (request, field, limit) in [
        (one(&|task| task.input_json = nested(MAX_DEPTH + 1)), "input", "nested 65 levels deep; at most 64"),
        (one(&|task| task.input_json = nested(100_000)), "input", "nested 100000 levels deep; at most 64"),
        (one(&|task| task.input_json = r#"{"x":"\ud83d"}"#.into()), "input", "half of a surrogate pair"),
        (one(&|task| task.input_json = "[]".into()), "input", "must be a JSON object"),
        (one(&|task| task.key = "k".repeat(MAX_KEY_CHARS + 1)), "tasks[0].key", "1 to 64"),
        (
            one(&|task| task.action = "x".repeat(MAX_ACTION_BYTES + 1)),
            "tasks[0].action",
            "257 bytes long; at most 256",
        ),
        (
            one(&|task| task.approval = Some(terms(MAX_REASON_BYTES + 1, 0))),
            "tasks[0].approval",
            "1025 bytes long; at most 1024",
        ),
        (
            one(&|task| task.approval = Some(terms(0, MAX_ACTOR_CHARS + 1))),
            "tasks[0].approval",
            "at most 128",
        ),
        (graph(many), "tasks", "holds 257 tasks; at most 256"),
        (graph(large), "tasks", &*format!("at most {MAX_PLAN_BYTES} are allowed")),
        (
            PlanAndExecuteRequest {
                context: "c".repeat(MAX_CONTEXT_BYTES + 1),
                ..graph(vec![task("a", "model", "{}", &[])])
            },
            "context",
            "262145 bytes long; at most 262144",
        ),
        (
            PlanAndExecuteRequest { message: "m".repeat(MAX_MESSAGE_BYTES + 1), ..Default::default() },
            "message",
            "32768",
        ),
        (
            PlanAndExecuteRequest {
                idempotency_key: "k".repeat(MAX_IDEMPOTENCY_KEY_BYTES + 1),
                ..graph(vec![task("a", "model", "{}", &[])])
            },
            "idempotency_key",
            "256 bytes long; at most 255",
        ),
    ] {
        for error in refused_everywhere(&planner, &request).await {
            let named = error.details.get("field").map_or("", String::as_str);
            assert_eq!(error.code, Code::ValidationFailed, "{field}: {error}");
            assert!(named.contains(field) && error.message.contains(limit), "{field}: {named} {error:.300}");
        }
    }
    let listed = planner.client.clone().list_plans(ListPlansRequest::default()).await.unwrap();
    assert!(listed.into_inner().plans.is_empty());
    assert!(planner.executor.log.lock().unwrap().calls.is_empty());
    let accepted = one(&|task| task.input_json = nested(MAX_DEPTH));
    let plan_id = planner.client.clone().submit_plan(accepted).await.unwrap().into_inner().plan_id;
    assert_eq!(planner.ended(&plan_id).await.tasks[0].input_json, nested(MAX_DEPTH));
}

#[tokio::test]
async fn free_text_over_a_limit_is_refused_by_every_operation() {
    let planner = TestPlanner::new().await;
    let request = graph(vec![task("a", "model", "{}", &[])]);
    let plan_id = planner.client.clone().submit_plan(request).await.unwrap().into_inner().plan_id;
    planner.ended(&plan_id).await;
    let client = || planner.client.clone();
    for bytes in [MAX_REASON_BYTES + 1, 900_000] {
        let reason = "r".repeat(bytes);
        let decision = |reason: &str, actor: &str| DecideApprovalRequest {
            plan_id: plan_id.clone(),
            decision: ApprovalDecision::Approve.into(),
            actor: actor.into(),
            reason: reason.into(),
            ..Default::default()
        };
        let actor = failed(client().decide_approval(decision("", &"a".repeat(MAX_ACTOR_CHARS + 1))).await);
        assert!(actor.message.contains("`actor` "), "{actor}");
        let (id, reason_of) = (plan_id.clone(), || reason.clone());
        for error in [
            failed(
                client()
                    .cancel_plan(CancelPlanRequest {
                        plan_id: id.clone(),
                        reason: reason_of(),
                        ..Default::default()
                    })
                    .await,
            ),
            failed(
                client()
                    .redrive_plan(RedrivePlanRequest {
                        plan_id: id,
                        reason: reason_of(),
                        ..Default::default()
                    })
                    .await,
            ),
            failed(
                client()
                    .redrive_dead_letters(RedriveDeadLettersRequest {
                        filter: Some(DeadLetterFilter::default()),
                        reason: reason_of(),
                        ..Default::default()
                    })
                    .await,
            ),
            failed(
                client()
                    .discard_dead_letters(DiscardDeadLettersRequest {
                        filter: Some(DeadLetterFilter::default()),
                        reason: reason_of(),
                        ..Default::default()
                    })
                    .await,
            ),
            failed(client().decide_approval(decision(&reason, "ann")).await),
        ] {
            let expected = format!("`reason` is {bytes} bytes long; at most {MAX_REASON_BYTES} are allowed");
            assert_eq!((error.code, &*error.message), (Code::ValidationFailed, &*expected));
        }
    }
    let search = ListPlansRequest { error_text: "s".repeat(MAX_SEARCH_CHARS + 1), ..Default::default() };
    let error = failed(client().list_plans(search).await);
    assert!(error.message.contains("257 characters long; at most 256 are allowed"), "{error}");
}
