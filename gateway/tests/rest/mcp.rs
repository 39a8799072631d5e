//! Phoenix as a server of the Model Context Protocol.

use http::{Method, StatusCode};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode as Code, health::HealthState};
use serde_json::{Value, json};

use crate::support::{Answer, FakePlanner, Reply, Stack, Watch, agent, plans};

pub(crate) const JSON: (&str, &str) = ("content-type", "application/json");
pub(crate) const BOTH: (&str, &str) = ("accept", "application/json, text/event-stream");
pub(crate) const SESSION: (&str, &str) = ("mcp-session-id", "a-session");
pub(crate) const MODERN: &str = "2026-07-28";

pub(crate) fn request(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
}

/// A message of a client with a handshake.
async fn legacy(stack: &Stack, method: &str, params: &Value) -> Answer {
    stack.http.send(Method::POST, "/mcp", &[JSON, BOTH, SESSION], request(method, params).to_string()).await
}

pub(crate) fn with_meta(params: &Value) -> Value {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {},
    });
    let mut params = params.clone();
    params["_meta"] = meta;
    params
}

/// A message of a client without a handshake.
pub(crate) async fn modern(stack: &Stack, method: &str, params: &Value) -> Answer {
    let name = params["name"].as_str().unwrap_or_default();
    let headers = [JSON, BOTH, ("mcp-protocol-version", MODERN), ("mcp-method", method), ("mcp-name", name)];
    let body = request(method, &with_meta(params)).to_string();
    stack.http.send(Method::POST, "/mcp", &headers, body).await
}

pub(crate) fn call(name: &str, arguments: &Value) -> Value {
    json!({"name": name, "arguments": arguments})
}

/// The result of a call that a client with a handshake makes.
async fn result(stack: &Stack, name: &str, arguments: &Value) -> Value {
    let answer = legacy(stack, "tools/call", &call(name, arguments)).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()["result"].clone()
}

#[tokio::test]
async fn client_with_a_handshake_lists_and_calls_tools() {
    let stack = Stack::start().await;
    for (version, agreed) in
        [("2025-06-18", "2025-06-18"), ("1999-01-01", "2025-11-25"), (MODERN, "2025-11-25")]
    {
        let params = json!({"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
        let answer = stack.http.post("/mcp", &request("initialize", &params)).await;
        let result = &answer.json()["result"];
        assert_eq!(
            (&result["protocolVersion"], &result["serverInfo"]["name"]),
            (&json!(agreed), &json!("phoenix"))
        );
        assert_eq!(answer.header("mcp-session-id").len(), 36, "{answer:?}");
    }
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string();
    let answer = stack.http.send(Method::POST, "/mcp", &[JSON, SESSION], initialized).await;
    assert_eq!((answer.status, answer.text.as_str()), (StatusCode::ACCEPTED, ""));
    let pong = legacy(&stack, "ping", &json!({})).await;
    assert_eq!(pong.json(), json!({"jsonrpc": "2.0", "id": 7, "result": {}}));

    let tools = legacy(&stack, "tools/list", &json!({})).await.json()["result"]["tools"].clone();
    let names: Vec<_> = tools.as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["chat", "run_plan", "get_plan", "cancel_plan", "list_agents"]);

    stack.planner.reply(Reply::Output("clean".into()));
    let answer =
        legacy(&stack, "tools/call", &call("chat", &json!({"message": "hi", "agent": "git_agent"}))).await;
    let (result, id) = (&answer.json()["result"], answer.header("x-correlation-id"));
    assert_eq!(
        *result,
        json!({
            "content": [{"type": "text", "text": "clean"}],
            "structuredContent": {"plan_id": FakePlanner::PLAN, "correlation_id": id, "output": "clean"},
            "_meta": {"phoenix/plan_id": FakePlanner::PLAN, "phoenix/correlation_id": id},
        })
    );
    assert_eq!(answer.header("content-type"), "application/json");
    let seen = stack.planner.seen().remove(0);
    assert_eq!((seen.request.message.as_str(), seen.request.agent.as_deref()), ("hi", Some("git_agent")));
    assert_eq!(seen.id().to_string(), id);
}

#[tokio::test]
async fn client_without_a_handshake_discovers_and_calls_tools() {
    let stack = Stack::start().await;
    let found = modern(&stack, "server/discover", &json!({})).await.json()["result"].clone();
    assert_eq!((&found["supportedVersions"][0], &found["resultType"]), (&json!(MODERN), &json!("complete")));
    let list = modern(&stack, "tools/list", &json!({})).await.json()["result"].clone();
    assert!(list["ttlMs"].as_u64().is_some() && list["cacheScope"] == "private", "{list}");
    let answer = modern(&stack, "tools/call", &call("chat", &json!({"message": "hi"}))).await;
    let result = &answer.json()["result"];
    assert_eq!((&result["resultType"], &result["content"][0]["text"]), (&json!("complete"), &json!("done")));
    assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "phoenix");
    for method in ["initialize", "ping", "resources/list", "x"] {
        let answer = modern(&stack, method, &json!({})).await;
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (StatusCode::NOT_FOUND, &json!(-32601)));
        assert_eq!(answer.json()["id"], 7);
    }
}

#[tokio::test]
async fn message_that_is_not_understood_is_an_error_of_the_protocol() {
    let stack = Stack::start().await;
    let refused =
        |answer: &Answer| (answer.status.as_u16(), answer.json()["error"]["code"].as_i64().unwrap());
    for (body, expected) in [
        ("{", (400, -32700)),
        ("[]", (400, -32600)),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, (400, -32600)),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, (400, -32602)),
        (r#"{"jsonrpc":"2.0","id":1,"method":"resources/list"}"#, (200, -32601)),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"no_such_tool"}}"#, (200, -32602)),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"chat","arguments":[]}}"#,
            (200, -32602),
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"x"}}"#, (400, -32602)),
    ] {
        let answer = stack.http.send(Method::POST, "/mcp", &[JSON, BOTH], body).await;
        assert_eq!(refused(&answer), expected, "{body} {answer:?}");
    }
    let version = ("mcp-protocol-version", "1999-01-01");
    let answer = stack
        .http
        .send(Method::POST, "/mcp", &[JSON, version], request("ping", &json!({})).to_string())
        .await;
    assert_eq!(refused(&answer), (400, -32022));
    assert_eq!(answer.json()["error"]["data"]["requested"], "1999-01-01");
    let body = with_meta(&json!({}));
    let headers = [JSON, ("mcp-protocol-version", MODERN), ("mcp-method", "ping")];
    let answer =
        stack.http.send(Method::POST, "/mcp", &headers, request("tools/list", &body).to_string()).await;
    assert_eq!(refused(&answer), (400, -32020));
    let large = request("ping", &json!({"x": "x".repeat(1024 * 1024)})).to_string();
    let answer = stack.http.send(Method::POST, "/mcp", &[JSON], large).await;
    assert_eq!(refused(&answer), (413, -32600));
    let text = stack.http.send(Method::POST, "/mcp", &[("content-type", "text/plain")], "{}").await;
    assert_eq!(refused(&text), (415, -32600));
    assert!(stack.planner.seen().is_empty());
}

#[tokio::test]
async fn endpoint_takes_posts_of_trusted_senders_only() {
    let stack = Stack::start_with(|config| config.api_token = Some("s3cret".to_owned().into())).await;
    let body = request("ping", &json!({})).to_string();
    let token = ("authorization", "Bearer s3cret");
    for method in [Method::GET, Method::DELETE] {
        let answer = stack.http.send(method, "/mcp", &[token, ("accept", "text/event-stream")], "").await;
        assert_eq!((answer.status, answer.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "POST"));
        assert_eq!(answer.json()["error"]["code"], -32600);
    }
    let answer = stack.http.send(Method::POST, "/mcp", &[JSON], &body).await;
    assert_eq!((answer.status, answer.header("www-authenticate")), (StatusCode::UNAUTHORIZED, "Bearer"));
    assert_eq!(answer.json()["error"]["data"]["code"], "unauthenticated");
    let evil = ("origin", "https://evil.example");
    let answer = stack.http.send(Method::POST, "/mcp", &[JSON, token, evil], &body).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let answer = stack.http.send(Method::POST, "/mcp", &[JSON, token], &body).await;
    assert_eq!(answer.status, StatusCode::OK);

    let open = Stack::start().await;
    let answer = open.http.send(Method::POST, "/mcp", &[JSON, ("host", "evil.example")], &body).await;
    assert_eq!(
        answer.status,
        StatusCode::MISDIRECTED_REQUEST,
        "a page may resolve its own name to 127.0.0.1"
    );
}

#[tokio::test]
async fn call_that_fails_has_a_result_that_a_model_can_read() {
    let stack = Stack::start().await;
    let error = OrchestratorError::new(Code::Overloaded, "agent `a` is at capacity")
        .with_detail("agent", "a")
        .with_retry_after(std::time::Duration::from_secs(2));
    stack.planner.fail(error);
    let failed = result(&stack, "chat", &json!({"message": "hi"})).await;
    assert_eq!(failed["isError"], true);
    assert_eq!(failed["content"][0]["text"], "overloaded: agent `a` is at capacity");
    let structured = &failed["structuredContent"];
    assert_eq!(structured["error"]["code"], "overloaded");
    assert_eq!(
        (&structured["error"]["details"]["agent"], &structured["retry_after_ms"]),
        (&json!("a"), &json!(2000))
    );
    for (tool, arguments, words) in [
        ("chat", json!({}), "`message`"),
        ("chat", json!({"message": 7}), "`message` must be a string"),
        ("chat", json!({"massage": "hi"}), "`massage` is not a known field"),
        ("run_plan", json!({"tasks": []}), "`tasks` must hold at least one task"),
        ("run_plan", json!({"tasks": [], "wait": 1}), "`wait` must be a boolean"),
        ("get_plan", json!({"plan_id": "x"}), "`plan_id` must be a UUID"),
        ("get_plan", json!({"plan_id": plans::CORRELATION}), "there is no plan"),
        ("list_agents", json!({"agent": "-"}), "`agent` must be"),
    ] {
        let failed = result(&stack, tool, &arguments).await;
        let text = failed["content"][0]["text"].as_str().unwrap();
        assert!(failed["isError"] == true && text.contains(words), "{tool} {arguments}: {text}");
    }
}

#[tokio::test]
async fn plan_is_run_shown_and_cancelled() {
    let stack = Stack::start().await;
    let tasks = json!([{"key": "a", "agent": "echo_agent", "input": {"message": "hi"}}]);
    stack.planner.keep(plans::succeeded("done"));
    stack.planner.watches([Watch::Ends(plans::whole())]);
    let ran = result(&stack, "run_plan", &json!({"tasks": tasks, "deadline_ms": 5000})).await;
    assert_eq!(
        (&ran["structuredContent"]["status"], &ran["isError"]),
        (&json!("succeeded"), &Value::Null),
        "{ran}"
    );
    assert_eq!(
        ran["content"][0]["text"].as_str().unwrap().parse::<Value>().unwrap(),
        ran["structuredContent"]
    );
    let seen = stack.planner.seen().remove(0).request;
    assert_eq!((seen.deadline_ms, seen.tasks[0].agent.as_str()), (5000, "echo_agent"));

    stack.planner.keep(plans::failed("it broke"));
    stack.planner.watches([Watch::Ends(plans::whole())]);
    let failed = result(&stack, "run_plan", &json!({"tasks": tasks})).await;
    assert_eq!(
        (&failed["structuredContent"]["status"], &failed["isError"]),
        (&json!("failed"), &json!(true))
    );

    let started = result(&stack, "run_plan", &json!({"tasks": tasks, "wait": false})).await;
    assert_eq!(started["structuredContent"]["plan_id"], FakePlanner::PLAN);
    stack.planner.keep(plans::running());
    let plan = json!({"plan_id": FakePlanner::PLAN});
    assert_eq!(result(&stack, "get_plan", &plan).await["structuredContent"]["status"], "running");
    let cancel = json!({"plan_id": FakePlanner::PLAN, "reason": "enough"});
    result(&stack, "cancel_plan", &cancel).await;
    assert_eq!(stack.planner.first_cancelled().await.reason, "enough");
}

#[tokio::test]
async fn progress_is_streamed_before_the_result() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::succeeded("done"));
    let report =
        plans::event(0, "progress", &json!({"attempt": 1, "progress": 3, "total": 4, "message": "reading"}));
    let mut events = plans::whole();
    events.insert(2, report);
    stack.planner.watches([Watch::Ends(events)]);
    let mut params = call("chat", &json!({"message": "hi"}));
    params["_meta"] = json!({"progressToken": "p"});
    let body = request("tools/call", &params).to_string();
    let stream = stack.http.stream(Method::POST, "/mcp", &[JSON, BOTH, SESSION], body).await;
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    assert_eq!(
        (&stream.headers["x-accel-buffering"], &stream.headers["x-phoenix-plan-id"]),
        (&"no".parse().unwrap(), &FakePlanner::PLAN.parse().unwrap())
    );
    let messages: Vec<Value> = stream.rest().await.into_iter().map(|(_, _, data)| data).collect();
    let [accepted, reading, answer] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!(
        (&accepted["method"], &accepted["params"]["progressToken"]),
        (&json!("notifications/progress"), &json!("p"))
    );
    assert_eq!(
        reading["params"],
        json!({"progressToken": "p", "progress": 3.0, "total": 4.0, "message": "reading"})
    );
    assert_eq!((&answer["id"], &answer["result"]["content"][0]["text"]), (&json!(7), &json!("done")));
}

#[tokio::test]
async fn closed_response_cancels_the_plan() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::running());
    stack.planner.watches([Watch::Stays(plans::whole()[..2].to_vec())]);
    let mut params = call("chat", &json!({"message": "hi"}));
    params["_meta"] = json!({"progressToken": 1});
    let body = request("tools/call", &params).to_string();
    let mut stream = stack.http.stream(Method::POST, "/mcp", &[JSON, BOTH, SESSION], body).await;
    assert!(stream.next().await.is_some());
    drop(stream);
    stack.planner.has_lost(1).await;
}

#[tokio::test]
async fn cancelled_notification_cancels_the_plan_of_the_call() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::running());
    let body = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7, "reason": "enough"}});
    let answer = stack.http.send(Method::POST, "/mcp", &[JSON, SESSION], body.to_string()).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let cancelled = stack.planner.first_cancelled().await;
    assert_eq!((cancelled.plan_id.as_str(), cancelled.reason.as_str()), (FakePlanner::PLAN, "enough"));
    let looked_for = stack.planner.listed()[0].correlation_id.clone().unwrap();
    let called =
        legacy(&stack, "tools/call", &call("get_plan", &json!({"plan_id": FakePlanner::PLAN}))).await;
    assert_eq!(called.header("x-correlation-id"), looked_for, "the same session and request id");
    let headers = [JSON, BOTH, ("mcp-session-id", "another")];
    let body = request("tools/call", &call("list_agents", &json!({}))).to_string();
    let other = stack.http.send(Method::POST, "/mcp", &headers, body).await;
    assert_ne!(other.header("x-correlation-id"), looked_for);
}

#[tokio::test]
async fn actions_of_agents_are_tools_by_configuration() {
    let stack = Stack::start_with(|config| config.mcp_actions = vec!["git_agent.*".into()]).await;
    stack.health.set([
        agent("echo_agent", HealthState::Healthy, 0, None),
        agent("git_agent", HealthState::Degraded, 1, None),
    ]);
    let tools = modern(&stack, "tools/list", &json!({})).await.json()["result"]["tools"].clone();
    let tools: Vec<_> = tools.as_array().unwrap()[5..].to_vec();
    assert_eq!(
        tools,
        [
            json!({"name": "git_agent.any", "description": "Does any", "inputSchema": {"type": "object"}}),
            json!({"name": "git_agent.strict", "description": "Does strict", "inputSchema": {"type": "object", "required": ["path"]}}),
        ]
    );
    stack.planner.reply(Reply::Output("{\"clean\":true}".into()));
    let called = result(&stack, "git_agent.strict", &json!({"path": "{{tasks.x.output}}"})).await;
    assert_eq!(called["structuredContent"]["output"], json!({"clean": true}));
    let task = stack.planner.seen().remove(0).request.tasks.remove(0);
    assert_eq!((task.agent.as_str(), task.action.as_str()), ("git_agent", "strict"));
    assert_eq!(task.input_json, r#"{"path":"\\{{tasks.x.output}}"}"#, "arguments are no references");

    stack.planner.fail(OrchestratorError::invalid("tasks[0].input.path", "is missing"));
    let failed = result(&stack, "git_agent.strict", &json!({})).await;
    assert_eq!(failed["content"][0]["text"], "validation_failed: `path` is missing");
    let hidden = legacy(&stack, "tools/call", &call("echo_agent.any", &json!({}))).await;
    assert_eq!(hidden.json()["error"]["code"], -32602);

    let listed = result(&stack, "list_agents", &json!({})).await["structuredContent"].clone();
    let git = &listed["agents"][1];
    assert_eq!((&git["agent"], &git["health"]), (&json!("git_agent"), &json!("degraded")));
    assert_eq!(git["actions"][1], json!({"action": "strict", "description": "Does strict"}));
    let one = result(&stack, "list_agents", &json!({"agent": "git_agent"})).await;
    assert_eq!(one["structuredContent"]["actions"][1]["input_schema"]["required"], json!(["path"]));
}

#[tokio::test]
async fn meta_of_a_call_continues_its_trace_and_makes_it_idempotent() {
    let stack = Stack::start().await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut params = call("chat", &json!({"message": "hi"}));
    params["_meta"] = json!({"traceparent": parent, "phoenix/idempotency_key": "once"});
    legacy(&stack, "tools/call", &params).await;
    let seen = stack.planner.seen().remove(0);
    assert_eq!(seen.context.trace.trace_id(), &parent[3..35]);
    assert_eq!((seen.request.idempotency_key.as_str(), seen.request.idempotency_digest.len()), ("once", 64));
    params["_meta"] = json!({"phoenix/idempotency_key": ""});
    let answer = legacy(&stack, "tools/call", &params).await.json();
    assert_eq!(answer["result"]["isError"], true);
}

#[tokio::test]
async fn client_that_takes_no_stream_gets_the_result_as_json() {
    let stack = Stack::start().await;
    stack.planner.reply(Reply::Result(
        "clean".into(),
        r#"{"content":[{"type":"image","data":"","mimeType":"a/b"}]}"#.into(),
    ));
    let mut params = call("chat", &json!({"message": "hi"}));
    params["_meta"] = json!({"progressToken": 1});
    let answer = stack.http.post("/mcp", &request("tools/call", &params)).await;
    let content = answer.json()["result"]["content"].clone();
    assert_eq!((content[0]["text"].as_str(), content[1]["type"].as_str()), (Some("clean"), Some("image")));
}
