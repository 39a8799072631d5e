//! Unmodified clients of OpenAI's API: the official library for Python, and the command line `llm`.
#![allow(clippy::print_stderr, clippy::unwrap_used, reason = "a skipped test says so; helpers of tests")]

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use phoenix_platform::config::Role;
use phoenix_testkit::sandbox::Sandbox;
use serde_json::json;
use tokio::process::Command;

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// The program `llm`, as `cargo xtask test` installs it, beside a Python that has the library `openai`.
fn llm() -> Option<PathBuf> {
    let program = std::env::var_os("LLM_BIN").map(PathBuf::from);
    if program.is_none() {
        let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!is_ci, "LLM_BIN must be set in CI; cargo xtask test sets it");
        eprintln!("SKIPPED: clients of OpenAI's API, because LLM_BIN is not set");
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

#[tokio::test]
async fn official_client_completes_streams_and_does_not_repeat_final_errors() {
    let Some(llm) = llm() else { return };
    let dir = tempfile::tempdir().unwrap();
    let starts = dir.path().join("starts");
    let sandbox = sandbox(&starts).await;
    let url = format!("{}/v1", sandbox.url(Role::Gateway));
    let mut python = Command::new(llm.with_file_name("python3"));
    python.arg(own("openai_client.py")).arg(url).env("PYTHONDONTWRITEBYTECODE", "1").kill_on_drop(true);
    assert_succeeded(&python.output().await.unwrap());
    assert_eq!(
        std::fs::read_to_string(&starts).unwrap().lines().count(),
        2,
        "a failed completion is sent once"
    );
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
