//! MCP servers over streamable HTTP as agents, and their faults.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use phoenix_domain::{
    OrchestratorErrorCode as Code,
    questions::{MEMBER, Questions},
};
use phoenix_proto::{executor::ExecuteTaskRequest, health_v1::Outcome};
use serde_json::json;

use crate::{
    http_server::{Asked, JSON, Reply, Server, call, legacy, result, text, tools},
    sandbox::{Sandbox, TIMEOUT, until},
};

#[tokio::test]
async fn server_with_a_handshake_is_called_in_its_session() {
    let server = Server::start(|asked| legacy(asked).unwrap_or_else(|| result(asked, &text("done")))).await;
    let sandbox = Sandbox::start(server.agent()).await;
    assert_eq!(call(&sandbox, "once").await.data(), "done");
    let asked = server.asked();
    let methods: Vec<_> = asked.iter().map(Asked::method).collect();
    let expected = ["server/discover", "initialize", "notifications/initialized", "tools/list", "tools/call"];
    assert_eq!(methods, expected, "the handshake ends before the first request");
    let called = asked.iter().find(|asked| asked.method() == "tools/call").unwrap();
    assert_eq!(
        (called.header("mcp-session-id"), called.header("mcp-protocol-version")),
        ("s-1", "2025-06-18")
    );
    assert_eq!(
        (called.header("authorization"), called.header("mcp-method")),
        ("Bearer of-the-test-0123456789", "")
    );
    assert_eq!(called.message["params"]["_meta"]["phoenix/idempotency_key"], "the key");
    sandbox.stop().await;
}

#[tokio::test]
async fn server_without_a_handshake_streams_progress_and_result() {
    let server = Server::start(|asked| match asked.method() {
        "server/discover" => result(asked, &json!({"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}})),
        "tools/list" => result(asked, &tools()),
        _ => {
            let token = &asked.message["params"]["_meta"]["progressToken"];
            let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 1}});
            let answer = json!({"jsonrpc": "2.0", "id": asked.message["id"], "result": text("done")});
            Reply::Whole("200 OK", "content-type: text/event-stream\r\n", format!(": hi\n\ndata: {progress}\n\nevent: message\ndata: {answer}\n\n"))
        }
    })
    .await;
    let sandbox = Sandbox::start(server.agent()).await;
    assert_eq!(call(&sandbox, "once").await.data(), "done");
    let asked = server.asked();
    let called = asked.last().unwrap();
    assert_eq!(
        (called.header("mcp-protocol-version"), called.header("mcp-method"), called.header("mcp-name")),
        ("2026-07-28", "tools/call", "once")
    );
    let meta = &called.message["params"]["_meta"];
    assert_eq!(
        (&meta["io.modelcontextprotocol/protocolVersion"], &meta["phoenix/idempotency_key"]),
        (&json!("2026-07-28"), &json!("the key"))
    );
    assert_eq!((server.count("initialize"), server.count("server/discover")), (0, 1));
    sandbox.stop().await;
}

#[tokio::test]
async fn lost_session_is_replaced_and_its_call_repeated() {
    let server = Server::start({
        let lost = Mutex::new(false);
        move |asked| {
            legacy(asked).unwrap_or_else(|| match std::mem::replace(&mut *lost.lock().unwrap(), true) {
                false => Reply::Whole(
                    "404 Not Found",
                    JSON,
                    json!({"jsonrpc": "2.0", "error": {"code": -32001, "message": "Session not found"}})
                        .to_string(),
                ),
                true => result(asked, &text("done")),
            })
        }
    })
    .await;
    let sandbox = Sandbox::start(server.agent()).await;
    assert_eq!(
        call(&sandbox, "once").await.data(),
        "done",
        "the first call was refused, so it had no effect"
    );
    assert_eq!((server.count("initialize"), server.count("tools/call")), (2, 2));
    assert_eq!(server.count("server/discover"), 1, "the era is remembered");
    sandbox.stop().await;
}

#[tokio::test]
async fn faults_of_a_server_fail_their_own_call() {
    let fault = Arc::new(Mutex::new(String::new()));
    let scripted = Arc::clone(&fault);
    let server = Server::start(move |asked| {
        legacy(asked).unwrap_or_else(|| match scripted.lock().unwrap().as_str() {
            "refuses" => Reply::Whole("401 Unauthorized", "", "token of-the-test-0123456789".into()),
            "redirects" => Reply::Whole(
                "307 Temporary Redirect",
                "location: https://other.example/mcp\r\n",
                String::new(),
            ),
            "floods" => Reply::Floods(50 * 1024 * 1024),
            "breaks" => Reply::Whole("500 Internal Server Error", "", "oops".into()),
            "babbles" => Reply::Whole("200 OK", "content-type: text/html\r\n", "<p>hello".into()),
            "ends" => Reply::Whole("200 OK", "content-type: text/event-stream\r\n", ": nothing\n\n".into()),
            "answers_another" => {
                Reply::Whole("200 OK", JSON, r#"{"jsonrpc":"2.0","id":999,"result":{}}"#.into())
            }
            _ => result(asked, &text("done")),
        })
    })
    .await;
    let sandbox = Sandbox::start(server.agent()).await;
    for (name, words, calls) in [
        ("refuses", "refused the request with HTTP 401", 3),
        ("redirects", "redirects to other.example, which is not followed", 3),
        ("floods", "answered with more than 8 MiB", 1),
        ("breaks", "answered with HTTP 500", 1),
        ("babbles", "ended its response without an answer", 1),
        ("ends", "ended its response without an answer", 1),
        ("answers_another", "ended its response without an answer", 1),
    ] {
        *fault.lock().unwrap() = name.into();
        let before = server.count("tools/call");
        let error = call(&sandbox, "once").await.error();
        assert_eq!(
            (error.code, error.message.contains(words)),
            (Code::ExecutionFailed, true),
            "{name}: {error}"
        );
        assert_eq!(
            server.count("tools/call") - before,
            calls,
            "{name}: a call that was read is not repeated"
        );
        assert!(!error.message.contains("of-the-test"), "{error}");
        *fault.lock().unwrap() = String::new();
        assert_eq!(call(&sandbox, "once").await.data(), "done", "after {name}");
    }
    let failures = sandbox.health.reports().into_iter().filter(|(outcome, _)| *outcome == Outcome::Failure);
    assert_eq!(failures.count(), 3 + 3 + 5);
    assert_eq!(server.count("initialize"), 1, "no fault cost the session");
    sandbox.stop().await;
}

#[tokio::test]
async fn stalled_stream_ends_at_the_deadline_and_is_closed() {
    let server = Server::start(|asked| {
        legacy(asked).unwrap_or_else(|| {
            Reply::Stalls(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: nothing yet\n\n".into(),
            )
        })
    })
    .await;
    let mut spec = server.agent();
    spec.timeout = Duration::from_millis(300);
    let sandbox = Sandbox::start(spec).await;
    let error = call(&sandbox, "once").await.error();
    assert_eq!(error.code, Code::Timeout, "{error}");
    until("the call is cancelled", || server.count("notifications/cancelled") == 1).await;
    sandbox.stop().await;
}

#[tokio::test]
async fn refusal_of_the_first_request_fails_tasks_with_the_reason() {
    for (reply, words) in [
        (
            || Reply::Whole("401 Unauthorized", "", "no".into()),
            "refused the request with HTTP 401 Unauthorized; check `mcp.headers`",
        ),
        (
            || {
                Reply::Whole(
                    "308 Permanent Redirect",
                    "location: https://other.example/mcp\r\n",
                    String::new(),
                )
            },
            "redirects to other.example, which is not followed",
        ),
        (|| Reply::Stalls(String::new()), "did not start within 300 ms"),
        (
            || Reply::Stalls("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n".into()),
            "did not start within 300 ms",
        ),
        (|| Reply::Floods(50 * 1024 * 1024), "answered with more than 8 MiB"),
    ] as [(fn() -> Reply, &str); 5]
    {
        let server = Server::start(move |_| reply()).await;
        let mut spec = server.agent();
        spec.start_timeout = if words.starts_with("did not") { Duration::from_millis(300) } else { TIMEOUT };
        let sandbox = Sandbox::start(spec).await;
        let error = call(&sandbox, "once").await.error();
        assert_eq!(
            (error.code, error.message.contains(words)),
            (Code::ExecutionFailed, true),
            "{words}: {error}"
        );
        assert_eq!(server.count("tools/call"), 0);
        let outcomes = sandbox.health.reports().into_iter().map(|(outcome, _)| outcome);
        assert!(outcomes.into_iter().all(|outcome| outcome == Outcome::Failure), "{words}");
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn question_in_a_stream_is_answered_in_the_next_call() {
    let server = Server::start(|asked| {
        // A response to a question of the server has no method.
        if asked.method().is_empty() {
            return Reply::Whole("202 Accepted", "", String::new());
        }
        legacy(asked).unwrap_or_else(|| {
            let params = json!({"message": "Which?", "requestedSchema": {"type": "object"}});
            let question =
                json!({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create", "params": params});
            Reply::Stalls(format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {question}\n\n"
            ))
        })
    })
    .await;
    let sandbox = Sandbox::start(server.agent()).await;
    // Two at the same time: the stream says which of them a question is about.
    let (first, second) = tokio::join!(call(&sandbox, "once"), call(&sandbox, "often"));
    for outcome in [first, second] {
        assert_eq!(outcome.finished.attempts, 1);
        let mut questions = Questions::of_error(&outcome.error()).unwrap();
        assert_eq!(questions.message(), "Which?");
        questions.answers = phoenix_domain::json::Object::parse(r#"{"question": {"name": "x"}}"#).ok();
        let input = json!({MEMBER: questions.to_json().to_value()});
        let request = ExecuteTaskRequest {
            action: "once".into(),
            payload_json: input.to_string(),
            first_attempt: 2,
            earlier_attempts: Some(1),
            ..sandbox.request()
        };
        let accepted = json!({"action": "accept", "content": {"name": "x"}});
        let answers = || server.asked().iter().filter(|asked| asked.message["result"] == accepted).count();
        let before = answers();
        let running = sandbox.start_running(request.clone()).await;
        until("the answer arrives", || answers() == before + 1).await;
        sandbox.cancel(&request.task_id).await.unwrap();
        drop(running);
    }
    let dismissed =
        server.asked().iter().filter(|asked| asked.message["result"] == json!({"action": "cancel"})).count();
    assert_eq!(dismissed, 2);
    until("both calls are cancelled", || server.count("notifications/cancelled") >= 2).await;
    sandbox.stop().await;
}
