//! Unmodified clients of OpenAI's and Anthropic's APIs, for Python and Node.js, and the command line `llm`; and upstreams that others wrote.
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a skipped test says so; helpers of tests"
)]

mod upstreams;

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{sandbox::Sandbox, stack::Stack};
use serde_json::json;
use tokio::process::Command;

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// The program `llm`, as `cargo xtask test` installs it, beside a Python that has the library `openai`.
fn llm() -> Option<PathBuf> {
    installed("LLM_BIN")
}

/// The program that a variable names. Without it, its test is skipped, except in CI.
fn installed(variable: &str) -> Option<PathBuf> {
    let program = std::env::var_os(variable).map(PathBuf::from);
    if program.is_none() {
        let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!is_ci, "{variable} must be set in CI; cargo xtask test sets it");
        eprintln!("SKIPPED: a program in Python, because {variable} is not set");
    }
    program
}

fn own(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(file)
}

/// A sandbox with an agent that answers like a model, and one that fails and records its runs in `starts`.
async fn sandbox(starts: &Path) -> Sandbox {
    let model = json!(["python3", own("agent.py")]);
    let broken = json!([SCRIPTED, "fail", starts]);
    let config = format!(
        "[llm.ollama]\nmodel_name = \"a:b\"\n[agents.model]\ncommand = {model}\nmode = \"workers\"\nworkers = 1\n\
         [agents.broken]\ncommand = {broken}\n[agents.broken.retry]\nmax_attempts = 1\n\
         [agents.broken.circuit_breaker]\nfailure_threshold = 100\n"
    );
    let path = std::env::var("PATH").unwrap();
    Sandbox::start_with(&config, &[("PATH", path.as_str())]).await
}

fn assert_succeeded(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(output.status.success(), "{out}\n{err}");
    out
}

/// Runs `script` with a client in Python against `url`.
async fn run_python(llm: &Path, script: &str, url: String) {
    run_python_with(llm, script, &[&url]).await;
}

/// Runs `script` with a client in Python, and returns what it prints.
async fn run_python_with(llm: &Path, script: &str, arguments: &[&str]) -> String {
    let mut python = Command::new(llm.with_file_name("python3"));
    python.arg(own(script)).args(arguments).env("PYTHONDONTWRITEBYTECODE", "1").kill_on_drop(true);
    for variable in [
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "ANTHROPIC_BASE_URL",
    ] {
        python.env_remove(variable);
    }
    assert_succeeded(&python.output().await.unwrap())
}

/// Runs `script` against a sandbox. It fails twice, and sends each failed request once.
async fn official_client_does_not_repeat_final_errors(script: &str, path: &str) {
    let Some(llm) = llm() else { return };
    let dir = tempfile::tempdir().unwrap();
    let starts = dir.path().join("starts");
    let sandbox = sandbox(&starts).await;
    run_python(&llm, script, format!("{}{path}", sandbox.url(Role::Gateway))).await;
    let runs = std::fs::read_to_string(&starts).unwrap().lines().count();
    assert_eq!(runs, 2, "a failed request is sent once");
}

#[tokio::test]
async fn openai_client_completes_streams_and_keeps_final_errors() {
    official_client_does_not_repeat_final_errors("openai_client.py", "/v1").await;
}

#[tokio::test]
async fn client_of_openai_resumes_a_stream_after_a_killed_planner() {
    let Some(llm) = llm() else { return };
    let builder = Stack::builder();
    let held = builder.dir().join("held");
    std::fs::write(&held, "").unwrap();
    let command = json!([SCRIPTED, "talk", "", held]);
    let config = format!("[agents.agent]\ncommand = {command}\ntimeout_secs = 600\n");
    let stack = builder.config(&config).start().await;
    let url = format!("{}/v1", stack.url(Role::Gateway));
    let printed = run_python_with(&llm, "resume_client.py", &[&url, "start"]).await;
    let (response, last): (String, u64) = serde_json::from_str(&printed).unwrap();
    stack.signal_role(Role::Planner, Signal::SIGKILL);
    let held = held.to_str().unwrap();
    run_python_with(&llm, "resume_client.py", &[&url, "resume", &response, &last.to_string(), held]).await;
}

#[tokio::test]
async fn anthropic_client_completes_streams_and_keeps_errors() {
    official_client_does_not_repeat_final_errors("anthropic_client.py", "").await;
}

#[tokio::test]
async fn langchain_completes_streams_and_calls_tools() {
    let Some(llm) = llm() else { return };
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(&dir.path().join("starts")).await;
    run_python(&llm, "langchain_client.py", format!("{}/v1", sandbox.url(Role::Gateway))).await;
}

/// Node.js and the folder of its packages, as `cargo xtask test` installs them.
fn node() -> Option<(PathBuf, PathBuf)> {
    let Some(folder) = std::env::var_os("NPM_CLIENTS").map(PathBuf::from) else {
        let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!is_ci, "NPM_CLIENTS must be set in CI; cargo xtask test sets it");
        eprintln!("SKIPPED: clients for Node.js, because NPM_CLIENTS is not set");
        return None;
    };
    let own = ["x64", "arm64"].map(|cpu| folder.join(format!("node_modules/node-linux-{cpu}/bin/node")));
    let node = own.into_iter().find(|node| node.is_file()).unwrap_or_else(|| "node".into());
    Some((node, folder))
}

#[tokio::test]
async fn clients_for_node_complete_stream_and_call_tools() {
    let Some((node, folder)) = node() else { return };
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(&dir.path().join("starts")).await;
    let mut command = Command::new(node);
    command.arg(own("clients.mjs")).arg(folder).arg(sandbox.url(Role::Gateway)).kill_on_drop(true);
    for variable in [
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "ANTHROPIC_BASE_URL",
    ] {
        command.env_remove(variable);
    }
    assert_succeeded(&command.output().await.unwrap());
}

/// Qwen Code, a coding agent for the terminal, with nothing but its three environment variables.
#[tokio::test]
async fn coding_client_works_with_its_own_tools() {
    let Some((node, folder)) = node() else { return };
    let command = json!(["python3", own("coder.py")]);
    let path = std::env::var("PATH").unwrap();
    let config = format!("[agents.coder]\ncommand = {command}\nmode = \"workers\"\nworkers = 1\n");
    let sandbox = Sandbox::start_with(&config, &[("PATH", path.as_str())]).await;
    let project = tempfile::tempdir().unwrap();
    let file = project.path().join("made.txt");
    let mut client = Command::new(node);
    client
        .arg(folder.join("node_modules/@qwen-code/qwen-code/cli.js"))
        .args(["--auth-type", "openai", "--approval-mode", "yolo", "-p"])
        .arg(format!("write into {}", file.display()))
        .env_clear()
        .env("PATH", path)
        .env("HOME", project.path())
        .env("OPENAI_BASE_URL", format!("{}/v1", sandbox.url(Role::Gateway)))
        .env("OPENAI_API_KEY", "any text")
        .env("OPENAI_MODEL", "coder")
        .current_dir(project.path())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let printed = assert_succeeded(&client.output().await.unwrap());
    assert!(printed.contains("done after 1 call"), "{printed}");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "written by the client's own tool\n");
    let plans = sandbox.rest().get("/api/v1/plans?agent=coder").await;
    let statuses: Vec<_> =
        plans.json["plans"].as_array().unwrap().iter().map(|plan| &plan["status"]).collect();
    assert_eq!(statuses, ["succeeded", "succeeded"], "each request is a plan: {}", plans.text);
}

#[tokio::test]
async fn command_line_llm_prints_a_streamed_answer() {
    let Some(llm) = llm() else { return };
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(&dir.path().join("starts")).await;
    let url = format!("{}/v1", sandbox.url(Role::Gateway));
    let models = json!([{"model_id": "phoenix-model", "model_name": "model", "api_base": url}]);
    std::fs::write(dir.path().join("extra-openai-models.yaml"), models.to_string()).unwrap();
    for options in [&[][..], &["--no-stream"]] {
        let mut command = Command::new(&llm);
        command
            .args(["prompt", "-m", "phoenix-model", "-s", "be brief", "--no-log"])
            .args(options)
            .arg("hello");
        command.env("LLM_USER_PATH", dir.path()).env_remove("OPENAI_API_KEY").kill_on_drop(true);
        let printed = assert_succeeded(&command.output().await.unwrap());
        assert_eq!(printed.trim(), "2 messages, the last: hello", "{options:?}");
    }
}
