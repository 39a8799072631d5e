//! A scripted MCP server over streamable HTTP.

use std::sync::{Arc, Mutex};

use phoenix_domain::{
    AgentMode, AgentSpec,
    mcp::{McpSettings, RemoteServer},
};
use phoenix_proto::executor::ExecuteTaskRequest;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::sandbox::{Sandbox, TIMEOUT, TaskOutcome, agent, quick_retries};

/// What the server does with a request.
pub enum Reply {
    /// Responds with this status, these headers and this body.
    Whole(&'static str, &'static str, String),
    /// Begins a response with this head and body, and says nothing more.
    Stalls(String),
    /// Begins a response, and writes so many bytes of it.
    Floods(usize),
}

/// A request: its head, with names in lower case, and its message.
#[derive(Clone)]
pub struct Asked {
    pub head: String,
    pub message: Value,
}

impl Asked {
    pub fn method(&self) -> &str {
        self.message["method"].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_default()
    }
}

/// A scripted server on its own port.
pub struct Server {
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
    pub async fn start(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
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

    pub fn agent(&self) -> AgentSpec {
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
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Number of requests with this method.
    pub fn count(&self, method: &str) -> usize {
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

pub const JSON: &str = "content-type: application/json\r\n";

pub fn result(asked: &Asked, result: &Value) -> Reply {
    let body = json!({"jsonrpc": "2.0", "id": asked.message["id"], "result": result});
    Reply::Whole("200 OK", JSON, body.to_string())
}

pub fn tools() -> Value {
    let tool = |name: &str, repeatable: bool| json!({"name": name, "inputSchema": {"type": "object"}, "annotations": {"idempotentHint": repeatable}});
    json!({"tools": [tool("once", false), tool("often", true)], "resultType": "complete"})
}

pub fn text(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}]})
}

/// Answers of a server with a handshake to everything but calls.
pub fn legacy(asked: &Asked) -> Option<Reply> {
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

pub async fn call(sandbox: &Sandbox, action: &str) -> TaskOutcome {
    let request =
        ExecuteTaskRequest { action: action.into(), payload_json: "{}".into(), ..sandbox.request() };
    sandbox.run_request(request).await.unwrap()
}
