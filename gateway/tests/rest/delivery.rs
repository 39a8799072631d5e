//! Asynchronous responses, repeated requests, disconnects.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;

use crate::support::{FakePlanner, Reply, Stack, plans};

const JSON: (&str, &str) = ("content-type", "application/json");
const PLAN: &str = r#"{"tasks":[{"key":"a","agent":"echo_agent","action":"echo"}]}"#;
const CHAT: &str = r#"{"message":"hi"}"#;

#[tokio::test]
async fn respond_async_returns_the_path_of_the_plan() {
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
async fn digest_of_a_key_depends_on_the_request() {
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
async fn cancel_forwards_its_key_and_dry_run_ignores_it() {
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
async fn invalid_key_or_preference_is_rejected_with_correlation_id() {
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
async fn plan_that_continues_has_no_deadline_of_its_caller() {
    let stack = Stack::start_with(|config| config.request_timeout = Duration::from_millis(400)).await;
    stack.planner.reply(Reply::Hang);
    for (path, body) in [("/api/v1/chat", CHAT), ("/api/v1/plans", PLAN)] {
        let path = format!("{path}?on_disconnect=continue");
        let answer = stack.http.send(Method::POST, &path, &[JSON], body).await;
        assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT, "{answer:?}");
        assert!(answer.text.contains("its plan continues"), "{answer:?}");
        let seen = stack.planner.seen().pop().unwrap();
        assert!(seen.request.continue_on_disconnect && seen.context.deadline.is_none(), "{seen:?}");
    }
}

/// Digests that the planner receives for these bodies.
async fn digests(stack: &Stack, bodies: &[String]) -> Vec<String> {
    let before = stack.planner.seen().len();
    for body in bodies {
        let headers = [JSON, ("idempotency-key", "k"), ("prefer", "respond-async")];
        let answer = stack.http.send(Method::POST, "/api/v1/plans", &headers, body).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{body} {answer:?}");
    }
    let seen = stack.planner.seen().split_off(before);
    seen.into_iter().map(|seen| seen.request.idempotency_digest).collect()
}

fn with_input(input: &str) -> String {
    format!(r#"{{"tasks":[{{"key":"a","agent":"echo_agent","input":{input}}}]}}"#)
}

#[tokio::test]
async fn digest_ignores_nulls_defaults_and_the_order_of_members() {
    let stack = Stack::start().await;
    let same = [
        r#"{"tasks":[{"key":"a","agent":"echo_agent"}]}"#,
        r#"{"tasks":[{"agent":"echo_agent","key":"a"}],"context":null,"deadline_ms":null,"correlation_id":null}"#,
        r#"{"tasks":[{"key":"a","agent":"echo_agent","action":"chat","input":{},"depends_on":[],"on_failure":"fail"}]}"#,
        r#"{"tasks":[{"key":"a","agent":"echo_agent","action":null,"input":null,"depends_on":null,"on_failure":null}]}"#,
    ];
    let digests = digests(&stack, &same.map(str::to_owned)).await;
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    // The digest is stable across releases: new members count only when they are given.
    assert_eq!(digests[0], "e778f70142228437f7293672b571cb2e82b42d19bdcf4c58221a70509b4c7654");
}

#[tokio::test]
async fn digest_differs_for_any_value_and_member_name() {
    let stack = Stack::start().await;
    let inputs = [
        "{}",
        r#"{"n":12345678901234567890123}"#,
        r#"{"n":12345678901234567890124}"#,
        r#"{"n":1}"#,
        r#"{"n":"1"}"#,
        r#"{"n":null}"#,
        r#"{"n":[1]}"#,
        r#"{"n":0.1}"#,
        r#"{"n":0.10000000000000001}"#,
        r#"{"n":{"$serde_json::private::RawValue":"1"}}"#,
        r#"{"n":{"$serde_json::private::Number":"1"}}"#,
        r#"{"N":1}"#,
        r#"{"n ":1}"#,
        "{\"n\\u0000\":1}",
    ];
    let mut bodies: Vec<_> = inputs.iter().map(|input| with_input(input)).collect();
    bodies.push(r#"{"tasks":[{"key":"b","agent":"echo_agent"}]}"#.into());
    bodies.push(r#"{"tasks":[{"key":"a","agent":"git_agent"}]}"#.into());
    bodies.push(r#"{"tasks":[{"key":"a","agent":"echo_agent"}],"context":""}"#.into());
    bodies.push(r#"{"tasks":[{"key":"a","agent":"echo_agent"}],"deadline_ms":5}"#.into());
    let digests = digests(&stack, &bodies).await;
    let different: std::collections::BTreeSet<_> = digests.iter().collect();
    assert_eq!(different.len(), bodies.len(), "{digests:#?}");
}

#[tokio::test]
async fn digest_of_a_path_ignores_its_encoding() {
    let stack = Stack::start().await;
    let plan = FakePlanner::PLAN;
    let send = async |id: &str, encoded: bool| {
        stack.planner.keep(plans::running());
        let colon = if encoded { "%3A" } else { ":" };
        let path = format!("/api/v1/plans/{id}{colon}cancel");
        let answer = stack.http.send(Method::POST, &path, &[("idempotency-key", "k")], "").await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        stack.planner.all_cancelled().pop().unwrap().idempotency_digest
    };
    let one = send(plan, false).await;
    assert_eq!(one, send(&plan.to_uppercase(), false).await);
    assert_eq!(one, send(plan, true).await);
}

#[tokio::test]
async fn replayed_response_carries_id_of_the_first_request() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::failed("it broke"));
    *stack.planner.replays.lock().unwrap() = plans::CORRELATION.into();
    let sweep = r#"{"filter":{},"reason":"r"}"#;
    for (path, body, prefer) in [
        ("/api/v1/chat", CHAT, ""),
        ("/api/chat", CHAT, ""),
        ("/api/v1/chat", CHAT, "respond-async"),
        ("/api/v1/plans", PLAN, ""),
        ("/api/v1/dead-letters:redrive", sweep, ""),
        ("/api/v1/dead-letters:discard", sweep, ""),
    ] {
        let headers = [JSON, ("idempotency-key", "k-1"), ("prefer", prefer)];
        let answer = stack.http.send(Method::POST, path, &headers, body).await;
        assert!(answer.status.is_success(), "{answer:?}");
        assert_eq!(answer.header("idempotent-replayed"), "true", "{path}");
        assert_eq!(answer.header("x-correlation-id"), plans::CORRELATION, "{path}");
    }
    // A replayed error has the header, and no detail.
    let error =
        phoenix_domain::OrchestratorError::internal("why").with_detail("replay_of", plans::CORRELATION);
    stack.planner.fail(error);
    let answer =
        stack.http.send(Method::POST, "/api/v1/chat", &[JSON, ("idempotency-key", "k-1")], CHAT).await;
    assert_eq!(answer.header("idempotent-replayed"), "true");
    assert_eq!(
        (&answer.json()["correlation_id"], &answer.json()["error"]["details"]),
        (&plans::CORRELATION.into(), &json!({}))
    );
}
