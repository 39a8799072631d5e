//! A backup that is taken while the stack works, and what is left of the work when only the backup is.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::{
    path::Path,
    process::{Command, Output},
    sync::atomic::{AtomicBool, Ordering},
};

use nix::sys::signal::Signal;
use phoenix_testkit::{http::Rest, phoenix_bin, stack::Stack, wait::until_some};
use serde_json::{Value, json};

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// Runs `phoenix` with `arguments` in `dir` to its end.
async fn phoenix(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(phoenix_bin());
    command.args(arguments).current_dir(dir);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Hands over a plan for `agent`: its id.
async fn submit(rest: &Rest, agent: &str) -> String {
    let task = json!({"key": "t", "agent": agent, "action": "chat", "input": {"message": "kept"}});
    let rest = rest.clone().with_header("prefer", "respond-async");
    let answer = rest.post("/api/v1/plans", json!({"tasks": [task]})).await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    answer.str("plan_id").to_owned()
}

async fn ended(rest: &Rest, plan_id: &str) -> Value {
    until_some("the plan has ended", async || {
        let plan = rest.get(&format!("/api/v1/plans/{plan_id}")).await;
        plan.json["ended_at"].is_string().then_some(plan.json)
    })
    .await
}

#[tokio::test]
async fn what_was_acknowledged_before_a_backup_began_is_in_it_and_goes_on_from_it() {
    let builder = Stack::builder();
    let dir = builder.dir().to_owned();
    let hang = json!([SCRIPTED, "hang", dir.join("hang.starts")]);
    let mut stack =
        builder.config(&format!("[agents.later]\ncommand = {hang}\ntimeout_secs = 600\n")).start().await;
    let rest = stack.rest();
    let finished = submit(&rest, "echo_agent").await;
    assert_eq!(ended(&rest, &finished).await["status"], "succeeded");
    let unfinished = submit(&rest, "later").await;

    // Under load, as it would be.
    let enough = AtomicBool::new(false);
    let load = async {
        while !enough.load(Ordering::Relaxed) {
            assert_eq!(rest.chat_with("echo_agent", "load").await.str("output"), "load");
        }
    };
    let backup = async {
        let backup = phoenix(&dir, &["backup", "--data-dir", "data", "--to", "copy"]).await;
        let again = phoenix(&dir, &["backup", "--data-dir", "data", "--to", "copy"]).await;
        enough.store(true, Ordering::Relaxed);
        (backup, again)
    };
    let ((backup, again), ()) = tokio::join!(backup, load);
    assert!(backup.status.success(), "{}", text(&backup));
    assert!(text(&backup).contains("wrote"), "{}", text(&backup));
    assert_eq!(again.status.code(), Some(1), "an earlier backup is not overwritten: {}", text(&again));
    assert!(text(&again).contains("--force"), "{}", text(&again));
    stack.signal(Signal::SIGKILL);
    assert_eq!(stack.wait().await, None);

    // A stack that has nothing but the copy, and an agent that does now what it did not do then.
    let builder = Stack::builder();
    let echo = json!([SCRIPTED, "echo", builder.dir().join("echo.starts")]);
    let copy = dir.join("copy");
    let restore =
        phoenix(builder.dir(), &["restore", "--from", copy.to_str().unwrap(), "--data-dir", "data"]).await;
    assert!(restore.status.success(), "{}", text(&restore));
    let mut restored = builder.config(&format!("[agents.later]\ncommand = {echo}\n")).start().await;
    let rest = restored.rest();
    assert_eq!(ended(&rest, &finished).await["status"], "succeeded");
    let plan = ended(&rest, &unfinished).await;
    assert_eq!((&plan["status"], &plan["output"]), (&json!("succeeded"), &json!("kept")), "{plan:#}");
    let again = ["restore", "--from", copy.to_str().unwrap(), "--data-dir", "data", "--force"];
    let busy = phoenix(&restored.dir(), &again).await;
    assert_eq!(busy.status.code(), Some(1), "not under a stack that works: {}", text(&busy));
    assert_eq!(restored.stop().await, Some(0));
}
