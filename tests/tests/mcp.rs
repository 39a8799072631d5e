//! Real MCP servers as agents, as README.md and docs/mcp.md configure them.
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a skipped test says so; helpers of tests"
)]

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use phoenix_platform::config::{PhoenixConfig, Role};
use phoenix_testkit::{http::Rest, phoenix_bin, sandbox::Sandbox};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

/// Longest start of a server, never reached on a slow machine.
const START_LIMIT: Duration = Duration::from_secs(300);

/// The folder of the servers from PyPI, as `cargo xtask test` installs them.
fn servers() -> Option<PathBuf> {
    let program = std::env::var_os("MCP_SERVER_TIME_BIN").map(PathBuf::from);
    if program.is_none() {
        let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!is_ci, "MCP_SERVER_TIME_BIN must be set in CI; cargo xtask test sets it");
        eprintln!("SKIPPED: real MCP servers, because MCP_SERVER_TIME_BIN is not set");
    }
    program?.parent().map(Path::to_owned)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)).unwrap()
}

/// The first block in one language after a heading.
fn block(page: &str, heading: &str, language: &str) -> String {
    let text = read(page);
    let section = text.split_once(heading).unwrap_or_else(|| panic!("{page} has no {heading}")).1;
    let block = section.split_once(&format!("```{language}\n")).unwrap().1;
    block.split_once("```").unwrap().0.to_owned()
}

/// The body of a `curl` command on a page.
fn body(command: &str) -> Value {
    let body = command.split_once("-d '").unwrap().1.split_once('\'').unwrap().0;
    serde_json::from_str(body).unwrap()
}

/// A stack with `config`. Python takes long to start on a busy machine.
async fn sandbox(config: &str, servers: &Path) -> Sandbox {
    let config = format!("{config}\n[agents.default]\nstart_timeout_secs = 600\ntimeout_secs = 100\n");
    let path = format!("{}:{}", servers.display(), std::env::var("PATH").unwrap());
    Sandbox::start_with(&config, &[("PATH", path.as_str())]).await
}

/// The errors of a plan with an action that no server has list its tools, once they are known.
async fn until_tools_are_known(rest: &Rest, agent: &str, tool: &str) {
    let started = Instant::now();
    loop {
        let plan = json!({"tasks": [{"key": "t", "agent": agent, "action": "no_such_tool", "input": {}}]});
        let refused = rest.post("/api/v1/plans:dryRun", plan).await;
        if refused.status == 422 && refused.text.contains(tool) {
            return;
        }
        assert!(started.elapsed() < START_LIMIT, "the tools were not published: {}", refused.text);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn chat_and_plan_of_the_readme_run_a_real_server() {
    let Some(servers) = servers() else { return };
    let heading = "## MCP servers as agents";
    let sandbox = sandbox(&block("README.md", heading, "toml"), &servers).await;
    let rest = sandbox.rest();
    until_tools_are_known(&rest, "clock", "get_current_time").await;
    let chat = rest.post("/api/v1/chat", body(&block("README.md", heading, "console"))).await;
    assert_eq!(chat.status, 200, "{}", chat.text);
    assert!(chat.str("output").contains("\"timezone\":\"Asia/Tokyo\""), "{}", chat.text);

    let task = |action: &str, input: Value| json!({"tasks": [{"key": "t", "agent": "clock", "action": action, "input": input}]});
    let filtered = rest.post("/api/v1/plans", task("convert_time", json!({}))).await;
    assert_eq!(filtered.status, 422, "it is not in `tools`: {}", filtered.text);
    let invalid = rest.post("/api/v1/plans", task("get_current_time", json!({"timezone": 7}))).await;
    assert_eq!(invalid.status, 400, "{}", invalid.text);
    assert!(invalid.text.contains("`tasks[0].input.timezone` must be a string"), "{}", invalid.text);
    let unknown = rest.post("/api/v1/plans", task("get_current_time", json!({"timezone": "Nowhere"}))).await;
    assert_eq!(unknown.json["error"]["code"], "validation_failed", "{}", unknown.text);

    let clock = rest.get("/api/v1/agents/clock").await.json;
    let [action] = &clock["actions"].as_array().unwrap()[..] else { panic!("{clock}") };
    assert_eq!(action["name"], "get_current_time");
    assert_eq!(action["input_schema"]["required"], json!(["timezone"]));

    let agents = rest.get("/api/v1/agents").await.json;
    let clock = agents.as_array().unwrap().iter().find(|agent| agent["agent_id"] == "clock").unwrap();
    assert_eq!((&clock["health"], &clock["consecutive_failures"]), (&json!("healthy"), &json!(0)));
}

#[tokio::test]
async fn plan_combines_tools_of_a_real_server() {
    let Some(servers) = servers() else { return };
    let repository = tempfile::tempdir().unwrap();
    let git = |arguments: &[&str]| {
        let mut command = std::process::Command::new("git");
        command.args(["-c", "user.name=A", "-c", "user.email=a@b"]).args(arguments);
        assert!(command.current_dir(repository.path()).status().unwrap().success());
    };
    git(&["init", "--quiet"]);
    git(&["commit", "--quiet", "--allow-empty", "-m", "the only commit"]);
    let folder = repository.path().to_str().unwrap();
    let command = json!(["mcp-server-git", "--repository", folder]);
    // The server speaks both eras of the protocol.
    let config = format!(
        "[agents.repository]\nmcp = {{ command = {command} }}\n\
         [agents.modern]\nmcp = {{ command = {command}, protocol = \"2026-07-28\" }}\n\
         [agents.older]\nmcp = {{ command = {command}, protocol = \"2025-11-25\" }}\n"
    );
    let sandbox = sandbox(&config, &servers).await;
    let rest = sandbox.rest();
    for agent in ["repository", "modern", "older"] {
        until_tools_are_known(&rest, agent, "git_log").await;
        let task = |key: &str, action: &str| json!({"key": key, "agent": agent, "action": action, "input": {"repo_path": folder}});
        let mut last = task("status", "git_status");
        last["depends_on"] = json!(["log"]);
        let plan = rest.post("/api/v1/plans", json!({"tasks": [task("log", "git_log"), last]})).await;
        assert_eq!(plan.status, 200, "{agent}: {}", plan.text);
        for expected in ["the only commit", "nothing to commit"] {
            assert!(plan.text.contains(expected), "{agent}: {}", plan.text);
        }
    }
    let chat = rest.post("/api/v1/chat", json!({"message": "hello", "agent": "repository"})).await;
    assert_eq!(chat.status, 422, "{}", chat.text);
    assert!(chat.text.contains("send a plan with a tool as the action"), "{}", chat.text);
}

#[tokio::test]
async fn plan_calls_a_real_server_over_http() {
    let Some(servers) = servers() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/mcp_http_server.py");
    let mut command = Command::new(servers.join("python3"));
    command.arg(script).env("PYTHONDONTWRITEBYTECODE", "1").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut server = command.kill_on_drop(true).spawn().unwrap();
    let mut port = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut port).await.unwrap();
    let config = format!("[agents.sums]\nmcp = {{ url = \"http://127.0.0.1:{}/mcp\" }}\n", port.trim());
    let sandbox = sandbox(&config, &servers).await;
    let rest = sandbox.rest();
    until_tools_are_known(&rest, "sums", "add").await;
    let task =
        |key: &str, input: Value| json!({"key": key, "agent": "sums", "action": "add", "input": input});
    let second = task("second", json!({"a": "{{tasks.first.output.sum}}", "b": 10}));
    let plan =
        rest.post("/api/v1/plans", json!({"tasks": [task("first", json!({"a": 1, "b": 2})), second]})).await;
    assert_eq!((plan.status.as_u16(), plan.str("output")), (200, "{\"sum\":13}"), "{}", plan.text);
    let invalid = rest.post("/api/v1/plans", json!({"tasks": [task("t", json!({"a": "x"}))]})).await;
    assert_eq!(invalid.status, 400, "{}", invalid.text);
}

/// Node.js, and the folder of a package of the protocol's own servers, as `cargo xtask test` installs them.
fn server_for_node(name: &str) -> Option<Value> {
    let Some(folder) = std::env::var_os("NPM_CLIENTS").map(PathBuf::from) else {
        let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!is_ci, "NPM_CLIENTS must be set in CI; cargo xtask test sets it");
        eprintln!("SKIPPED: MCP servers for Node.js, because NPM_CLIENTS is not set");
        return None;
    };
    let node = ["x64", "arm64"].map(|cpu| folder.join(format!("node_modules/node-linux-{cpu}/bin/node")));
    let node = node.into_iter().find(|node| node.is_file()).unwrap_or_else(|| "node".into());
    let script = format!("node_modules/@modelcontextprotocol/server-{name}/dist/index.js");
    Some(json!([node, folder.join(script)]))
}

/// Waits until the only task of a plan asks something, and approves it with this answer to each of its questions.
async fn answer(rest: &Rest, plan_id: &str, answer: &Value) -> String {
    let started = Instant::now();
    let approval = loop {
        let plan = rest.plan(plan_id).await;
        let approval = plan["tasks"][0]["approval"].clone();
        if approval["state"] == "waiting" {
            break approval;
        }
        assert!(plan["ended_at"].is_null() && started.elapsed() < START_LIMIT, "it asks nothing: {plan}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let asked = approval["input"]["phoenix/questions"]["asked"].as_object().unwrap();
    let answers: serde_json::Map<_, _> = asked.keys().map(|name| (name.clone(), answer.clone())).collect();
    let body = json!({"actor": "ann", "input": answers, "input_hash": approval["input_hash"]});
    let decided = rest.post(&format!("/api/v1/plans/{plan_id}:approve"), body).await;
    assert_eq!(decided.status, 200, "{}", decided.text);
    approval["reason"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn servers_for_node_are_agents() {
    let Some(mut files) = server_for_node("filesystem") else { return };
    let folder = tempfile::tempdir().unwrap();
    files.as_array_mut().unwrap().push(json!(folder.path()));
    let (memory, everything) = (server_for_node("memory").unwrap(), server_for_node("everything").unwrap());
    let knowledge = json!(folder.path().join("memory.jsonl"));
    let config = format!(
        "[agents.files]\nmcp = {{ command = {files} }}\nrename = {{ read_text_file = \"read\" }}\n\
         [agents.memory]\nmcp = {{ command = {memory}, env = {{ MEMORY_FILE_PATH = {knowledge} }} }}\n\
         [agents.everything]\nmcp = {{ command = {everything} }}\nmax_concurrency = 1\n"
    );
    let sandbox = sandbox(&config, Path::new("/usr/bin")).await;
    let rest = sandbox.rest();
    until_tools_are_known(&rest, "files", "write_file").await;
    let path = folder.path().join("note.txt");
    let tasks = json!([
        {"key": "write", "agent": "files", "action": "write_file", "input": {"path": path, "content": "the note"}},
        {"key": "read", "agent": "files", "action": "read", "input": {"path": path}, "depends_on": ["write"]},
    ]);
    let plan = rest.post("/api/v1/plans", json!({"tasks": tasks})).await;
    assert!(plan.status == 200 && plan.str("output").contains("the note"), "{}", plan.text);
    let outside = json!({"tasks": [{"key": "t", "agent": "files", "action": "read", "input": {"path": "/etc/passwd"}}]});
    let outside = rest.post("/api/v1/plans", outside).await;
    assert_eq!(outside.json["error"]["code"], "validation_failed", "{}", outside.text);

    until_tools_are_known(&rest, "memory", "create_entities").await;
    let entity = json!({"name": "Phoenix", "entityType": "bird", "observations": ["it rises"]});
    let tasks = json!([
        {"key": "learn", "agent": "memory", "action": "create_entities", "input": {"entities": [entity]}},
        {"key": "ask", "agent": "memory", "action": "search_nodes", "input": {"query": "Phoenix"}, "depends_on": ["learn"]},
    ]);
    let plan = rest.post("/api/v1/plans", json!({"tasks": tasks})).await;
    assert!(plan.status == 200 && plan.str("output").contains("it rises"), "{}", plan.text);

    // It offers some tools only after the handshake.
    until_tools_are_known(&rest, "everything", "trigger-elicitation-request").await;
    let task = |action: &str, input: Value| json!({"tasks": [{"key": "t", "agent": "everything", "action": action, "input": input}]});
    let sum = rest.post("/api/v1/plans", task("get-sum", json!({"a": 2, "b": 40}))).await;
    assert!(sum.status == 200 && sum.str("output").contains("42"), "{}", sum.text);
    let image = rest.post("/api/v1/plans", task("get-tiny-image", json!({}))).await;
    assert!(image.status == 200 && image.text.contains("image/png"), "{}", image.text);
    let long = task("trigger-long-running-operation", json!({"duration": 1, "steps": 2}));
    let long = rest.submit("/api/v1/plans", long).await;
    assert_eq!(rest.wait_for_end(&long).await["status"], "succeeded");
    let asks = rest.submit("/api/v1/plans", task("trigger-elicitation-request", json!({}))).await;
    let reason = answer(&rest, &asks, &json!({"name": "Ada Lovelace"})).await;
    assert!(reason.contains("Please provide inputs"), "{reason}");
    let plan = rest.wait_for_end(&asks).await;
    assert!(plan["output"].as_str().is_some_and(|output| output.contains("Ada Lovelace")), "{plan}");
    resources_and_prompts_are_shown(&sandbox).await;
    for agent in ["files", "memory", "everything"] {
        let shown = rest.agent(agent).await.unwrap();
        assert_eq!(
            (&shown["health"], &shown["consecutive_failures"]),
            (&json!("healthy"), &json!(0)),
            "{shown}"
        );
    }
}

/// What `server-everything` offers beside its tools, in the API and on the command line.
async fn resources_and_prompts_are_shown(sandbox: &Sandbox) {
    let (rest, started) = (sandbox.rest(), Instant::now());
    let listing = loop {
        let listing = rest.get("/api/v1/agents/everything").await.json["mcp_listing"].clone();
        if listing["prompts"].as_array().is_some_and(|prompts| !prompts.is_empty()) {
            break listing;
        }
        assert!(started.elapsed() < START_LIMIT, "nothing was listed: {listing}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let templates: Vec<_> =
        listing["resources"].as_array().unwrap().iter().filter(|one| one["template"] == true).collect();
    assert!(
        templates.iter().any(|one| one["uri"] == "demo://resource/dynamic/text/{resourceId}"),
        "{listing}"
    );
    let shown = Command::new(phoenix_bin())
        .args(["agents", "get", "everything", "--url", &sandbox.url(Role::Gateway)])
        .env_clear()
        .output();
    let shown = String::from_utf8(shown.await.unwrap().stdout).unwrap();
    for text in ["RESOURCE", "demo://resource/dynamic/text/{resourceId}", "PROMPT", "args-prompt"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
}

#[tokio::test]
async fn server_of_another_library_asks_in_the_middle_of_a_call() {
    let Some(servers) = servers() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/fastmcp_server.py");
    let command = json!([servers.join("python3"), script]);
    let config = format!(
        "[agents.older]\nmcp = {{ command = {command}, protocol = \"2025-11-25\" }}\n[agents.found]\nmcp = {{ command = {command} }}\n"
    );
    let sandbox = sandbox(&config, &servers).await;
    let rest = sandbox.rest();
    for agent in ["older", "found"] {
        until_tools_are_known(&rest, agent, "greet").await;
        let task = |action: &str, input: Value| json!({"tasks": [{"key": "t", "agent": agent, "action": action, "input": input}]});
        let sum = rest.post("/api/v1/plans", task("add", json!({"a": 2, "b": 40}))).await;
        assert!(sum.status == 200 && sum.str("output").contains("42"), "{agent}: {}", sum.text);
        if agent == "found" {
            // The library asks nothing without a handshake.
            continue;
        }
        let asks = rest.submit("/api/v1/plans", task("greet", json!({"greeting": "hello"}))).await;
        assert_eq!(answer(&rest, &asks, &json!({"value": "Ada"})).await, format!("{agent} asks: Whom?"));
        let plan = rest.wait_for_end(&asks).await;
        assert_eq!(plan["output"], "hello, Ada", "{agent}: {plan}");
    }
}

#[test]
fn settings_of_the_page_are_valid() {
    let page = read("docs/mcp.md");
    let blocks: Vec<_> =
        page.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 2);
    for block in blocks {
        PhoenixConfig::parse(block, "phoenix", &|_| None)
            .unwrap_or_else(|problems| panic!("{problems}\n{block}"));
    }
}
