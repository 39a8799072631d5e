//! The log files of `phoenix up`, and `phoenix trace` over them.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
    process::{Command, Output},
};

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{phoenix_bin, stack::Stack, wait::until};
use serde_json::Value;

/// Runs `phoenix trace` in the folder of the stack.
async fn trace(stack: &Stack, words: &[&str]) -> Output {
    let mut command = Command::new(phoenix_bin());
    command.arg("trace").args(words).current_dir(stack.dir()).env_clear();
    command.env("PHOENIX_URL", stack.base_url());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The lines of all files of a service, which are JSON without exception.
fn lines(logs: &Path, service: &str) -> Vec<Value> {
    let file = fs::read_to_string(logs.join(format!("{service}.jsonl"))).unwrap_or_default();
    file.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn lines_of_a_request_are_kept_and_shown_in_order() {
    // A format for people on standard error, and JSON in the files.
    let mut stack = Stack::builder().env("LOG_FORMAT", "pretty").start().await;
    let logs = stack.dir().join("data/logs");
    let answer = stack.rest().chat_with("echo_agent", "hello").await;
    let id = answer.header("x-correlation-id").to_owned();
    let ended = async || lines(&logs, "gateway").iter().any(|line| line["correlation_id"] == id.as_str());
    until("the request is logged", ended).await;

    let shown = trace(&stack, &[&id]).await;
    assert_eq!((shown.status.code(), text(&shown.stderr)), (Some(0), String::new()));
    let story = text(&shown.stdout);
    let (plan, log) = story.split_once("\n\nlog\n").unwrap();
    assert!(plan.starts_with("plan ") && plan.contains("attempt 1"), "{story}");
    for expected in ["planner   plan ended", "gateway   request"] {
        assert!(log.contains(expected), "{expected} is not in {story}");
    }
    let times: Vec<_> = log.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert!(times.len() >= 2 && times.is_sorted(), "{story}");
    let json = text(&trace(&stack, &[&id, "--json"]).await.stdout);
    let documents: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(documents[0]["correlation_id"], id.as_str());
    assert!(
        documents[1..].iter().all(|line| line["correlation_id"] == id.as_str() && line["level"].is_string())
    );

    // A request without a plan has lines.
    let refused = stack.rest().chat_with("no_such_agent", "hello").await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    let id = refused.header("x-correlation-id").to_owned();
    let ended = async || lines(&logs, "gateway").iter().any(|line| line["correlation_id"] == id.as_str());
    until("the refusal is logged", ended).await;
    let shown = trace(&stack, &[&id]).await;
    assert!(shown.status.success() && text(&shown.stdout).contains("planning_failed"), "{shown:?}");
    // Elsewhere, the journal has nothing about it.
    let elsewhere = trace(&stack, &[&id, "--data-dir", "elsewhere"]).await;
    assert_eq!(elsewhere.status.code(), Some(1), "{elsewhere:?}");

    // A service that was killed continues its file.
    stack.signal_role(Role::Executor, Signal::SIGKILL);
    until("the executor starts again", async || {
        lines(&logs, "executor").iter().filter(|line| line["message"] == "starting").count() == 2
    })
    .await;
    assert_eq!(stack.stop().await, Some(0));
    for service in ["gateway", "planner", "executor", "health", "up"] {
        assert!(!lines(&logs, service).is_empty(), "{service}");
        assert_eq!(fs::metadata(logs.join(format!("{service}.jsonl"))).unwrap().mode() & 0o777, 0o600);
    }
    let last = lines(&logs, "planner").pop().unwrap();
    assert_eq!(last["message"], "stopped", "the lines of the shutdown are kept, too");

    // The lines remain when the gateway is gone.
    let offline = trace(&stack, &[&id]).await;
    assert_eq!(offline.status.code(), Some(69));
    assert!(text(&offline.stdout).contains("planning_failed"), "{offline:?}");
}

#[tokio::test]
async fn files_that_cannot_be_written_cost_lines_and_no_request() {
    let builder = Stack::builder();
    let data = builder.dir().join("data");
    fs::create_dir(&data).unwrap();
    // A device on which every write fails with "no space left".
    fs::create_dir(data.join("logs")).unwrap();
    symlink("/dev/full", data.join("logs/planner.jsonl")).unwrap();
    let mut stack = builder.start().await;
    let rest = stack.rest();
    let lost = async || stack.metric(Role::Planner, "phoenix_log_lines_dropped_total").await;
    until("lines are lost", async || {
        assert_eq!(rest.chat_with("echo_agent", "hello").await.status, 200);
        lost().await > 5.0
    })
    .await;
    assert_eq!(rest.get("/readyz").await.status, 200);
    let warned = |message: &str| {
        let log = stack.log();
        log.iter().any(|line| line["service"] == "planner" && line["message"] == message)
    };
    until("the loss is logged", async || {
        warned("log lines could not be written") || warned("log lines are not kept in a file")
    })
    .await;
    assert_eq!(stack.stop().await, Some(0), "{}", stack.stderr_text());

    // A file where the folder should be.
    fs::remove_dir_all(data.join("logs")).unwrap();
    let mut stack = {
        let again = Stack::builder();
        fs::create_dir(again.dir().join("data")).unwrap();
        fs::write(again.dir().join("data/logs"), "not a folder").unwrap();
        again.start().await
    };
    assert_eq!(stack.rest().chat_with("echo_agent", "hello").await.status, 200);
    until("the loss is counted", async || {
        stack.metric(Role::Gateway, "phoenix_log_lines_dropped_total").await > 0.0
    })
    .await;
    assert_eq!(stack.stop().await, Some(0), "{}", stack.stderr_text());
}

#[tokio::test]
async fn stack_without_log_files_writes_none_and_serves() {
    let mut stack =
        Stack::builder().launcher(&["sh", "-c", "exec \"$@\" --no-log-files", "sh"]).start().await;
    assert_eq!(stack.rest().chat_with("echo_agent", "hello").await.status, 200);
    assert!(stack.log().iter().any(|line| line["service"] == "planner"), "standard error has the lines");
    assert_eq!(stack.stop().await, Some(0), "{}", stack.stderr_text());
    let kept = fs::read_dir(stack.dir().join("data/logs")).into_iter().flatten().count();
    assert_eq!(kept, 0);
}
