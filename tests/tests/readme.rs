//! README.md as it runs: the commands of its sections on MCP and on plans of language models, against a real stack, and what they
//! print.
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a skipped test says so; helpers of tests"
)]

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};

use phoenix_testkit::{
    model_provider::ModelProvider,
    phoenix_bin,
    stack::{Stack, StackBuilder},
    wait::{TIMEOUT, until},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

/// The gateway in README.md.
const GATEWAY: &str = "http://127.0.0.1:8181";

/// The section of README.md with this heading.
fn section(heading: &str) -> String {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let section = text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no {heading}")).1;
    section.split("\n## ").next().unwrap().to_owned()
}

/// The blocks of a section in one language.
fn blocks(section: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    section.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The commands of a block, each with what it prints.
fn steps(block: &str) -> Vec<(String, String)> {
    let mut steps: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push((command.to_owned() + "\n", String::new())),
            (None, Some((command, _))) if command.ends_with("\\\n") => *command += &format!("{line}\n"),
            (None, Some((_, shown))) => *shown += &format!("{line}\n"),
            (None, None) => panic!("output before the first command: {line}"),
        }
    }
    steps
}

/// The text in pieces: words of letters, digits and `:.+-`, and what is between them.
fn pieces(text: &str) -> Vec<&str> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '.' | '+' | '-');
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| is_word(c) != is_word(first)).unwrap_or(rest.len());
        pieces.push(&rest[..end]);
        rest = &rest[end..];
    }
    pieces
}

fn is_id(word: &str) -> bool {
    let groups: Vec<_> = word.split('-').map(str::len).collect();
    groups == [8, 4, 4, 4, 12] && word.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

/// Whether `word` is a time of RFC 3339, or that of a log line: `22:09:01.784112`.
fn is_time(word: &str) -> bool {
    let is_full = word.get(10..11) == Some("T") && word[..10].chars().all(|c| c.is_ascii_digit() || c == '-');
    let is_of_day = word.split([':', '.']).map(str::len).eq([2, 2, 2, 6])
        && word.chars().all(|c| c.is_ascii_digit() || matches!(c, ':' | '.'));
    is_full || is_of_day
}

fn is_duration(word: &str) -> bool {
    let number = word.trim_start_matches('+').trim_end_matches("ms").trim_end_matches('s');
    number.len() < word.trim_start_matches('+').len()
        && !number.is_empty()
        && number.chars().all(|c| c.is_ascii_digit() || c == '.')
}

/// The ids of a text, in order.
fn ids(text: &str) -> Vec<String> {
    pieces(text).into_iter().filter(|word| is_id(word)).map(str::to_owned).collect()
}

/// The text without what differs from run to run: ids, times, durations, process ids and days of the week.
fn normalised(text: &str) -> String {
    const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    let (mut result, mut before) = (String::new(), "");
    for word in pieces(text.trim_end()) {
        let is_number = !word.is_empty() && word.chars().all(|c| c.is_ascii_digit());
        result += match word {
            word if is_id(word) => "<id>",
            word if is_time(word) => "<time>",
            word if is_duration(word) => "<duration>",
            _ if is_number && before == "pid" => "<pid>",
            _ if is_number && result.ends_with("elapsed_ms=") => "<duration>",
            word if DAYS.contains(&word) => "<day>",
            word => word,
        };
        before = if word.trim().is_empty() { before } else { word };
    }
    // Lines of several services may change places.
    if let Some((shown, log)) = result.split_once("\nlog\n") {
        let mut lines: Vec<_> = log.lines().collect();
        lines.sort_unstable();
        return format!("{shown}\nlog\n{}", lines.join("\n"));
    }
    result
}

/// A shell that runs commands of README.md.
struct Shell {
    stack: Stack,
    path: String,
    /// Ids in README.md, and what they are here.
    ids: Vec<(String, String)>,
}

impl Shell {
    /// Starts a stack whose agents find the programs of `folders`, as the shell does.
    async fn start(builder: StackBuilder, config: &str, folders: &[&Path]) -> Self {
        let phoenix = phoenix_bin();
        let folders = folders.iter().copied().chain([phoenix.parent().unwrap()]);
        let folders: Vec<_> = folders.map(|folder| folder.to_str().unwrap().to_owned()).collect();
        let path = format!("{}:{}", folders.join(":"), std::env::var("PATH").unwrap());
        let stack = builder.config(config).env("PATH", &path).start().await;
        Self { stack, path, ids: Vec::new() }
    }

    /// Runs the commands of a block, and compares what they print.
    async fn run(&mut self, block: &str) {
        for (command, shown) in steps(block) {
            let mut printed = self.execute(&command).await;
            let begun = Instant::now();
            // The last lines of the log are in their files a moment after the plan's end.
            while command.contains(" trace ")
                && normalised(&printed) != normalised(&shown)
                && begun.elapsed() < TIMEOUT
            {
                printed = self.execute(&command).await;
            }
            assert_eq!(normalised(&printed), normalised(&shown), "README.md: $ {command}\n{printed}");
            self.ids.extend(ids(&shown).into_iter().zip(ids(&printed)));
        }
    }

    async fn execute(&self, command: &str) -> String {
        let mut here = command.replace(GATEWAY, &self.stack.base_url());
        for id in ids(command) {
            let known = self.ids.iter().rfind(|(shown, _)| *shown == id);
            let (_, own) = known.unwrap_or_else(|| panic!("README.md: no command printed {id}: {command}"));
            here = here.replace(&id, own);
            self.wait_for(own, command).await;
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", &here]).current_dir(self.stack.dir()).env_clear();
        shell.env("PATH", &self.path).env("PHOENIX_URL", self.stack.base_url());
        let output = shell.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
        let problem = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && problem.is_empty(), "README.md: $ {command}\n{problem}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits for what a reader waits for before the command.
    async fn wait_for(&self, plan_id: &str, command: &str) {
        let rest = self.stack.rest();
        if command.contains(" trace ") {
            rest.wait_for_end(plan_id).await;
        } else if command.contains(" approve ") {
            until("a task waits for its approval", async || {
                let plan = rest.plan(plan_id).await;
                plan["tasks"].as_array().unwrap().iter().any(|task| task["status"] == "awaiting_approval")
            })
            .await;
        }
    }
}

/// The values that the test removes, in a text that keeps everything else.
#[test]
fn only_what_differs_from_run_to_run_is_removed() {
    let text = "plan 01a21f0e-0352-761a-8203-4b68c4ff8fcd  succeeded after 2.1s\n  accepted 2026-11-27T22:09:01.778223Z\n  \
         attempt 1  at +85ms  pid 13472, $0.0002132, 1612 + 104, {\"limit\":3} Saturday";
    let expected = "plan <id>  succeeded after <duration>\n  accepted <time>\n  \
         attempt 1  at <duration>  pid <pid>, $0.0002132, 1612 + 104, {\"limit\":3} <day>";
    assert_eq!(normalised(text), expected);
    assert_eq!(steps("$ a \\\n  b\nx\n$ c\n"), [("a \\\n  b\n", "x\n"), ("c\n", "")].map(owned));
}

fn owned(pair: (&str, &str)) -> (String, String) {
    (pair.0.to_owned(), pair.1.to_owned())
}

/// A folder with a repository of three commits.
fn repository(dir: &Path) -> PathBuf {
    let folder = dir.join("repository");
    std::fs::create_dir(&folder).unwrap();
    let git = |arguments: &[&str]| {
        let mut command = std::process::Command::new("git");
        command.args(["-c", "user.name=A", "-c", "user.email=a@b"]).args(arguments);
        assert!(command.current_dir(&folder).status().unwrap().success());
    };
    git(&["init", "--quiet"]);
    for subject in ["First", "Second", "Third"] {
        git(&["commit", "--quiet", "--allow-empty", "-m", subject]);
    }
    folder
}

#[tokio::test]
async fn plan_of_a_model_is_approved_and_traced_as_the_readme_shows() {
    let task = |key: &str, agent: &str, action: &str, input: &Value| {
        json!({
            "key": key, "agent": agent, "action": action, "input": input.to_string(), "depends_on": [], "on_failure": "fail"
        })
    };
    let note = json!({"content": "{{tasks.log.output}}", "title": "Commits"});
    let tasks = [
        task("log", "git_agent", "git_log", &json!({"limit": 3})),
        task("note", "obsidian_agent", "create_note", &note),
    ];
    let answer = json!({ "tasks": tasks }).to_string();
    let provider = ModelProvider::start_as("gpt-6-luna", (1612, 104), move |_| answer.clone()).await;
    let builder = Stack::builder();
    let repository = repository(builder.dir());
    let builder = builder.env("GIT_AGENT_REPO_ROOT", repository.to_str().unwrap());
    let mut shell = Shell::start(builder, &provider.config(), &[]).await;
    let blocks = blocks(&section("A plan that a language model proposes"), "console");
    assert_eq!(blocks.len(), 1);
    shell.run(&blocks[0]).await;
    let request = &provider.requests()[0];
    assert_eq!(request["messages"][1]["content"], "Write the last commits into a note", "{request:#}");
}

#[tokio::test]
async fn mcp_server_is_an_agent_as_the_readme_shows() {
    let Some(program) = std::env::var_os("MCP_SERVER_TIME_BIN").map(PathBuf::from) else {
        let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!is_ci, "MCP_SERVER_TIME_BIN must be set in CI; cargo xtask test sets it");
        eprintln!("SKIPPED: an MCP server as an agent, because MCP_SERVER_TIME_BIN is not set");
        return;
    };
    let section = section("MCP servers as agents");
    let config = &blocks(&section, "toml")[0];
    assert_eq!(config.lines().count(), 3, "{config}");
    // Python takes long to start on a busy machine.
    let config = format!("{config}\n[agents.default]\nstart_timeout_secs = 600\ntimeout_secs = 100\n");
    let mut shell = Shell::start(Stack::builder(), &config, &[program.parent().unwrap()]).await;
    let rest = shell.stack.rest();
    until("the tools are known", async || {
        rest.get("/api/v1/agents/clock").await.text.contains("get_current_time")
    })
    .await;
    for block in blocks(&section, "console") {
        shell.run(&block).await;
    }
}

#[tokio::test]
async fn phoenix_is_an_mcp_server_as_the_readme_shows() {
    let section = section("As an MCP server");
    let shell = Shell::start(Stack::builder(), "", &[]).await;
    let config: Value = serde_json::from_str(&blocks(&section, "json")[0]).unwrap();
    let server = &config["mcpServers"]["phoenix"];
    let arguments = server["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap());
    // A client starts the command like a shell, by its name.
    let mut client = Command::new("env");
    client
        .arg("-i")
        .arg(format!("PATH={}", shell.path))
        .arg(format!("PHOENIX_URL={}", shell.stack.base_url()));
    client.arg(server["command"].as_str().unwrap()).args(arguments);
    client.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut client = client.spawn().unwrap();
    let (mut input, mut output) =
        (client.stdin.take().unwrap(), BufReader::new(client.stdout.take().unwrap()).lines());
    let mut ask = async |request: Value| {
        input.write_all(format!("{request}\n").as_bytes()).await.unwrap();
        let answer = output.next_line().await.unwrap().unwrap();
        serde_json::from_str::<Value>(&answer).unwrap()
    };
    let info = json!({"name": "readme", "version": "1"});
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info});
    ask(json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})).await;
    let listed = ask(json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"})).await;
    let tools = listed["result"]["tools"].as_array().unwrap_or_else(|| panic!("{listed}"));
    let sentence = section.split("Its tools ").nth(1).unwrap().split('.').next().unwrap();
    let mut named: Vec<_> = sentence.split('`').skip(1).step_by(2).collect();
    named.sort_unstable();
    let mut listed: Vec<_> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    listed.sort_unstable();
    assert_eq!(listed, named, "README.md: Its tools {sentence}");
    let params = json!({"name": "chat", "arguments": {"agent": "echo_agent", "message": "hello"}});
    let answer = ask(json!({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": params})).await;
    assert_eq!(answer["result"]["content"][0]["text"], "hello", "{answer}");
}
