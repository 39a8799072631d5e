//! Approvals: what waits, decisions, and the terms in a plan.

use http::{Method, StatusCode};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode as Code};
use phoenix_proto::planner::{ApprovalDecision, ApprovalTerms};
use serde_json::{Value, json};

use crate::support::{FakePlanner, Stack, plans};

const HASH: &str = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

fn path(action: &str) -> String {
    format!("/api/v1/plans/{}:{action}", FakePlanner::PLAN)
}

fn approval() -> Value {
    json!({
        "state": "approved", "requested_at": "2026-01-31T12:00:00Z", "expires_at": "2026-01-31T13:00:00Z",
        "on_expiry": "reject", "reason": "it writes", "approver": null, "input": {"n": 1.50}, "input_hash": HASH,
        "decision": {
            "at": "2026-01-31T12:01:30Z", "actor": "ann", "reason": null, "correlation_id": plans::CORRELATION,
            "input": {"n": 2},
        },
    })
}

#[tokio::test]
async fn decision_reaches_the_planner_and_returns_the_approval() {
    let stack = Stack::start().await;
    let full = json!({
        "task": "chat", "actor": "ann", "reason": "fine", "input_hash": HASH, "input": {"n": 1.50, "a": {"b": []}}
    });
    let answer = stack.http.post(&path("approve"), &full).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.json(), json!({"plan_id": FakePlanner::PLAN, "task": "chat", "approval": approval()}));
    assert!(answer.text.contains("1.50"), "digits stay: {answer:?}");
    stack.http.post(&path("reject"), &json!({"actor": "bob"})).await;
    let asked = stack.planner.asked.lock().unwrap();
    let [yes, no] = &asked.decisions[..] else { panic!("{asked:?}") };
    assert_eq!((yes.decision(), no.decision()), (ApprovalDecision::Approve, ApprovalDecision::Reject));
    assert_eq!((&*yes.task_key, &*yes.reason, &*yes.input_hash), ("chat", "fine", HASH));
    assert_eq!(yes.input_json, r#"{"a":{"b":[]},"n":1.5}"#);
    assert_eq!(
        (&*no.plan_id, &*no.actor, &*no.task_key, &*no.input_json),
        (FakePlanner::PLAN, "bob", "", "")
    );
}

#[tokio::test]
async fn invalid_decisions_are_rejected_before_the_planner() {
    let stack = Stack::start().await;
    for (action, body, named) in [
        ("approve", json!({}), "actor"),
        ("approve", json!({"actor": 7}), "actor"),
        ("approve", json!({"actor": "ann", "input": [1]}), "input"),
        ("approve", json!({"actor": "ann", "input_hash": "abc"}), "input_hash"),
        ("approve", json!({"actor": "ann", "task": ""}), "task"),
        ("reject", json!({"actor": "ann", "input": {}}), "input"),
        ("reject", json!({"actor": "ann", "why": "x"}), "why"),
    ] {
        let answer = stack.http.post(&path(action), &body).await;
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (StatusCode::BAD_REQUEST, &json!("validation_failed"))
        );
        assert!(answer.text.contains(named), "{answer:?}");
    }
    assert!(stack.planner.asked.lock().unwrap().decisions.is_empty());
    let wrong = stack.http.send(Method::GET, &path("approve"), &[], "").await;
    assert_eq!(wrong.status, StatusCode::METHOD_NOT_ALLOWED);
    stack.planner.fail(OrchestratorError::new(Code::Conflict, "task `a` was rejected before"));
    let late = stack.http.post(&path("approve"), &json!({"actor": "ann"})).await;
    assert_eq!((late.status, &late.json()["code"]), (StatusCode::CONFLICT, &json!("conflict")));
}

#[tokio::test]
async fn listing_shows_what_waits_with_its_age() {
    let stack = Stack::start().await;
    let page = stack.http.get("/api/v1/approvals?page_size=1").await.json();
    let waiting = &page["approvals"][0];
    assert_eq!((&waiting["task"], &waiting["agent"]), (&json!("chat"), &json!("echo_agent")));
    assert_eq!((&waiting["input_preview"], &waiting["input_hash"]), (&json!(r#"{"n":1.50}"#), &json!(HASH)));
    assert!(waiting["age_secs"].as_u64().unwrap() > 0, "{waiting}");
    assert_eq!(page["next_page_token"], "next");
    assert_eq!(stack.http.get("/api/v1/approvals").await.json()["next_page_token"], Value::Null);
    for query in ["page_size=501", "state=open"] {
        let refused = stack.http.get(&format!("/api/v1/approvals?{query}")).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{query}");
    }
}

#[tokio::test]
async fn plan_shows_the_approval_of_a_task() {
    let stack = Stack::start().await;
    let mut plan = plans::running();
    plan.tasks[0].approval = Some(plans::approval());
    stack.planner.keep(plan);
    let shown = stack.http.get(&format!("/api/v1/plans/{}", FakePlanner::PLAN)).await.json();
    assert_eq!(shown["tasks"][0]["approval"], approval());
}

#[tokio::test]
async fn terms_of_a_task_reach_the_planner() {
    let stack = Stack::start().await;
    let plan =
        |approval: Value| json!({"tasks": [{"key": "a", "agent": "echo_agent", "approval": approval}]});
    let terms = ApprovalTerms {
        reason: "it writes".into(),
        approver: "ops".into(),
        timeout_ms: 1000,
        on_expiry: "approve".into(),
    };
    let full = json!({"reason": "it writes", "approver": "ops", "timeout_ms": 1e3, "on_expiry": "approve"});
    let plain = ApprovalTerms { on_expiry: "fail".into(), ..ApprovalTerms::default() };
    for (given, expected) in [
        (json!("required"), Some(ApprovalTerms::default())),
        (full, Some(terms)),
        (json!({}), Some(plain)),
        (Value::Null, None),
    ] {
        stack.http.post("/api/v1/plans", &plan(given)).await;
        assert_eq!(stack.planner.seen().pop().unwrap().request.tasks[0].approval, expected);
    }
    for wrong in [
        json!("optional"),
        json!(true),
        json!(["required"]),
        json!({"timeout_ms": 0}),
        json!({"on_expiry": "x"}),
        json!({"who": "x"}),
    ] {
        let answer = stack.http.post("/api/v1/plans", &plan(wrong.clone())).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}: {answer:?}");
        assert!(answer.text.contains("approval"), "{wrong}: {answer:?}");
    }
}
