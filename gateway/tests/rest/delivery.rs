//! Answers now or later, requests that are sent twice, callers that go away.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;

use crate::support::{FakePlanner, Reply, Stack, plans};

const JSON: (&str, &str) = ("content-type", "application/json");
const PLAN: &str = r#"{"tasks":[{"key":"a","agent":"echo_agent","action":"echo"}]}"#;
const CHAT: &str = r#"{"message":"hi"}"#;

#[tokio::test]
async fn whoever_does_not_wait_is_told_where_to_look() {
    let stack = Stack::start().await;
    for (path, body) in [("/api/v1/chat", CHAT), ("/api/v1/plans", PLAN)] {
        let headers = [JSON, ("prefer", "wait=5, respond-async"), ("x-correlation-id", plans::CORRELATION)];
        let answer = stack.http.send(Method::POST, path, &headers, body).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        assert_eq!(answer.header("location"), format!("/api/v1/plans/{}", FakePlanner::PLAN));
        assert_eq!(answer.header("preference-applied"), "respond-async");
        let body = json!({
            "plan_id": FakePlanner::PLAN, "correlation_id": plans::CORRELATION, "status": "pending"
        });
        assert_eq!(answer.json(), body);
    }
    assert_eq!(stack.planner.seen()[1].request.tasks.len(), 1);
}

#[tokio::test]
async fn a_key_stands_for_what_was_asked_with_it() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::succeeded("done"));
    let spaced = r#"{ "tasks" : [{"action":"echo","agent":"echo_agent","key":"a"}]}"#;
    let requests = [
        ("/api/v1/plans", PLAN),
        ("/api/v1/plans", spaced),
        ("/api/v1/plans", r#"{"tasks":[{"key":"b","agent":"echo_agent","action":"echo"}]}"#),
        ("/api/v1/chat", CHAT),
        ("/api/v1/chat", r#"{"message":"ho"}"#),
        ("/api/chat", CHAT),
    ];
    for (path, body) in requests {
        let answer = stack.http.send(Method::POST, path, &[JSON, ("idempotency-key", "k-1")], body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
    let seen = stack.planner.seen();
    assert!(seen.iter().all(|seen| seen.request.idempotency_key == "k-1"));
    let digests: Vec<_> = seen.iter().map(|seen| seen.request.idempotency_digest.as_str()).collect();
    assert_eq!(digests[0], digests[1], "the same, written differently");
    let different: std::collections::BTreeSet<_> = digests[1..].iter().collect();
    assert_eq!(different.len(), 5, "{digests:?}");
}

#[tokio::test]
async fn a_cancellation_may_be_named_too_and_a_dry_run_needs_no_name() {
    let stack = Stack::start().await;
    let key = ("idempotency-key", "k-1");
    stack.planner.keep(plans::running());
    let path = format!("/api/v1/plans/{}:cancel", FakePlanner::PLAN);
    for body in [r#"{"reason":"enough"}"#, r#"{"reason": "enough" }"#, r#"{"reason":"other"}"#] {
        stack.planner.keep(plans::running());
        let answer = stack.http.send(Method::POST, &path, &[JSON, key], body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
    let cancelled = stack.planner.all_cancelled();
    assert!(cancelled.iter().all(|request| request.idempotency_key == "k-1"));
    let digests: Vec<_> = cancelled.iter().map(|request| request.idempotency_digest.as_str()).collect();
    assert_eq!((digests[0], digests[0].len()), (digests[1], 64));
    assert_ne!(digests[0], digests[2]);
    let bad = stack.http.send(Method::POST, &path, &[JSON, ("idempotency-key", "a b")], "{}").await;
    assert_eq!(
        (bad.status, &bad.json()["details"]["field"]),
        (StatusCode::BAD_REQUEST, &"Idempotency-Key".into())
    );

    let answer = stack.http.send(Method::POST, "/api/v1/plans:dryRun", &[JSON, key], PLAN).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

#[tokio::test]
async fn a_key_or_a_wish_that_is_none_is_refused_and_the_answer_has_the_callers_id() {
    let stack = Stack::start().await;
    let long = "k".repeat(256);
    let none: &[(&str, &str)] = &[];
    let body = json!({"message": "hi", "correlation_id": plans::CORRELATION}).to_string();
    for (query, headers, field) in [
        ("", &[("idempotency-key", "")][..], "Idempotency-Key"),
        ("", &[("idempotency-key", "a b")], "Idempotency-Key"),
        ("", &[("idempotency-key", &long)], "Idempotency-Key"),
        ("", &[("idempotency-key", "a"), ("idempotency-key", "b")], "Idempotency-Key"),
        ("?on_disconnect=maybe", none, "on_disconnect"),
        ("?on_disconect=continue", none, "on_disconect"),
    ] {
        let headers = [&[JSON], headers].concat();
        let answer = stack.http.send(Method::POST, &format!("/api/v1/chat{query}"), &headers, &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query} {headers:?}");
        assert_eq!(answer.json()["error"]["details"]["field"], field);
        assert_eq!(answer.json()["correlation_id"], plans::CORRELATION);
    }
    assert!(stack.planner.seen().is_empty());
}

#[tokio::test]
async fn a_plan_that_goes_on_without_its_caller_is_not_bound_by_its_time() {
    let stack = Stack::start_with(|config| config.request_timeout = Duration::from_millis(400)).await;
    stack.planner.reply(Reply::Hang);
    for (path, body) in [("/api/v1/chat", CHAT), ("/api/v1/plans", PLAN)] {
        let path = format!("{path}?on_disconnect=continue");
        let answer = stack.http.send(Method::POST, &path, &[JSON], body).await;
        assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT, "{answer:?}");
        assert!(answer.text.contains("its plan goes on"), "{answer:?}");
        let seen = stack.planner.seen().pop().unwrap();
        assert!(seen.request.continue_on_disconnect && seen.context.deadline.is_none(), "{seen:?}");
    }
}
