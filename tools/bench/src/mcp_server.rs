//! The MCP server of the part `mcp`, and a client of it with nothing around it.
//!
//! The server answers `echo` at once, and `wait` after so many milliseconds, many calls at the same time.

use std::{process::Stdio, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, Stdout},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::Mutex,
};

use crate::failure::{Doing, Failure, Result};

/// Answers line by line until its input ends.
pub(crate) async fn serve() -> Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let stdout = Arc::new(Mutex::new(tokio::io::stdout()));
    while let Some(line) = lines.next_line().await? {
        let message: Value = serde_json::from_str(&line).doing("message")?;
        if message["id"].is_null() {
            continue;
        }
        let wait = &message["params"]["arguments"]["millis"];
        match wait.as_u64() {
            Some(millis) => {
                let stdout = Arc::clone(&stdout);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(millis)).await;
                    // The client is gone if it cannot be written.
                    let _ = write(&stdout, &answer(&message)).await;
                });
            }
            None => write(&stdout, &answer(&message)).await?,
        }
    }
    Ok(())
}

async fn write(stdout: &Mutex<Stdout>, message: &Value) -> Result<()> {
    let line = format!("{message}\n");
    let mut stdout = stdout.lock().await;
    stdout.write_all(line.as_bytes()).await?;
    Ok(stdout.flush().await?)
}

fn answer(message: &Value) -> Value {
    let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": true}});
    let result = match message["method"].as_str().unwrap_or_default() {
        "server/discover" => {
            json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}})
        }
        "tools/list" => json!({"resultType": "complete", "tools": [tool("echo"), tool("wait")]}),
        "tools/call" => {
            let text = message["params"]["arguments"]["text"].as_str().unwrap_or("done");
            json!({"resultType": "complete", "content": [{"type": "text", "text": text}]})
        }
        _ => json!({}),
    };
    json!({"jsonrpc": "2.0", "id": message["id"], "result": result})
}

/// The server's process, and its pipes.
pub(crate) struct Client {
    _process: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    last_id: u64,
}

impl Client {
    pub(crate) async fn start() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("mcp-server").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn()?;
        let stdin = process.stdin.take().ok_or("no standard input").doing("MCP server")?;
        let stdout = process.stdout.take().ok_or("no standard output").doing("MCP server")?;
        let lines = BufReader::new(stdout).lines();
        let mut client = Self { _process: process, stdin, lines, last_id: 0 };
        client.request("server/discover", json!({})).await?;
        Ok(client)
    }

    /// Calls a tool.
    pub(crate) async fn call(&mut self, tool: &str, arguments: &Value) -> Result<Value> {
        self.request("tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    async fn request(&mut self, method: &str, mut params: Value) -> Result<Value> {
        self.last_id += 1;
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let message = json!({"jsonrpc": "2.0", "id": self.last_id, "method": method, "params": params});
        self.stdin.write_all(format!("{message}\n").as_bytes()).await?;
        let line = self.lines.next_line().await?.ok_or("it ended").doing("MCP server")?;
        let answer: Value = serde_json::from_str(&line).doing("MCP server")?;
        if answer["id"] != self.last_id {
            return Err(Failure::new(format_args!("the MCP server answered {line}")));
        }
        Ok(answer["result"].clone())
    }
}
