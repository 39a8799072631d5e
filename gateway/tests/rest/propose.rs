//! Proposed plans.

use http::{Method, StatusCode};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use phoenix_proto::planner::PlanningStrategy;
use serde_json::json;

use crate::support::{FakePlanner, Stack};

const JSON: (&str, &str) = ("content-type", "application/json");

const PATH: &str = "/api/v1/plans:propose";

#[tokio::test]
async fn proposal_has_a_body_for_a_plan() {
    let stack = Stack::start().await;
    let body = json!({"message": "stage what changed", "strategy": "model", "context": "in main"});
    let answer = stack.http.post(PATH, &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let plan = json!({
        "tasks": [
            {"key": "status", "agent": "git_agent", "action": "git_status"},
            {
                "key": "add", "agent": "git_agent", "action": "git_add", "input": {"paths": ["{{tasks.status.output}}"]},
                "depends_on": ["status"], "approval": {"reason": "proposed by openai/m"}
            }
        ],
        "context": "in main"
    });
    assert_eq!(
        answer.json(),
        json!({
            "strategy": "model", "plan_id": FakePlanner::PLAN, "plan": plan, "waves": [["status"], ["add"]],
            "rounds": 2, "prompt_version": "1", "provider": "openai", "model": "m"
        })
    );
    // The proposed plan is accepted as it is.
    let dry_run = stack.http.post("/api/v1/plans:dryRun", &plan).await;
    assert_eq!((dry_run.status, dry_run.json()), (StatusCode::OK, json!({"waves": [["status"], ["add"]]})));
    let seen = stack.planner.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (seen[0].request.strategy(), &*seen[0].request.message),
        (PlanningStrategy::Model, "stage what changed")
    );
}

#[tokio::test]
async fn strategy_of_a_chat_reaches_the_planner() {
    let stack = Stack::start().await;
    for (body, strategy) in [
        (json!({"message": "hi"}), PlanningStrategy::Configured),
        (json!({"message": "hi", "strategy": null}), PlanningStrategy::Configured),
        (json!({"message": "hi", "strategy": "rules"}), PlanningStrategy::Rules),
        (json!({"message": "hi", "strategy": "auto"}), PlanningStrategy::Auto),
    ] {
        let answer = stack.http.post("/api/v1/chat", &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        assert_eq!(stack.planner.seen().last().unwrap().request.strategy(), strategy, "{body}");
    }
    // A client of another API asks for a model, not for a plan.
    let body = json!({"model": "auto", "messages": [{"role": "user", "content": "hi"}]});
    stack.http.post("/v1/chat/completions", &body).await;
    assert_eq!(stack.planner.seen().last().unwrap().request.strategy(), PlanningStrategy::Unspecified);
    for path in [PATH, "/api/v1/chat"] {
        let answer = stack.http.post(path, &json!({"message": "hi", "strategy": "magic"})).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
        assert!(answer.text.contains("`strategy` must be `rules`, `model` or `auto`"), "{answer:?}");
    }
}

#[tokio::test]
async fn failed_proposal_has_the_answers_of_the_model() {
    let stack = Stack::start().await;
    let error = OrchestratorError::new(OrchestratorErrorCode::PlanningFailed, "no valid plan")
        .with_detail("proposal_1", "Sure!")
        .with_detail("problems_1", "the answer is not JSON");
    stack.planner.fail(error);
    let answer = stack.http.post(PATH, &json!({"message": "hi", "strategy": "model"})).await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{answer:?}");
    let body = answer.json();
    assert_eq!((&body["code"], &body["details"]["proposal_1"]), (&json!("planning_failed"), &json!("Sure!")));
}

#[tokio::test]
async fn key_of_a_proposal_is_forwarded() {
    let stack = Stack::start().await;
    let (body, key) = (json!({"message": "hi"}).to_string(), ("idempotency-key", "k"));
    let answer = stack.http.send(Method::POST, PATH, &[JSON, key], &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    stack.http.send(Method::POST, "/api/v1/chat", &[JSON, key], &body).await;
    let seen = stack.planner.seen();
    let [proposal, chat] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((&*proposal.request.idempotency_key, &*chat.request.idempotency_key), ("k", "k"));
    assert_ne!(proposal.request.idempotency_digest, chat.request.idempotency_digest);
}
