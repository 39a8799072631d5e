//! MCP servers over streamable HTTP as agents, scripted here, and their faults.

use std::sync::{Arc, Mutex};

use phoenix_domain::{
    AgentMode, AgentSpec, OrchestratorErrorCode as Code,
    mcp::{McpSettings, RemoteServer},
};
use phoenix_proto::{executor::ExecuteTaskRequest, health_v1::Outcome};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::sandbox::{Sandbox, TIMEOUT, TaskOutcome, agent, quick_retries};

/// What the server does with a request.
enum Reply {
    /// Responds with this status, these headers and this body.
    Whole(&'static str, &'static str, String),
    /// Begins a response with this head and body, and says nothing more.
    Stalls(String),
    /// Begins a response, and writes so many bytes of it.
    Floods(usize),
}

/// A request: its head, with names in lower case, and its message.
#[derive(Clone)]
struct Asked {
    head: String,
    message: Value,
}

impl Asked {
    fn method(&self) -> &str {
        self.message["method"].as_str().unwrap_or_default()
    }

    fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_default()
    }
}

/// A scripted server on its own port.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let (asked, reply) = (Arc::<Mutex<Vec<Asked>>>::default(), Arc::new(reply));
        let seen = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (seen, reply) = (Arc::clone(&seen), Arc::clone(&reply));
                tokio::spawn(async move { serve(stream, &seen, &*reply).await });
            }
        });
        Self { url, asked, task }
    }

    fn agent(&self) -> AgentSpec {
        let headers = [("authorization".to_owned(), "Bearer of-the-test-0123456789".to_owned().into())];
        let remote = Some(RemoteServer { url: self.url.clone(), headers: headers.into() });
        AgentSpec {
            command: Vec::new(),
            mode: AgentMode::Mcp,
            mcp: Some(McpSettings { remote, ..McpSettings::default() }),
            retry: quick_retries(),
            timeout: TIMEOUT,
            ..agent(&[])
        }
    }

    /// Every request so far.
    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Number of requests with this method.
    fn count(&self, method: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| asked.method() == method).count()
    }
}

/// Answers one request, and closes the connection.
async fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Asked>>, reply: &(impl Fn(&Asked) -> Reply + Sync)) {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let lower = head.to_ascii_lowercase();
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
            break (head.len() + 4, length.map_or(0, |length| length.parse::<usize>().unwrap()));
        }
    };
    while bytes.len() < head + length {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let lines: Vec<_> = std::str::from_utf8(&bytes[..head])
        .unwrap()
        .lines()
        .map(|line| {
            line.split_once(": ").map_or_else(
                || line.to_owned(),
                |(name, value)| format!("{}: {value}", name.to_ascii_lowercase()),
            )
        })
        .collect();
    let asked = Asked { head: lines.join("\n"), message: serde_json::from_slice(&bytes[head..]).unwrap() };
    let reply = reply(&asked);
    seen.lock().unwrap().push(asked);
    match reply {
        Reply::Whole(status, headers, body) => {
            let head = format!(
                "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
                body.len()
            );
            let _ = stream.write_all((head + &body).as_bytes()).await;
        }
        Reply::Stalls(text) => {
            let _ = stream.write_all(text.as_bytes()).await;
            // Until the client closes the connection.
            let _ = stream.read_u8().await;
        }
        Reply::Floods(count) => {
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {count}\r\n\r\n"
            );
            let _ = stream.write_all(head.as_bytes()).await;
            let piece = vec![b' '; 64 * 1024];
            for _ in 0..count / piece.len() {
                if stream.write_all(&piece).await.is_err() {
                    return;
                }
            }
        }
    }
}

const JSON: &str = "content-type: application/json\r\n";

fn result(asked: &Asked, result: &Value) -> Reply {
    let body = json!({"jsonrpc": "2.0", "id": asked.message["id"], "result": result});
    Reply::Whole("200 OK", JSON, body.to_string())
}

fn tools() -> Value {
    let tool = |name: &str, repeatable: bool| json!({"name": name, "inputSchema": {"type": "object"}, "annotations": {"idempotentHint": repeatable}});
    json!({"tools": [tool("once", false), tool("often", true)], "resultType": "complete"})
}

fn text(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}]})
}

/// Answers of a server with a handshake to everything but calls.
fn legacy(asked: &Asked) -> Option<Reply> {
    Some(match asked.method() {
        "server/discover" => {
            Reply::Whole("400 Bad Request", "content-type: text/plain\r\n", "no session".into())
        }
        "initialize" => {
            let answer = json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "s"}});
            let body = json!({"jsonrpc": "2.0", "id": asked.message["id"], "result": answer});
            Reply::Whole(
                "200 OK",
                "content-type: application/json\r\nmcp-session-id: s-1\r\n",
                body.to_string(),
            )
        }
        "notifications/initialized" | "notifications/cancelled" => {
            Reply::Whole("202 Accepted", "", String::new())
        }
        "tools/list" => result(asked, &tools()),
        _ => return None,
    })
}

async fn call(sandbox: &Sandbox, action: &str) -> TaskOutcome {
    let request =
        ExecuteTaskRequest { action: action.into(), payload_json: "{}".into(), ..sandbox.request() };
    sandbox.run_request(request).await.unwrap()
}

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
    spec.timeout = std::time::Duration::from_millis(300);
    let sandbox = Sandbox::start(spec).await;
    let error = call(&sandbox, "once").await.error();
    assert_eq!(error.code, Code::Timeout, "{error}");
    crate::sandbox::until("the call is cancelled", || server.count("notifications/cancelled") == 1).await;
    sandbox.stop().await;
}
