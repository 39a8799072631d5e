//! Redrives and dead letters.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode as Code};
use phoenix_proto::planner::{DeadLetterFilter, DeadLetterState, ListDeadLettersRequest};
use serde_json::{Value, json};

use crate::support::{FakePlanner, Stack, Watch, plans};

const JSON: (&str, &str) = ("content-type", "application/json");
const ASYNC: (&str, &str) = ("prefer", "respond-async");
const OLD: &str = "/api/v1/plans/0190a6c1-5b0e-7cc3-9d6e-000000000001:redrive";
const REDRIVE: &str = "/api/v1/dead-letters:redrive";
const DISCARD: &str = "/api/v1/dead-letters:discard";

#[tokio::test]
async fn redrive_is_forwarded_and_its_new_plan_returned() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::succeeded("done"));
    let body = json!({"input": {"b": {"x": 1}}, "reason": "fixed"});
    let answer = stack.http.post(OLD, &body).await;
    assert_eq!((answer.status, &answer.json()["plan_id"]), (StatusCode::OK, &FakePlanner::PLAN.into()));
    let location = format!("/api/v1/plans/{}", FakePlanner::PLAN);
    for (path, headers, body) in [
        (format!("{OLD}?on_disconnect=continue"), &[JSON, ASYNC][..], body.to_string()),
        (OLD.replace(':', "%3A"), &[ASYNC], String::new()),
    ] {
        let answer = stack.http.send(Method::POST, &path, headers, &body).await;
        assert_eq!(
            (answer.status, answer.header("location")),
            (StatusCode::ACCEPTED, &*location),
            "{answer:?}"
        );
        assert_eq!(answer.json()["status"], "pending");
    }
    let asked = stack.planner.asked.lock().unwrap();
    let [waits, asynchronous, bare] = &asked.redrives[..] else { panic!("three") };
    assert!(OLD.contains(&waits.plan_id) && waits.wait && !waits.continue_on_disconnect, "{waits:?}");
    assert_eq!((waits.inputs_json["b"].as_str(), waits.reason.as_str()), (r#"{"x":1}"#, "fixed"));
    assert!(!asynchronous.wait && asynchronous.continue_on_disconnect, "{asynchronous:?}");
    assert!(bare.inputs_json.is_empty() && bare.reason.is_empty() && !bare.wait, "{bare:?}");
}

#[tokio::test]
async fn failed_new_plan_is_a_response_and_rejected_redrive_an_error() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::failed("again"));
    let failed = OrchestratorError::new(Code::ExecutionFailed, "again");
    stack.planner.fail(failed.with_detail("plan_id", FakePlanner::PLAN));
    let answer = stack.http.post(OLD, &json!({})).await;
    assert_eq!((answer.status, &answer.json()["status"]), (StatusCode::OK, &"failed".into()), "{answer:?}");

    for &code in Code::ALL {
        stack.planner.fail(OrchestratorError::new(code, "why").with_detail("redriven_as", FakePlanner::PLAN));
        for headers in [&[JSON][..], &[JSON, ASYNC]] {
            let answer = stack.http.send(Method::POST, OLD, headers, "{}").await;
            assert_eq!(answer.status.as_u16(), code.http_status(), "{code}");
            assert_eq!(answer.json()["details"]["redriven_as"], FakePlanner::PLAN);
        }
        for (path, body) in
            [(REDRIVE, json!({"filter": {}})), (DISCARD, json!({"filter": {}, "reason": "old"}))]
        {
            assert_eq!(
                stack.http.post(path, &body).await.status.as_u16(),
                code.http_status(),
                "{path} {code}"
            );
        }
        assert_eq!(stack.http.get("/api/v1/dead-letters").await.status.as_u16(), code.http_status());
    }
    for (body, field) in [
        (json!({"inputs": {}}), "inputs"),
        (json!({"input": []}), "input"),
        (json!({"input": {"a": 1}}), "input.a"),
        (json!({"reason": 1}), "reason"),
    ] {
        let answer = stack.http.post(OLD, &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(field), "{field}: {answer:?}");
    }
    assert_eq!(stack.http.post("/api/v1/plans/42:redrive", &json!({})).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn decisions_about_a_plan_follow_its_end_event() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::failed("no"));
    let events =
        [plans::whole(), vec![plans::event(23, "plan_redriven", &json!({"reason": "fixed"}))]].concat();
    stack.planner.watches([Watch::Ends(events.clone()), Watch::Ends(events.clone()), Watch::Breaks(events)]);
    let path = format!("/api/v1/plans/{}/events", FakePlanner::PLAN);
    let kinds = async |headers: &[(&str, &str)]| -> Vec<String> {
        let stream = stack.http.stream(Method::GET, &path, headers, "").await;
        stream.rest().await.into_iter().map(|(_, kind, _)| kind).collect()
    };
    assert_eq!(kinds(&[]).await[3..], ["plan_ended", "plan_redriven"]);
    assert_eq!(kinds(&[("last-event-id", "19")]).await, ["plan_redriven"], "for those who know the end");
    assert_eq!(
        kinds(&[("last-event-id", "17")]).await,
        ["plan_ended", "plan_redriven"],
        "a stream that breaks"
    );
}

#[tokio::test]
async fn dead_letters_are_listed_by_every_filter() {
    let stack = Stack::start().await;
    stack.planner.dead_letters.lock().unwrap().push(plans::dead_letter("the pipe broke"));
    let query = format!(
        "state=redriven&agent=git_agent&code=execution_failed&error_class=io&plan_id={}&correlation_id={}\
         &since=2026-01-31T13:00:00%2B01:00&page_size=500&page_token=abc",
        FakePlanner::PLAN,
        plans::CORRELATION
    );
    let answer = stack.http.get(&format!("/api/v1/dead-letters?{query}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    insta::assert_json_snapshot!("dead_letters", answer.json());
    assert_eq!(stack.http.get("/api/v1/dead-letters?agent=&state=").await.status, StatusCode::OK);
    {
        let asked = stack.planner.asked.lock().unwrap();
        let [filtered, unfiltered] = &asked.lists[..] else { panic!("two calls") };
        let filter = filtered.filter.clone().unwrap();
        assert_eq!(filter.since.map(|since| since.seconds), Some(1_769_860_800));
        let expected = DeadLetterFilter {
            agent: "git_agent".into(),
            code: "execution_failed".into(),
            error_class: "io".into(),
            plan_id: FakePlanner::PLAN.into(),
            correlation_id: plans::CORRELATION.into(),
            since: filter.since,
        };
        assert_eq!(filter, expected);
        assert_eq!((filtered.state(), filtered.page_size), (DeadLetterState::Redriven, 500));
        assert_eq!(filtered.page_token, "abc");
        let all = ListDeadLettersRequest {
            filter: Some(DeadLetterFilter::default()),
            state: DeadLetterState::Open.into(),
            ..Default::default()
        };
        assert_eq!(*unfiltered, all);
    }
    for (query, parameter) in [
        ("state=dead", "state"),
        ("agent=../sh", "agent"),
        ("code=teapot", "code"),
        ("error_class=teapot", "error_class"),
        ("plan_id=42", "plan_id"),
        ("correlation_id=42", "correlation_id"),
        ("since=yesterday", "since"),
        ("page_size=0", "page_size"),
        ("page_size=501", "page_size"),
        ("status=open", "status"),
    ] {
        let answer = stack.http.get(&format!("/api/v1/dead-letters?{query}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
        assert_eq!(answer.json()["details"]["field"], parameter, "{query}");
    }
}

#[tokio::test]
async fn bulk_redrive_and_discard_are_forwarded() {
    let stack = Stack::start().await;
    let id = ("x-correlation-id", plans::CORRELATION);
    let body = json!({
        "filter": {"agent": "git_agent", "since": "2026-01-31T12:00:00Z"}, "rate_per_second": 0.5, "limit": 20,
        "reason": "fixed",
    });
    let answer = stack.http.send(Method::POST, REDRIVE, &[JSON, id], body.to_string()).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
    assert_eq!(answer.header("location"), format!("/api/v1/plans?correlation_id={}", plans::CORRELATION));
    let begun = json!({"sweep_id": FakePlanner::PLAN, "selected": 7, "correlation_id": plans::CORRELATION});
    assert_eq!(answer.json(), begun);
    let body = json!({"filter": {"code": "timeout"}, "reason": "old"});
    let answer = stack.http.send(Method::POST, DISCARD, &[JSON, id], body.to_string()).await;
    let done = json!({"sweep_id": FakePlanner::PLAN, "discarded": 7, "correlation_id": plans::CORRELATION});
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, done));

    let asked = stack.planner.asked.lock().unwrap();
    let redrive = asked.sweeps[0].clone();
    let filter = redrive.filter.unwrap();
    assert_eq!((filter.agent.as_str(), filter.since.unwrap().seconds), ("git_agent", 1_769_860_800));
    assert_eq!((redrive.rate_per_second, redrive.limit, redrive.reason.as_str()), (0.5, 20, "fixed"));
    let discard = asked.discards[0].clone();
    assert_eq!(
        (discard.filter.unwrap().code.as_str(), discard.limit, discard.reason.as_str()),
        ("timeout", 0, "old")
    );
}

#[tokio::test]
async fn error_of_a_bulk_request_names_the_field() {
    let stack = Stack::start().await;
    let with = |extra: Value| {
        let mut body = json!({"filter": {}, "reason": "why"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    for (path, body, field) in [
        (REDRIVE, json!({}), "filter"),
        (DISCARD, json!({"reason": "old"}), "filter"),
        (DISCARD, json!({"filter": {}}), "reason"),
        (REDRIVE, with(json!({"rate_per_second": 0})), "rate_per_second"),
        (REDRIVE, with(json!({"rate_per_second": "fast"})), "rate_per_second"),
        (DISCARD, with(json!({"rate_per_second": 1})), "rate_per_second"),
        (REDRIVE, with(json!({"limit": 0})), "limit"),
        (DISCARD, with(json!({"limit": 0})), "limit"),
        (DISCARD, with(json!({"limit": -1})), "limit"),
        (REDRIVE, with(json!({"filter": {"agent": "../sh"}})), "filter.agent"),
        (DISCARD, with(json!({"filter": {"error_class": "teapot"}})), "filter.error_class"),
        (DISCARD, with(json!({"filter": {"since": "yesterday"}})), "filter.since"),
        (DISCARD, with(json!({"filter": {"status": "open"}})), "status"),
        (REDRIVE, with(json!({"filter": "all"})), "filter"),
    ] {
        let answer = stack.http.post(path, &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(field), "{field}: {answer:?}");
    }
    let asked = stack.planner.asked.lock().unwrap();
    assert!(asked.sweeps.is_empty() && asked.discards.is_empty());
}

#[tokio::test]
async fn redrives_and_bulk_requests_accept_idempotency_keys() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::succeeded("done"));
    let key = ("idempotency-key", "k-1");
    for (path, body) in [
        (OLD, r#"{"reason":"a"}"#),
        (OLD, r#"{"reason" : "a"}"#),
        (OLD, r#"{"reason":"b"}"#),
        (REDRIVE, r#"{"filter":{"agent":"a"}}"#),
        (REDRIVE, r#"{"filter":{"agent":"b"}}"#),
        (DISCARD, r#"{"filter":{"agent":"a"},"reason":"a"}"#),
    ] {
        let answer = stack.http.send(Method::POST, path, &[JSON, key], body).await;
        assert!(answer.status.is_success(), "{answer:?}");
        let bad = stack.http.send(Method::POST, path, &[JSON, ("idempotency-key", "a b")], body).await;
        assert_eq!(
            (bad.status, &bad.json()["details"]["field"]),
            (StatusCode::BAD_REQUEST, &"Idempotency-Key".into())
        );
    }
    let asked = stack.planner.asked.lock().unwrap();
    let redrives = asked.redrives.iter().map(|asked| (&asked.idempotency_key, &asked.idempotency_digest));
    let sweeps = asked.sweeps.iter().map(|asked| (&asked.idempotency_key, &asked.idempotency_digest));
    let discards = asked.discards.iter().map(|asked| (&asked.idempotency_key, &asked.idempotency_digest));
    let named: Vec<_> = redrives.chain(sweeps).chain(discards).collect();
    assert!(named.iter().all(|(key, _)| *key == "k-1"));
    assert_eq!(named[0], named[1], "the same, written differently");
    assert_eq!(named.iter().collect::<BTreeSet<_>>().len(), 5, "{named:?}");
}
