//! Failures of every kind, each explained by `phoenix trace` from a correlation id alone.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{path::Path, process::Command};

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{
    phoenix_bin,
    stack::Stack,
    wait::{until, until_some},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// A stack with an agent for each failure, and a provider of language models that is out of capacity.
async fn stack() -> Stack {
    let builder = Stack::builder();
    let dir = builder.dir().to_owned();
    std::fs::write(dir.join("gate"), "").unwrap();
    let scripted = |mode: &str, switch: &str| {
        json!([SCRIPTED, mode, dir.join(format!("{mode}.starts")), dir.join(switch)])
    };
    let shell = |script: &str| json!(["/bin/sh", "-c", script]);
    std::fs::write(dir.join("on"), "").unwrap();
    let agents = [
        ("crash", shell("echo 'cannot open the index' >&2; exit 3"), ""),
        ("hang", scripted("hang", "on"), "timeout_secs = 1\n"),
        ("slow", scripted("slow", "on"), ""),
        ("garbage", shell("read request; echo 'a stack trace'; cat >/dev/null"), "timeout_secs = 20\n"),
        ("fail", scripted("fail", "on"), ""),
        ("gate", scripted("gate", "gate"), "mode = \"oneshot\"\n"),
        ("careful", scripted("echo", "on"), "approval = \"required\"\n"),
        ("echo", scripted("echo", "on"), ""),
    ];
    let mut config = String::new();
    for (name, command, settings) in agents {
        let attempts = if name == "gate" { 3 } else { 1 };
        config += &format!(
            "[agents.{name}]\ncommand = {command}\n{settings}[agents.{name}.retry]\nmax_attempts = {attempts}\n"
        );
    }
    config += "[agents.fail.circuit_breaker]\nfailure_threshold = 2\n";
    config += "[agents.llm_router_agent.retry]\nmax_attempts = 1\n";
    builder
        .config(&config)
        .env("OPENAI_API_KEY", "sk-key-of-the-test")
        .env("OPENAI_BASE_URL", format!("{}/v1", busy_provider().await))
        .start()
        .await
}

/// A provider that answers 429 to everything.
async fn busy_provider() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = Vec::new();
                // The head is enough: the connection is closed after the response.
                while !request.windows(4).any(|part| part == b"\r\n\r\n") {
                    if connection.read_buf(&mut request).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let body = json!({"error": {"message": "tokens per minute are used up"}}).to_string();
                let head = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 30\r\nConnection: close";
                let response = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                let _ = connection.write_all(response.as_bytes()).await;
            });
        }
    });
    url
}

/// What `phoenix trace` prints about the correlation id: from the journal, and from the log files.
async fn trace(stack: &Stack, id: &str) -> (String, String) {
    let mut command = Command::new(phoenix_bin());
    command.args(["trace", id]).current_dir(stack.dir()).env_clear().env("PHOENIX_URL", stack.base_url());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let (story, log) = text.split_once("\n\nlog\n").unwrap_or((&text, ""));
    (story.to_owned(), log.to_owned())
}

/// Checks that the story of `id` has each of `causes`.
async fn explains(stack: &Stack, failure: &str, id: &str, causes: &[&str]) {
    let (story, log) = trace(stack, id).await;
    for cause in causes {
        assert!(story.contains(cause), "{failure}: `{cause}` is not in\n{story}\n{log}");
    }
}

/// The correlation id of a chat that does not succeed.
async fn failed_chat(stack: &Stack, body: Value) -> String {
    let answer = stack.rest().post("/api/v1/chat", body).await;
    assert_ne!(answer.status, 200, "{}", answer.text);
    answer.header("x-correlation-id").to_owned()
}

/// Submits a plan, and returns its id and its correlation id.
async fn submit(stack: &Stack, plan: Value) -> (String, String) {
    let plan_id = stack.rest().submit("/api/v1/plans", plan).await;
    let correlation_id = stack.rest().plan(&plan_id).await["correlation_id"].as_str().unwrap().to_owned();
    (plan_id, correlation_id)
}

fn task(key: &str, agent: &str, after: &[&str]) -> Value {
    json!({"key": key, "agent": agent, "action": "chat", "input": {"message": key}, "depends_on": after})
}

fn starts(dir: &Path, mode: &str) -> usize {
    std::fs::read_to_string(dir.join(format!("{mode}.starts"))).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn agents_that_fail_are_explained() {
    let stack = stack().await;
    let chat = async |agent: &str| failed_chat(&stack, json!({"message": "hello", "agent": agent})).await;
    let id = chat("crash").await;
    explains(
        &stack,
        "crash",
        &id,
        &["backend_failure", "exited with code 3", "stderr| cannot open the index"],
    )
    .await;
    let id = chat("hang").await;
    explains(&stack, "hang", &id, &["timeout", "within 1 s"]).await;
    let (plan_id, id) = submit(&stack, json!({"tasks": [task("t", "slow", &[])], "deadline_ms": 300})).await;
    assert_eq!(stack.rest().wait_for_end(&plan_id).await["status"], "failed");
    explains(&stack, "slow", &id, &["deadline  ", "timeout: agent `slow` did not "]).await;
    let id = chat("garbage").await;
    explains(&stack, "garbage", &id, &["backend_failure", "wrote a line that is not an action response"])
        .await;

    let last = until_some("the circuit opens", async || {
        let answer = stack.rest().chat_with("fail", "hello").await;
        (answer.status == 503).then(|| answer.header("x-correlation-id").to_owned())
    })
    .await;
    explains(&stack, "breaker open", &last, &["agent_unavailable", "failed 2 times in a row"]).await;
    let id = failed_chat(&stack, json!({"message": "hello", "agent": "llm_router_agent"})).await;
    explains(&stack, "provider 429", &id, &["overloaded", "429", "tokens per minute are used up"]).await;
}

#[tokio::test]
async fn limits_and_approvals_that_end_a_plan_are_explained() {
    let stack = stack().await;
    let tasks = [task("first", "echo", &[]), task("second", "echo", &["first"])];
    let (plan_id, id) = submit(&stack, json!({"tasks": tasks, "budget": {"max_calls": 1}})).await;
    assert_eq!(stack.rest().wait_for_end(&plan_id).await["status"], "failed");
    explains(&stack, "budget", &id, &["budget_exhausted", "max_calls", "task second"]).await;

    let mut careful = task("publish", "careful", &[]);
    careful["approval"] = json!({"reason": "publishes the release", "timeout_ms": 1000});
    let (plan_id, id) = submit(&stack, json!({"tasks": [careful]})).await;
    assert_eq!(stack.rest().wait_for_end(&plan_id).await["status"], "failed");
    explains(
        &stack,
        "approval",
        &id,
        &["expired", "reason publishes the release", "neither approved nor rejected before"],
    )
    .await;
}

#[tokio::test]
async fn services_that_die_under_a_task_are_explained() {
    let stack = stack().await;
    let (dir, rest) = (stack.dir(), stack.rest());
    for (role, cause, line) in [
        (Role::Executor, "its executor was lost while it ran", "executor lost while an attempt ran"),
        (Role::Planner, "its planner stopped while it ran", "plan taken over from a planner that stopped"),
    ] {
        std::fs::write(dir.join("gate"), "").unwrap();
        let before = starts(&dir, "gate");
        let (plan_id, id) = submit(&stack, json!({"tasks": [task("work", "gate", &[])]})).await;
        until("the agent runs, as the journal knows", async || {
            let attempts = rest.plan(&plan_id).await["tasks"][0]["attempts"].as_array().map_or(0, Vec::len);
            starts(&dir, "gate") > before && attempts == 1
        })
        .await;
        stack.signal_role(role, Signal::SIGKILL);
        until("the task runs again", async || starts(&dir, "gate") > before + 1).await;
        std::fs::remove_file(dir.join("gate")).unwrap();
        until("the planner answers", async || {
            rest.try_send("GET".parse().unwrap(), "/readyz", None)
                .await
                .is_some_and(|ready| ready.status == 200)
        })
        .await;
        assert_eq!(rest.wait_for_end(&plan_id).await["status"], "succeeded");
        explains(&stack, role.as_str(), &id, &["attempt 1", "cancelled", cause]).await;
        // The lines of the planner come a moment later.
        until("the log names it", async || trace(&stack, &id).await.1.contains(line)).await;
    }
}
