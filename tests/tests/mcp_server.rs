//! Phoenix as an MCP server: the conformance suite of the protocol, and the official clients for Python and Node.js, over HTTP and
//! through `phoenix mcp`.
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a skipped test says so; helpers of tests"
)]

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use phoenix_platform::config::Role;
use phoenix_testkit::{phoenix_bin, sandbox::Sandbox};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};

const CONFIG: &str = "[gateway]\nmcp_actions = [\"git_agent.*\"]\n";

fn own(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The value of a variable that `cargo xtask test` sets.
fn installed(variable: &str, what: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!is_ci, "{variable} must be set in CI; cargo xtask test sets it");
        eprintln!("SKIPPED: {what}, because {variable} is not set");
    }
    path
}

/// Node.js and the folder of its packages.
fn node() -> Option<(PathBuf, PathBuf)> {
    let folder = installed("NPM_CLIENTS", "MCP clients for Node.js, and the conformance suite")?;
    let own = ["x64", "arm64"].map(|cpu| folder.join(format!("node_modules/node-linux-{cpu}/bin/node")));
    let node = own.into_iter().find(|node| node.is_file()).unwrap_or_else(|| "node".into());
    Some((node, folder))
}

async fn sandbox() -> Sandbox {
    Sandbox::start_with(CONFIG, &[("PATH", std::env::var("PATH").unwrap().as_str())]).await
}

fn assert_succeeded(output: &Output) {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success(), "{out}\n{err}");
}

async fn conforms_to(version: &str) {
    let Some((node, folder)) = node() else { return };
    let sandbox = sandbox().await;
    let results = tempfile::tempdir().unwrap();
    let mut suite = Command::new(node);
    suite
        .arg(folder.join("node_modules/@modelcontextprotocol/conformance/dist/index.js"))
        .args(["server", "--suite", "all", "--spec-version", version])
        .args(["--url", &format!("{}/mcp", sandbox.url(Role::Gateway))])
        .arg("--expected-failures")
        .arg(own(&format!("mcp/expected-failures-{version}.yml")))
        .arg("--output-dir")
        .arg(results.path())
        .current_dir(results.path())
        .kill_on_drop(true);
    assert_succeeded(&suite.output().await.unwrap());
}

#[tokio::test]
async fn server_conforms_to_the_protocol_with_a_handshake() {
    conforms_to("2025-11-25").await;
}

#[tokio::test]
async fn server_conforms_to_the_protocol_without_a_handshake() {
    conforms_to("2026-07-28").await;
}

/// Scenarios of the suite for tasks, an extension, which it runs only by their names and when it is forced. Their tools are made of those of Phoenix.
#[tokio::test]
async fn tasks_conform_to_their_extension() {
    let Some((node, folder)) = node() else { return };
    let sandbox = sandbox().await;
    let results = tempfile::tempdir().unwrap();
    let mut proxy = Command::new(&node);
    proxy.arg(own("clients/mcp_task_tools.mjs")).arg(sandbox.url(Role::Gateway));
    let mut proxy = proxy.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut url = String::new();
    BufReader::new(proxy.stdout.take().unwrap()).read_line(&mut url).await.unwrap();
    for scenario in [
        "tasks-lifecycle",
        "tasks-capability-negotiation",
        "tasks-request-headers",
        "tasks-dispatch-and-envelope",
    ] {
        let mut suite = Command::new(&node);
        suite
            .arg(folder.join("node_modules/@modelcontextprotocol/conformance/dist/index.js"))
            .args(["server", "--scenario", scenario, "--force", "--spec-version", "2026-07-28"])
            .args(["--url", url.trim()])
            .args(["--timeout", "300000", "--expected-failures"])
            .arg(own("mcp/expected-failures-tasks.yml"))
            .arg("--output-dir")
            .arg(results.path())
            .current_dir(results.path())
            .kill_on_drop(true);
        let output = suite.output().await.unwrap();
        assert_succeeded(&output);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("Passed: ") && !text.contains("SKIPPED"), "{scenario}: {text}");
    }
}

#[tokio::test]
async fn client_for_python_calls_tools_over_http_and_pipes() {
    let Some(program) = installed("MCP_SERVER_TIME_BIN", "MCP client for Python") else { return };
    let sandbox = sandbox().await;
    let mut python = Command::new(program.with_file_name("python3"));
    python.arg(own("clients/mcp_client.py")).arg(sandbox.url(Role::Gateway)).arg(phoenix_bin());
    python.env("PYTHONDONTWRITEBYTECODE", "1").kill_on_drop(true);
    assert_succeeded(&python.output().await.unwrap());
}

#[tokio::test]
async fn clients_for_node_call_tools_over_http_and_pipes() {
    let Some((node, folder)) = node() else { return };
    let sandbox = sandbox().await;
    let mut script = Command::new(node);
    script.arg(own("clients/mcp_client.mjs")).arg(folder).arg(sandbox.url(Role::Gateway)).arg(phoenix_bin());
    assert_succeeded(&script.kill_on_drop(true).output().await.unwrap());
}

#[tokio::test]
async fn inspector_lists_and_calls_tools_over_http_and_pipes() {
    let Some((node, folder)) = node() else { return };
    let sandbox = sandbox().await;
    let url = sandbox.url(Role::Gateway);
    let home = tempfile::tempdir().unwrap();
    let program = folder.join("node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js");
    let inspect = async |arguments: &[&str]| {
        let mut inspector = Command::new(&node);
        inspector
            .arg(&program)
            .arg("--cli")
            .args(arguments)
            .env("HOME", home.path())
            .env("PHOENIX_URL", &url);
        let output = inspector.current_dir(home.path()).kill_on_drop(true).output().await.unwrap();
        assert_succeeded(&output);
        // It may say first what it does.
        let text = String::from_utf8(output.stdout).unwrap();
        let json = text.find('{').map(|start| &text[start..]).unwrap_or_default();
        serde_json::from_str::<Value>(json).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    let (endpoint, phoenix) = (format!("{url}/mcp"), phoenix_bin());
    let environment = format!("PHOENIX_URL={url}");
    let http = [endpoint.as_str()];
    let pipes = [phoenix.to_str().unwrap(), "mcp", "-e", &environment];
    for target in [&http[..], &pipes[..]] {
        let listed = inspect(&[target, &["--method", "tools/list"]].concat()).await;
        let names: Vec<_> = listed["tools"].as_array().unwrap().iter().map(|tool| &tool["name"]).collect();
        assert!(
            names.contains(&&json!("chat")) && names.contains(&&json!("git_agent.git_status")),
            "{listed}"
        );
        let call = [
            "--method",
            "tools/call",
            "--tool-name",
            "chat",
            "--tool-arg",
            "message=hello",
            "agent=echo_agent",
        ];
        let answer = inspect(&[target, &call].concat()).await;
        assert_eq!(answer["content"][0]["text"], "hello", "{answer}");
    }
}

/// `phoenix mcp`, as a client starts it.
struct Bridge {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Bridge {
    /// Starts the command that README.md has a client start, with the gateway at `url`.
    fn start(url: &str) -> Self {
        let readme = std::fs::read_to_string(own("../README.md")).unwrap();
        let section = readme.split_once("## As an MCP server").unwrap().1;
        let config = section.split_once("```json\n").unwrap().1.split_once("```").unwrap().0;
        let config: Value = serde_json::from_str(config).unwrap();
        let server = &config["mcpServers"]["phoenix"];
        assert_eq!(server["command"], "phoenix");
        let arguments = server["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap());
        let mut command = Command::new(phoenix_bin());
        command.args(arguments).env_clear().env("PHOENIX_URL", url).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    async fn send(&mut self, line: impl ToString) {
        let line = line.to_string() + "\n";
        self.input.as_mut().unwrap().write_all(line.as_bytes()).await.unwrap();
    }

    async fn next(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    async fn request(&mut self, id: u32, method: &str, params: Value) -> Value {
        self.send(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
        self.next().await
    }

    /// Closes standard input, and waits for the end.
    async fn end(mut self) -> Output {
        drop(self.input.take());
        let mut rest = String::new();
        while self.output.read_line(&mut rest).await.unwrap() > 0 {}
        assert_eq!(rest, "");
        self.child.wait_with_output().await.unwrap()
    }
}

#[tokio::test]
async fn bridge_of_the_readme_works_until_its_input_ends() {
    let mut sandbox = sandbox().await;
    let mut bridge = Bridge::start(&sandbox.url(Role::Gateway));
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let agreed = bridge.request(1, "initialize", params.clone()).await;
    assert_eq!(agreed["result"]["protocolVersion"], "2025-11-25");
    bridge.send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    let call =
        |message: &str| json!({"name": "chat", "arguments": {"agent": "echo_agent", "message": message}});
    let answer = bridge.request(2, "tools/call", call("hello")).await;
    assert_eq!((&answer["id"], &answer["result"]["content"][0]["text"]), (&json!(2), &json!("hello")));
    let mut watched = call("hello");
    watched["_meta"] = json!({"progressToken": "p"});
    let accepted = bridge.request(3, "tools/call", watched).await;
    assert_eq!(
        (&accepted["method"], &accepted["params"]["progress"]),
        (&json!("notifications/progress"), &json!(0.0))
    );
    assert_eq!(bridge.next().await["id"], 3);
    bridge.send("no JSON").await;
    assert_eq!(bridge.next().await["error"]["code"], -32700);
    assert_eq!(bridge.request(4, "no/such", json!({})).await["error"]["code"], -32601);

    let mut params = json!({"name": "list_agents"});
    params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
    let modern = bridge.request(5, "tools/call", params).await;
    assert_eq!(modern["result"]["resultType"], "complete", "{modern}");

    // A plan as a task, which is asked for until it has ended.
    let capabilities = json!({"extensions": {"io.modelcontextprotocol/tasks": {}}});
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": capabilities});
    let tasks =
        json!([{"key": "a", "agent": "echo_agent", "action": "chat", "input": {"message": "as a task"}}]);
    let params = json!({"name": "run_plan", "arguments": {"tasks": tasks}, "_meta": meta});
    let begun = bridge.request(8, "tools/call", params).await;
    assert_eq!(begun["result"]["resultType"], "task", "{begun}");
    let task = json!({"taskId": begun["result"]["taskId"], "_meta": meta});
    let ended = loop {
        let task = bridge.request(9, "tasks/get", task.clone()).await;
        if task["result"]["status"] != "working" {
            break task;
        }
    };
    assert_eq!(ended["result"]["status"], "completed", "{ended}");
    assert_eq!(ended["result"]["result"]["structuredContent"]["output"], "as a task", "{ended}");

    sandbox.stop(Role::Gateway).await;
    let away = bridge.request(6, "ping", json!({})).await;
    assert!(away["error"]["message"].as_str().unwrap().contains("cannot reach the gateway"), "{away}");
    sandbox.restart(Role::Gateway).await;
    assert_eq!(bridge.request(7, "ping", json!({})).await["result"], json!({}), "no session was lost");
    let ended = bridge.end().await;
    assert_eq!((ended.status.code(), String::from_utf8(ended.stderr).unwrap().as_str()), (Some(0), ""));
}
