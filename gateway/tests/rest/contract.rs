//! The contract in detail: null for optional members, notations of whole numbers, full paths in errors, and the document.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{FakePlanner, Stack, plans};

const JSON: (&str, &str) = ("content-type", "application/json");

fn action(name: &str) -> String {
    format!("/api/v1/plans/{}:{name}", FakePlanner::PLAN)
}

fn document() -> Value {
    serde_json::to_value(phoenix_gateway::openapi_document()).unwrap()
}

/// Message and field of the error for `body`.
async fn refused(stack: &Stack, path: &str, body: &str) -> (String, String) {
    let answer = stack.http.send(Method::POST, path, &[JSON], body).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body} {answer:?}");
    let json = answer.json();
    let error = if path == "/api/v1/chat" { &json["error"] } else { &json };
    let message = error.get("detail").or(error.get("message")).unwrap();
    (message.as_str().unwrap().into(), error["details"]["field"].as_str().unwrap_or_default().into())
}

#[tokio::test]
async fn null_body_counts_as_absent() {
    let stack = Stack::start().await;
    for (name, body) in
        [("cancel", "null"), ("cancel", " null\n"), ("redrive", "null"), ("cancel", ""), ("cancel", "{}")]
    {
        stack.planner.keep(if name == "cancel" { plans::running() } else { plans::succeeded("done") });
        let answer = stack.http.send(Method::POST, &action(name), &[JSON], body).await;
        assert_eq!(answer.status, StatusCode::OK, "{name} {body:?} {answer:?}");
    }
}

#[tokio::test]
async fn null_member_counts_as_absent() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::succeeded("done"));
    let null = r#"{"tasks":[{"key":"a","agent":"echo_agent","action":null,"input":null,"depends_on":null,"on_failure":null}],"context":null,"correlation_id":null,"deadline_ms":null}"#;
    let absent = r#"{"tasks":[{"key":"a","agent":"echo_agent"}]}"#;
    for body in [null, absent] {
        let answer =
            stack.http.send(Method::POST, "/api/v1/plans", &[JSON, ("idempotency-key", "k")], body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
    let seen: Vec<_> = stack.planner.seen().into_iter().map(|seen| seen.request).collect();
    assert_eq!(seen[0], seen[1], "also under one key");
    assert_eq!((seen[0].tasks[0].action.as_str(), seen[0].tasks[0].input_json.as_str()), ("chat", "{}"));

    let redrive = r#"{"input":{"a":null},"reason":null}"#;
    for (path, body) in [
        (action("redrive"), redrive),
        (action("redrive"), r#"{"input":null}"#),
        (
            "/api/v1/dead-letters:redrive".into(),
            r#"{"filter":{"agent":null,"code":null,"error_class":null,"plan_id":null,"correlation_id":null,"since":null},"rate_per_second":null,"limit":null,"reason":null}"#,
        ),
        ("/api/v1/dead-letters:discard".into(), r#"{"filter":{},"limit":null,"reason":"r"}"#),
        (
            "/api/v1/chat".into(),
            r#"{"message":"hi","context":null,"agent":null,"api_version":null,"correlation_id":null}"#,
        ),
        ("/api/chat".into(), r#"{"message":"hi","context":null}"#),
    ] {
        let answer = stack.http.send(Method::POST, &path, &[JSON], body).await;
        assert!(answer.status.is_success(), "{path} {answer:?}");
    }
    assert!(stack.planner.asked.lock().unwrap().redrives[0].inputs_json.is_empty());
}

#[tokio::test]
async fn every_optional_member_of_the_document_accepts_null() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    for (name, _) in schemas.as_object().unwrap() {
        let schema = &schemas[name];
        let is_request = schema["additionalProperties"] == json!(false);
        let required: Vec<_> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        for (member, schema) in schema["properties"].as_object().into_iter().flatten().filter(|_| is_request)
        {
            let types =
                schema["type"].as_array().map_or(vec![&schema["type"]], |types| types.iter().collect());
            let is_null = |schema: &Value| schema["type"] == "null";
            let nullable = types.contains(&&json!("null"))
                || schema["oneOf"].as_array().is_some_and(|all| all.iter().any(is_null));
            assert_eq!(nullable, !required.contains(&member.as_str()), "{name}.{member}: {schema}");
        }
    }
}

#[tokio::test]
async fn error_names_the_full_path_of_a_member() {
    let stack = Stack::start().await;
    for (body, field) in [
        (r#"{"tasks":[{"key":"a","agent":"x","actoin":"y"}]}"#, "tasks[0].actoin"),
        (r#"{"tasks":[{"key":"a","agent":"x"},{"agent":"x"}]}"#, "tasks[1].key"),
        (r#"{"tasks":[{"key":"a","agent":"x","key":"b"}]}"#, "tasks[0].key"),
        (r#"{"tasks":[{"key":"a","agent":"x","depends_on":[1]}]}"#, "tasks[0].depends_on[0]"),
        (r#"{"tasks":[{"key":"a","agent":"x","on_failure":"stop"}]}"#, "tasks[0].on_failure"),
        (r#"{"tasks":[["a","x","y"]]}"#, "tasks[0]"),
        (r#"{"taks":[]}"#, "taks"),
    ] {
        for path in ["/api/v1/plans", "/api/v1/plans:dryRun"] {
            let (message, named) = refused(&stack, path, body).await;
            assert_eq!(named, field, "{body}");
            assert!(message.starts_with(&format!("`{field}` ")), "{message}");
        }
    }
    let (_, field) =
        refused(&stack, "/api/v1/dead-letters:discard", r#"{"filter":{"agnet":"x"},"reason":"r"}"#).await;
    assert_eq!(field, "filter.agnet");
}

#[tokio::test]
async fn error_of_a_wrong_value_names_the_expected_value() {
    let stack = Stack::start().await;
    let plan =
        |deadline: &str| format!(r#"{{"tasks":[{{"key":"a","agent":"x"}}],"deadline_ms":{deadline}}}"#);
    for (deadline, problem) in [
        ("-1", "must be a whole number of at least 1, not -1"),
        ("0", "must be a whole number of at least 1, not 0"),
        ("1.5", "must be a whole number of at least 1, not 1.5"),
        ("\"1\"", "must be a whole number of at least 1, not a string"),
        ("true", "must be a whole number of at least 1, not true"),
        ("1000000000000000", "must be at most 31536000000, not 1000000000000000"),
    ] {
        let (message, field) = refused(&stack, "/api/v1/plans", &plan(deadline)).await;
        assert_eq!(
            (message.as_str(), field.as_str()),
            (format!("`deadline_ms` {problem}").as_str(), "deadline_ms")
        );
    }
    for (path, body, message) in [
        (
            "/api/v1/dead-letters:discard",
            r#"{"filter":null,"reason":"r"}"#,
            "`filter` must be an object, not null",
        ),
        (
            "/api/v1/dead-letters:discard",
            r#"{"filter":[],"reason":"r"}"#,
            "`filter` must be an object, not an array",
        ),
        (
            "/api/v1/dead-letters:redrive",
            r#"{"filter":{},"limit":0}"#,
            "`limit` must be a whole number of at least 1, not 0",
        ),
        (
            "/api/v1/dead-letters:redrive",
            r#"{"filter":{},"limit":10001}"#,
            "`limit` must be at most 10000, not 10001",
        ),
        (
            "/api/v1/dead-letters:redrive",
            r#"{"filter":{},"rate_per_second":"x"}"#,
            "`rate_per_second` must be a number, not a string",
        ),
        ("/api/v1/plans", r#"{"tasks":{}}"#, "`tasks` must be an array, not an object"),
        (
            "/api/v1/plans",
            r#"{"tasks":[{"key":"a","agent":"x","input":[]}]}"#,
            "`tasks[0].input` must be an object, not an array",
        ),
        (
            "/api/v1/plans",
            r#"{"tasks":[{"key":"a","agent":"x","on_failure":"stop"}]}"#,
            "`tasks[0].on_failure` must be `fail` or `continue`",
        ),
        ("/api/v1/chat", r#"{"message":{"text":"hi"}}"#, "`message` must be a string, not an object"),
    ] {
        assert_eq!(refused(&stack, path, body).await.0, message);
    }
}

/// JSON that no member can hold: the error names the member, and does not call the body invalid JSON.
#[tokio::test]
async fn error_of_a_value_that_cannot_be_carried_names_the_member() {
    let stack = Stack::start().await;
    let digits = "9".repeat(100_000);
    let half = "must not contain half of a surrogate pair";
    let range = "must be a number within the range of a 64-bit float";
    let dollars = "must be an amount of US dollars from 0 to 1000000000, not ";
    for (path, body, field, problem) in [
        ("/api/v1/plans", r#"{"tasks":[],"deadline_ms":1e400}"#, "deadline_ms", range),
        (
            "/api/v1/plans",
            r#"{"tasks":[{"key":"a","agent":"x","delay_ms":-1e400}]}"#,
            "tasks[0].delay_ms",
            range,
        ),
        ("/api/v1/plans", r#"{"tasks":[{"key":"a\ud83d","agent":"x"}]}"#, "tasks[0].key", half),
        ("/api/v1/plans", r#"{"tasks":[{"key":"a","agent":"\udc00x"}]}"#, "tasks[0].agent", half),
        (
            "/api/v1/plans",
            r#"{"tasks":[{"key":"a","agent":"x","input":{"b":["\ud83d\n"]}}]}"#,
            "tasks[0].input",
            half,
        ),
        (
            "/api/v1/plans",
            r#"{"tasks":[{"key":"a","agent":"x","input":{"\ud83d":1}}]}"#,
            "tasks[0].input",
            half,
        ),
        ("/api/v1/plans", r#"{"tasks":[],"context":"\ud83d"}"#, "context", half),
        ("/api/v1/plans", r#"{"tasks":[],"budget":{"max_calls":1e400}}"#, "budget.max_calls", range),
        ("/api/v1/plans", r#"{"tasks":[],"budget":{"max_cost_usd":-1}}"#, "budget.max_cost_usd", dollars),
        (
            "/api/v1/plans",
            &format!(r#"{{"tasks":[],"budget":{{"max_cost_usd":{digits}}}}}"#),
            "budget.max_cost_usd",
            dollars,
        ),
        ("/api/v1/chat", r#"{"message":"\ud83d!"}"#, "message", half),
        ("/api/v1/chat", r#"{"messages":[{"role":"user","content":"\ud83d"}]}"#, "messages", half),
        (
            "/api/v1/dead-letters:redrive",
            r#"{"filter":{},"rate_per_second":1e400}"#,
            "rate_per_second",
            range,
        ),
        (
            "/api/v1/dead-letters:discard",
            r#"{"filter":{"agent":"\udfff"},"reason":"r"}"#,
            "filter.agent",
            half,
        ),
    ] {
        let (message, named) = refused(&stack, path, body).await;
        assert_eq!(named, field, "{message:.300}");
        assert!(message.starts_with(&format!("`{field}` {problem}")), "{message:.300}");
        assert!(message.len() < 200, "{message:.300}");
    }
    let (message, field) = refused(&stack, "/api/v1/plans", r#"{"\ud83d":1}"#).await;
    assert!(message.starts_with("the body must not contain half") && field.is_empty(), "{message}");
    let (message, field) = refused(&stack, "/api/v1/plans", &"[".repeat(10_000)).await;
    assert_eq!((&*message, &*field), ("the body must be an object, not an array", ""));
    assert_eq!(stack.planner.seen().len(), 0);
}

#[tokio::test]
async fn number_with_zero_fraction_is_a_whole_number() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::succeeded("done"));
    for deadline in ["1000", "1000.0", "1e3", "31536000000"] {
        let body = format!(r#"{{"tasks":[{{"key":"a","agent":"echo_agent"}}],"deadline_ms":{deadline}}}"#);
        let answer = stack.http.send(Method::POST, "/api/v1/plans", &[JSON], body).await;
        assert_eq!(answer.status, StatusCode::OK, "{deadline} {answer:?}");
    }
    let deadlines: Vec<_> = stack.planner.seen().iter().map(|seen| seen.request.deadline_ms).collect();
    assert_eq!(deadlines, [1_000, 1_000, 1_000, 31_536_000_000]);
    let schema = &document()["components"]["schemas"]["PlanRequestV1"]["properties"]["deadline_ms"];
    assert_eq!((&schema["minimum"], &schema["maximum"]), (&json!(1), &json!(31_536_000_000_u64)));
}

#[tokio::test]
async fn empty_parameter_counts_as_absent_as_documented() {
    let stack = Stack::start().await;
    for path in [
        "/api/v1/plans?page_size=&status=&agent=&correlation_id=&since=&error=&order=&page_token=",
        "/api/v1/dead-letters?page_size=&state=&agent=&code=&error_class=&plan_id=&correlation_id=&since=&page_token=",
    ] {
        assert_eq!(stack.http.get(path).await.status, StatusCode::OK, "{path}");
    }
    let document = document();
    let mut parameters = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values() {
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                if parameter["in"] != "query" {
                    continue;
                }
                parameters += 1;
                let schema = &parameter["schema"];
                let empty = schema["pattern"] == "^[0-9]{0,18}$"
                    || schema["enum"].as_array().is_some_and(|names| names.contains(&json!("")))
                    || schema["anyOf"]
                        .as_array()
                        .is_some_and(|any| any.iter().any(|one| one["maxLength"] == 0));
                assert!(empty, "{path} {}: {schema}", parameter["name"]);
            }
        }
    }
    assert!(parameters >= 15, "{parameters}");
}

#[tokio::test]
async fn document_has_the_patterns_of_the_server() {
    let document = document();
    let schema =
        |pointer: &str| document.pointer(&format!("/components/schemas/{pointer}")).unwrap_or(&Value::Null);
    assert_eq!(schema("TaskRequestV1/properties/key/pattern"), "^[A-Za-z0-9_-]{1,64}$");
    assert_eq!(schema("TaskRequestV1/properties/depends_on/items/pattern"), "^[A-Za-z0-9_-]{1,64}$");
    assert_eq!(schema("TaskRequestV1/properties/agent/pattern"), "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$");
    assert_eq!(schema("ChatRequestV1/properties/agent/pattern"), "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$");
    assert!(schema("TaskRequestV1/properties/action/pattern").is_string());
    let codes = schema("DeadLetterFilterV1/properties/code/enum").as_array().unwrap();
    assert!(codes.contains(&json!("execution_failed")) && codes.contains(&Value::Null));
    let classes = schema("DeadLetterFilterV1/properties/error_class/enum").as_array().unwrap();
    assert!(classes.contains(&json!("backend_failure")));

    let stack = Stack::start().await;
    for parameter in document["paths"]["/api/v1/plans"]["get"]["parameters"].as_array().unwrap() {
        for name in parameter["schema"]["enum"].as_array().into_iter().flatten() {
            let path =
                format!("/api/v1/plans?{}={}", parameter["name"].as_str().unwrap(), name.as_str().unwrap());
            assert_eq!(stack.http.get(&path).await.status, StatusCode::OK, "{path}");
        }
    }
}

#[test]
fn schema_of_an_event_stream_lists_its_events() {
    let document = document();
    for (pointer, answer) in [
        ("/paths/~1api~1v1~1chat/post/responses/200/content/text~1event-stream", true),
        ("/paths/~1api~1v1~1plans~1{plan_id}~1events/get/responses/200/content/text~1event-stream", false),
    ] {
        let content = document.pointer(pointer).unwrap();
        assert!(content["schema"]["type"].as_array().unwrap().contains(&json!("string")), "{content}");
        let events = content["x-events"].as_object().unwrap();
        assert_eq!(events["plan_ended"]["$ref"], "#/components/schemas/PlanEventV1");
        assert_eq!(events.get("response").is_some(), answer);
        if answer {
            assert_eq!(events["response"]["$ref"], "#/components/schemas/ChatResponseV1");
        }
    }
}

#[tokio::test]
async fn error_of_a_time_with_plus_sign_shows_the_encoding() {
    let stack = Stack::start().await;
    for path in ["/api/v1/plans", "/api/v1/dead-letters"] {
        let answer = stack.http.get(&format!("{path}?since=2026-01-31T12:00:00+02:00")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(answer.json()["detail"].as_str().unwrap().contains("`%2B`"), "{answer:?}");
        let answer = stack.http.get(&format!("{path}?since=2026-01-31T12:00:00%2B02:00")).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
}

#[tokio::test]
async fn documented_failures_are_those_of_the_server() {
    let document = document();
    let example = |path: &str, method: &str, status: &str| {
        let content = &document["paths"][path][method]["responses"][status]["content"];
        content["application/problem+json"]["example"]["detail"]
            .as_str()
            .unwrap_or_else(|| panic!("{path} {status}"))
            .to_owned()
    };
    let stack = Stack::start().await;
    let said = async |method: Method, path: &str, headers: &[(&str, &str)], body: &str| {
        stack.http.send(method, path, headers, body).await.json()["detail"].as_str().unwrap().to_owned()
    };
    let too_large = " ".repeat(1024 * 1024 + 1);
    assert_eq!(
        said(Method::POST, "/api/v1/plans", &[JSON], &too_large).await,
        example("/api/v1/plans", "post", "413")
    );
    assert_eq!(
        said(Method::POST, "/api/v1/plans", &[("content-type", "text/plain")], "x").await,
        example("/api/v1/plans", "post", "415")
    );
    assert_eq!(
        said(Method::POST, &action("cancel"), &[("origin", "https://evil.example")], "").await,
        example("/api/v1/plans/{plan_id}:cancel", "post", "403")
    );
    assert_eq!(
        said(Method::GET, "/api/v1/agents", &[("host", "evil.example")], "").await,
        example("/api/v1/agents", "get", "421")
    );
    assert_eq!(
        said(Method::GET, "/api/v1/agents", &[("x-correlation-id", "42")], "").await,
        example("/api/v1/agents", "get", "400")
    );
    let guarded = Stack::start_with(|config| config.api_token = Some("s3cret".to_owned().into())).await;
    let answer = guarded.http.send(Method::GET, "/api/v1/agents", &[("authorization", "Bearer x")], "").await;
    assert_eq!(answer.json()["detail"], example("/api/v1/agents", "get", "401"));
}
