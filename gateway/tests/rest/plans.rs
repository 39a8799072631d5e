//! Plans: created, read, listed, cancelled.

use http::{Method, StatusCode};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use serde_json::{Value, json};

use crate::support::{FakePlanner, Reply, Stack, plans};

const JSON: (&str, &str) = ("content-type", "application/json");
const UNKNOWN: &str = "0190a6c1-5b0e-7cc3-9d6e-ffffffffffff";

fn two_tasks() -> Value {
    json!({
        "tasks": [
            {"key": "a", "agent": "git_agent", "action": "git_status"},
            {
                "key": "b", "agent": "obsidian_agent", "action": "create_note", "on_failure": "continue",
                "input": {"text": "{{tasks.a.output}}"}, "depends_on": ["a"],
            },
        ],
        "context": "be brief", "correlation_id": plans::CORRELATION, "deadline_ms": 5_000,
    })
}

fn path(rest: &str) -> String {
    format!("/api/v1/plans/{}{rest}", FakePlanner::PLAN)
}

#[tokio::test]
async fn plan_is_forwarded_and_returned_with_its_tasks() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::succeeded("done"));
    let answer = stack.http.post("/api/v1/plans", &two_tasks()).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    assert_eq!(answer.header("x-correlation-id"), plans::CORRELATION);
    insta::assert_json_snapshot!("plan", answer.json());

    let request = stack.planner.seen().remove(0).request;
    assert_eq!(
        (request.context.as_str(), request.deadline_ms, request.message.as_str()),
        ("be brief", 5_000, "")
    );
    assert!(!request.continue_on_disconnect && request.idempotency_key.is_empty());
    let [a, b] = &request.tasks[..] else { panic!("{request:?}") };
    assert_eq!((a.key.as_str(), a.agent.as_str(), a.action.as_str()), ("a", "git_agent", "git_status"));
    assert_eq!((a.input_json.as_str(), a.continue_on_failure, b.continue_on_failure), ("{}", false, true));
    assert_eq!(
        (b.input_json.as_str(), &b.depends_on[..]),
        (r#"{"text":"{{tasks.a.output}}"}"#, &["a".to_owned()][..])
    );
}

#[tokio::test]
async fn plan_that_comes_with_its_result_is_not_read() {
    let stack = Stack::start().await;
    *stack.planner.at_hand.lock().unwrap() = Some(plans::succeeded("at hand"));
    // The planner has no plan that could be read.
    let answer = stack.http.post("/api/v1/plans", &two_tasks()).await;
    assert_eq!((answer.status, &answer.json()["output"]), (StatusCode::OK, &"at hand".into()), "{answer:?}");
    assert!(stack.planner.seen().remove(0).request.with_plan);
}

#[tokio::test]
async fn failed_plan_is_a_response_and_rejected_plan_an_error() {
    let stack = Stack::start().await;
    let error = |code| OrchestratorError::new(code, "why").with_detail("plan_id", FakePlanner::PLAN);
    stack.planner.keep(plans::failed("`git_agent` failed"));
    stack.planner.fail(error(OrchestratorErrorCode::ExecutionFailed));
    let answer = stack.http.post("/api/v1/plans", &two_tasks()).await;
    assert_eq!((answer.status, &answer.json()["status"]), (StatusCode::OK, &"failed".into()), "{answer:?}");
    assert_eq!(answer.json()["error"]["message"], "`git_agent` failed");

    // Another request with the same key still runs.
    stack.planner.keep(plans::running());
    let again = std::time::Duration::from_secs(1);
    stack.planner.fail(error(OrchestratorErrorCode::Conflict).with_retry_after(again));
    let answer = stack.http.post("/api/v1/plans", &two_tasks()).await;
    assert_eq!((answer.status, answer.header("retry-after")), (StatusCode::CONFLICT, "1"), "{answer:?}");

    for &code in OrchestratorErrorCode::ALL {
        stack.planner.fail(OrchestratorError::new(code, "why").with_detail("key", "a"));
        for path in ["/api/v1/plans", "/api/v1/plans:dryRun"] {
            let answer = stack.http.post(path, &two_tasks()).await;
            assert_eq!(answer.status.as_u16(), code.http_status(), "{path} {code}");
            assert_eq!(answer.header("content-type"), "application/problem+json");
            assert_eq!(
                (&answer.json()["code"], &answer.json()["details"]["key"]),
                (&code.as_str().into(), &"a".into())
            );
        }
    }
}

#[tokio::test]
async fn dry_run_returns_the_order_and_runs_nothing() {
    let stack = Stack::start().await;
    let answer = stack.http.post("/api/v1/plans:dryRun", &two_tasks()).await;
    assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({"waves": [["a"], ["b"]]})));
    assert!(stack.planner.seen().is_empty());
}

#[tokio::test]
async fn error_of_a_plan_names_the_field() {
    let stack = Stack::start().await;
    let task = |extra: Value| {
        let mut task = json!({"key": "a", "agent": "git_agent", "action": "git_status"});
        task.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"tasks": [task]})
    };
    for (body, field) in [
        (json!({}), "tasks"),
        (json!({"tasks": []}), "tasks"),
        (json!({"tasks": [], "message": "hi"}), "message"),
        (json!({"tasks": [{"agent": "a", "action": "b"}]}), "key"),
        (task(json!({"agent": "../sh"})), "tasks[0].agent"),
        (task(json!({"input": "text"})), "tasks[0].input"),
        (task(json!({"on_failure": "ignore"})), "on_failure"),
        (task(json!({"depends_on": "b"})), "tasks[0].depends_on"),
        (task(json!({"retries": 3})), "retries"),
        (json!({"tasks": task(json!({}))["tasks"], "deadline_ms": 0}), "deadline_ms"),
        (json!({"tasks": task(json!({}))["tasks"], "deadline_ms": -1}), "deadline_ms"),
        (json!({"tasks": task(json!({}))["tasks"], "correlation_id": "42"}), "correlation_id"),
        (json!({"tasks": task(json!({}))["tasks"], "context": "x".repeat(262_145)}), "context"),
    ] {
        for path in ["/api/v1/plans", "/api/v1/plans:dryRun"] {
            let answer = stack.http.post(path, &body).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
            assert!(answer.json()["detail"].as_str().unwrap().contains(field), "{field}: {answer:?}");
        }
    }
    assert!(stack.planner.seen().is_empty(), "nothing was planned");
}

#[tokio::test]
async fn plans_are_listed_by_every_filter() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::succeeded("done"));
    let query = format!(
        "status=failed&agent=git_agent&correlation_id={}&since=2026-01-31T13:00:00%2B01:00&page_size=500&page_token=abc",
        plans::CORRELATION
    );
    let answer = stack.http.get(&format!("/api/v1/plans?{query}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let page = answer.json();
    assert_eq!(page["next_page_token"], FakePlanner::PLAN);
    assert_eq!((&page["plans"][0]["status"], page["plans"][0].get("tasks")), (&"succeeded".into(), None));

    let answer = stack.http.get("/api/v1/plans?status=&agent=&page_token=").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let [filtered, unfiltered] = &stack.planner.listed()[..] else { panic!("two calls") };
    assert_eq!(filtered.status(), phoenix_proto::planner::PlanStatus::Failed);
    assert_eq!(
        (filtered.agent.as_str(), filtered.page_token.as_str(), filtered.page_size),
        ("git_agent", "abc", 500)
    );
    assert_eq!(filtered.correlation_id.as_deref(), Some(plans::CORRELATION));
    assert_eq!(filtered.since.map(|since| since.seconds), Some(1_769_860_800));
    assert_eq!(*unfiltered, phoenix_proto::planner::ListPlansRequest::default());

    for (query, parameter) in [
        ("status=done", "status"),
        ("agent=../sh", "agent"),
        ("correlation_id=42", "correlation_id"),
        ("since=yesterday", "since"),
        ("page_size=0", "page_size"),
        ("page_size=501", "page_size"),
        ("page_size=many", "page_size"),
        ("sort=up", "sort"),
        ("status=failed&status=failed", "status"),
    ] {
        let answer = stack.http.get(&format!("/api/v1/plans?{query}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
        assert_eq!(answer.json()["details"]["field"], parameter, "{query}");
    }
    assert_eq!(stack.planner.listed().len(), 2);
}

#[tokio::test]
async fn plan_is_found_by_id_and_cancelled_once() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::running());
    let answer = stack.http.get(&path("")).await;
    assert_eq!((answer.status, &answer.json()["status"]), (StatusCode::OK, &"running".into()), "{answer:?}");
    let timeline = &answer.json()["tasks"][0]["timeline"];
    assert_eq!((&timeline["queue_ms"], &timeline["run_ms"]), (&100.into(), &200.into()));
    assert!(timeline["backoff_ms"].as_u64().unwrap() > 1_000, "it waits for its next attempt: {timeline}");

    let answer = stack.http.post(&path(":cancel"), &json!({"reason": "not needed"})).await;
    assert_eq!(
        (answer.status, &answer.json()["status"]),
        (StatusCode::OK, &"cancelled".into()),
        "{answer:?}"
    );
    assert_eq!(stack.planner.first_cancelled().await.reason, "not needed");
    let answer = stack.http.send(Method::POST, &path("%3Acancel"), &[], "").await;
    assert_eq!(
        (answer.status, &answer.json()["code"]),
        (StatusCode::CONFLICT, &"conflict".into()),
        "{answer:?}"
    );
    assert_eq!(answer.header("retry-after"), "", "it won't change");

    let unknown = |rest| format!("/api/v1/plans/{UNKNOWN}{rest}");
    for (method, path, status) in [
        (Method::GET, unknown(""), StatusCode::NOT_FOUND),
        (Method::GET, unknown("/events"), StatusCode::NOT_FOUND),
        (Method::POST, unknown(":cancel"), StatusCode::NOT_FOUND),
        (Method::POST, path(":stop"), StatusCode::NOT_FOUND),
        (Method::POST, path(""), StatusCode::METHOD_NOT_ALLOWED),
        (Method::GET, "/api/v1/plans/42".into(), StatusCode::BAD_REQUEST),
        (Method::GET, "/api/v1/plans/%ff/events".into(), StatusCode::BAD_REQUEST),
        (Method::POST, "/api/v1/plans/42:cancel".into(), StatusCode::BAD_REQUEST),
        (Method::DELETE, path(""), StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let answer = stack.http.send(method.clone(), &path, &[], "").await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.header("content-type"), "application/problem+json", "{method} {path}");
    }
    let answer = stack.http.send(Method::POST, &path(":cancel"), &[JSON], r#"{"why":1}"#).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn invalid_plan_of_planner_is_internal() {
    let stack = Stack::start().await;
    let mut plan = plans::running();
    plan.tasks[0].input_json = "[".into();
    stack.planner.keep(plan);
    stack.planner.reply(Reply::Nonsense);
    for answer in [stack.http.get(&path("")).await, stack.http.post("/api/v1/plans", &two_tasks()).await] {
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer.json()["detail"], "the planner answered in an unexpected way");
    }
}

#[tokio::test]
async fn listing_is_ordered_and_searched_within_limits() {
    let stack = Stack::start().await;
    let path = "/api/v1/plans?status=unfinished&order=oldest&error=Pipe%20broke";
    assert_eq!(stack.http.get(path).await.status, StatusCode::OK);
    let listed = stack.planner.listed().remove(0);
    assert_eq!(
        (listed.unfinished, listed.oldest_first, listed.error_text.as_str(), listed.status),
        (true, true, "Pipe broke", 0)
    );
    for (query, problem) in [
        ("order=random".to_owned(), "`order` must be `newest` or `oldest`"),
        (format!("error={}", "x".repeat(257)), "`error` is 257 characters long; at most 256 are allowed"),
        ("status=stuck".to_owned(), "`unfinished`"),
    ] {
        let answer = stack.http.get(&format!("/api/v1/plans?{query}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
        assert!(answer.text.contains(problem), "{}", answer.text);
    }
    assert_eq!(stack.planner.listed().len(), 1, "a refused request reaches no planner");
}
