//! Plans as tasks of clients of the Model Context Protocol.

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode as Code};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{
    mcp::{BOTH, JSON, MODERN, SESSION, call, modern, request, with_meta},
    support::{Answer, FakePlanner, Stack, Watch, plans},
};

/// The version whose clients ask for tasks.
const LEGACY: (&str, &str) = ("mcp-protocol-version", "2025-11-25");

fn run_plan() -> Value {
    let tasks = json!([{"key": "a", "agent": "echo_agent", "action": "chat", "input": {"message": "hi"}}]);
    call("run_plan", &json!({"tasks": tasks}))
}

fn task() -> Value {
    json!({"taskId": FakePlanner::PLAN})
}

/// A message of a client without a handshake that takes tasks.
async fn with_tasks(stack: &Stack, method: &str, params: &Value) -> Answer {
    let mut params = with_meta(params);
    let capabilities = json!({"extensions": {"io.modelcontextprotocol/tasks": {}}});
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = capabilities;
    let name = params["name"].as_str().or(params["taskId"].as_str()).unwrap_or_default().to_owned();
    let headers = [JSON, BOTH, ("mcp-protocol-version", MODERN), ("mcp-method", method), ("mcp-name", &name)];
    stack.http.send(Method::POST, "/mcp", &headers, request(method, &params).to_string()).await
}

#[tokio::test]
async fn plan_of_a_client_that_takes_tasks_is_one() {
    let stack = Stack::start().await;
    let discovered = modern(&stack, "server/discover", &json!({})).await.json();
    let offered = &discovered["result"]["capabilities"]["extensions"];
    assert_eq!(offered, &json!({"io.modelcontextprotocol/tasks": {}}), "{discovered}");
    stack.planner.keep(plans::running());
    let begun = with_tasks(&stack, "tools/call", &run_plan()).await.json();
    let begun = &begun["result"];
    assert_eq!(
        (&begun["resultType"], &begun["taskId"], &begun["status"], &begun["ttlMs"]),
        (&json!("task"), &json!(FakePlanner::PLAN), &json!("working"), &Value::Null),
        "{begun}"
    );
    assert!(
        begun.get("result").is_none() && begun["createdAt"].is_string() && begun["lastUpdatedAt"].is_string()
    );

    let task = task();
    let get = async || with_tasks(&stack, "tasks/get", &task).await.json()["result"].clone();
    let working = get().await;
    assert_eq!((&working["resultType"], &working["status"]), (&json!("complete"), &json!("working")));
    stack.planner.keep(plans::succeeded("done"));
    let done = get().await;
    assert_eq!(
        (&done["status"], &done["result"]["structuredContent"]["output"]),
        (&json!("completed"), &json!("done"))
    );
    stack.planner.keep(plans::failed("no luck"));
    let failed = get().await;
    assert_eq!(
        (&failed["status"], &failed["result"]["isError"]),
        (&json!("completed"), &json!(true)),
        "{failed}"
    );

    for method in ["tasks/cancel", "tasks/update"] {
        let taken = with_tasks(&stack, method, &task).await.json()["result"].clone();
        assert_eq!(
            (&taken["resultType"], taken.get("taskId")),
            (&json!("complete"), None),
            "{method}: {taken}"
        );
    }
    for id in [json!("nothing"), json!("00000000-0000-4000-8000-000000000000"), json!(7)] {
        let unknown = with_tasks(&stack, "tasks/get", &json!({"taskId": id})).await.json();
        assert_eq!(unknown["error"]["code"], -32602, "{unknown}");
    }
    let mut undeclared = with_meta(&task);
    undeclared["name"] = Value::Null;
    let headers = [
        JSON,
        BOTH,
        ("mcp-protocol-version", MODERN),
        ("mcp-method", "tasks/get"),
        ("mcp-name", FakePlanner::PLAN),
    ];
    let refused =
        stack.http.send(Method::POST, "/mcp", &headers, request("tasks/get", &undeclared).to_string()).await;
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (StatusCode::BAD_REQUEST, &json!(-32021)));
}

#[tokio::test]
async fn task_whose_plan_cannot_be_read_has_begun_all_the_same() {
    let stack = Stack::start().await;
    let begun = with_tasks(&stack, "tools/call", &run_plan()).await.json()["result"].clone();
    assert_eq!(
        (&begun["resultType"], &begun["taskId"], &begun["status"]),
        (&json!("task"), &json!(FakePlanner::PLAN), &json!("working")),
        "{begun}"
    );
    let begun = asked(&stack, "tools/call", &as_task(run_plan())).await["result"]["task"].clone();
    assert_eq!(
        (&begun["taskId"], &begun["status"]),
        (&json!(FakePlanner::PLAN), &json!("working")),
        "{begun}"
    );
}

/// The answer to a client of version 2025-11-25.
async fn asked(stack: &Stack, method: &str, params: &Value) -> Value {
    let body = request(method, params).to_string();
    let answer = stack.http.send(Method::POST, "/mcp", &[JSON, BOTH, SESSION, LEGACY], body).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer.json()
}

/// A call as a task.
fn as_task(mut call: Value) -> Value {
    call["task"] = json!({"ttl": 60_000});
    call
}

#[tokio::test]
async fn tasks_are_offered_to_the_version_that_has_them() {
    let stack = Stack::start().await;
    for (version, offered) in [
        ("2025-11-25", json!({"requests": {"tools": {"call": {}}}, "list": {}, "cancel": {}})),
        ("2025-06-18", Value::Null),
    ] {
        let params = json!({"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
        let agreed = stack.http.post("/mcp", &request("initialize", &params)).await.json();
        assert_eq!(agreed["result"]["capabilities"]["tasks"], offered, "{agreed}");
        let headers = [JSON, BOTH, SESSION, ("mcp-protocol-version", version)];
        let list = request("tools/list", &json!({})).to_string();
        let tools = stack.http.send(Method::POST, "/mcp", &headers, list).await.json();
        let supports = |tool: &Value| tool["execution"]["taskSupport"].as_str().map(str::to_owned);
        let tools: Vec<_> = tools["result"]["tools"].as_array().unwrap().iter().map(supports).collect();
        let run_plan = (!offered.is_null()).then(|| "optional".to_owned());
        assert_eq!(tools, [None, run_plan, None, None, None], "{version}");
    }
    for (call, code) in [
        (as_task(call("chat", &json!({"message": "hi"}))), -32601),
        (as_task(call("get_plan", &json!({"plan_id": FakePlanner::PLAN}))), -32601),
        (json!({"name": "run_plan", "arguments": {}, "task": 7}), -32602),
        (json!({"name": "run_plan", "arguments": {}, "task": {"ttl": "long"}}), -32602),
    ] {
        let refused = asked(&stack, "tools/call", &call).await;
        assert_eq!(refused["error"]["code"], code, "{call} {refused}");
    }
    assert!(stack.planner.seen().is_empty());
    // A version without tasks does not know the member.
    stack.planner.keep(plans::succeeded("done"));
    let body = request("tools/call", &as_task(run_plan())).to_string();
    let answer = stack.http.send(Method::POST, "/mcp", &[JSON, BOTH, SESSION], body).await.json();
    assert_eq!(answer["result"]["structuredContent"]["output"], "done", "{answer}");
}

#[tokio::test]
async fn plan_that_was_asked_for_as_a_task_is_one() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::running());
    let begun = asked(&stack, "tools/call", &as_task(run_plan())).await["result"]["task"].clone();
    assert_eq!(
        (&begun["taskId"], &begun["status"], &begun["ttl"]),
        (&json!(FakePlanner::PLAN), &json!("working"), &Value::Null),
        "{begun}"
    );
    assert!(
        begun["createdAt"].is_string()
            && begun["lastUpdatedAt"].is_string()
            && begun["pollInterval"].is_u64()
    );
    let page = asked(&stack, "tasks/list", &json!({"cursor": FakePlanner::PLAN})).await["result"].clone();
    assert_eq!(
        (&page["tasks"][0]["taskId"], &page["nextCursor"]),
        (&json!(FakePlanner::PLAN), &json!(FakePlanner::PLAN)),
        "{page}"
    );
    assert_eq!(stack.planner.listed()[0].page_token, FakePlanner::PLAN);
    for cursor in [json!("x"), json!(7)] {
        let wrong = asked(&stack, "tasks/list", &json!({"cursor": cursor})).await;
        assert_eq!(wrong["error"]["code"], -32602, "{wrong}");
    }

    stack.planner.keep(plans::failed("no luck"));
    let failed = asked(&stack, "tasks/get", &task()).await["result"].clone();
    assert_eq!(
        (&failed["status"], &failed["statusMessage"]),
        (&json!("failed"), &json!("no luck")),
        "{failed}"
    );
    for _ in 0..2 {
        let result = asked(&stack, "tasks/result", &task()).await["result"].clone();
        assert_eq!(
            (&result["isError"], &result["structuredContent"]["status"]),
            (&json!(true), &json!("failed")),
            "{result}"
        );
        assert_eq!(result["_meta"]["io.modelcontextprotocol/related-task"], task());
    }
    let ended = asked(&stack, "tasks/cancel", &task()).await;
    assert_eq!(ended["error"]["code"], -32602, "{ended}");
    for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
        for id in [json!("nothing"), json!("00000000-0000-4000-8000-000000000000"), Value::Null] {
            let unknown = asked(&stack, method, &json!({"taskId": id})).await;
            assert_eq!(unknown["error"]["code"], -32602, "{method} {unknown}");
        }
    }
    stack.planner.keep(plans::running());
    let cancelled = asked(&stack, "tasks/cancel", &task()).await["result"].clone();
    assert_eq!(
        (&cancelled["status"], &cancelled["taskId"]),
        (&json!("cancelled"), &json!(FakePlanner::PLAN))
    );
}

#[tokio::test]
async fn plan_that_is_refused_is_no_task() {
    let stack = Stack::start().await;
    for (error, code) in [
        (OrchestratorError::new(Code::Overloaded, "too much"), -32603),
        (OrchestratorError::new(Code::PlanningFailed, "no such agent"), -32602),
    ] {
        stack.planner.fail(error.clone());
        let refused = asked(&stack, "tools/call", &as_task(run_plan())).await["error"].clone();
        assert_eq!(
            (&refused["code"], &refused["data"]["code"], &refused["message"]),
            (&json!(code), &json!(error.code.as_str()), &json!(error.message)),
            "{refused}"
        );
    }
    let wrong = asked(&stack, "tools/call", &as_task(call("run_plan", &json!({"tasks": 7})))).await;
    assert_eq!(wrong["error"]["code"], -32602, "{wrong}");
}

#[tokio::test]
async fn result_of_a_task_waits_for_its_end() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::running());
    let end = Arc::new(Notify::new());
    let rest = plans::whole().split_off(2);
    let beginning = Watch::Breaks(plans::whole()[..2].to_vec());
    stack.planner.watches([beginning, Watch::EndsAfter(Arc::clone(&end), rest)]);
    let (params, ends) = (task(), async {
        stack.planner.is_watched(2).await;
        stack.planner.keep(plans::succeeded("done"));
        end.notify_one();
    });
    let (result, ()) = tokio::join!(asked(&stack, "tasks/result", &params), ends);
    assert_eq!(result["result"]["structuredContent"]["output"], "done", "{result}");
    assert_eq!(result["result"].get("isError"), None);
    assert_eq!(stack.planner.cancelled(), 0);
}

#[tokio::test]
async fn result_without_a_stream_has_the_time_limit_of_requests() {
    let stack = Stack::start_with(|config| config.request_timeout = Duration::from_secs(1)).await;
    stack.planner.keep(plans::running());
    let headers = [JSON, ("accept", "application/json"), SESSION, LEGACY];
    let body = request("tasks/result", &task()).to_string();
    let late = stack.http.send(Method::POST, "/mcp", &headers, body).await.json();
    assert_eq!(late["error"]["code"], -32603, "{late}");
    assert_eq!(stack.planner.cancelled(), 0);
}
