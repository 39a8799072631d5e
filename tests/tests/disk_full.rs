//! A disk that fills up under a running stack, and has free space again later. The disk is a small one in memory, mounted for
//! the stack only.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests")]

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use phoenix_platform::config::Role;
use phoenix_testkit::{
    http::{Answer, Rest},
    stack::Stack,
    wait::{until, until_some},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// Runs a command with a small disk at `$DISK`.
const ON_A_SMALL_DISK: &str = r#"mount -t tmpfs -o size=8m small "$DISK" && exec "$0" "$@""#;

/// The command that gives a process its own mounts; `None` where that is not permitted.
fn private_mounts(disk: &Path) -> Option<[&'static str; 2]> {
    let ways = [["unshare", "--mount"], ["unshare", "--map-root-user --mount"]];
    let works = |[program, flags]: &[&str; 2]| {
        let mut command = Command::new(program);
        command.args(flags.split(' ')).args(["sh", "-c", ON_A_SMALL_DISK, "true"]).env("DISK", disk);
        command.output().is_ok_and(|output| output.status.success())
    };
    ways.into_iter().find(works)
}

/// Writes to `file` until the disk is full.
fn fill(file: &Path) {
    let mut ballast = OpenOptions::new().create(true).append(true).open(file).unwrap();
    for size in [65_536, 4096, 512] {
        let block = vec![0x5a; size];
        while ballast.write_all(&block).is_ok() {}
    }
}

/// A request and its response.
struct Call {
    correlation_id: String,
    answer: Answer,
}

/// Sends one chat after the other until `enough` is set.
async fn call(rest: Rest, enough: Arc<AtomicBool>, rejections: Arc<AtomicUsize>) -> Vec<Call> {
    let mut calls = Vec::new();
    while !enough.load(Ordering::Relaxed) {
        let answer = rest.chat_with("echo_agent", &"text that fills the disk ".repeat(40)).await;
        if answer.status != 200 {
            rejections.fetch_add(1, Ordering::Relaxed);
            // Paces the retries.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        calls.push(Call { correlation_id: answer.header("x-correlation-id").to_owned(), answer });
    }
    calls
}

async fn readiness(rest: &Rest) -> Value {
    rest.get("/readyz").await.json
}

#[tokio::test]
async fn full_disk_rejects_plans_loses_none_and_recovers() {
    let builder = Stack::builder();
    let (dir, disk) = (builder.dir().to_owned(), builder.dir().join("data"));
    std::fs::create_dir(&disk).unwrap();
    let Some([program, flags]) = private_mounts(&disk) else {
        eprintln!("SKIPPED: a full disk, because this user cannot mount one");
        return;
    };
    let held = dir.join("held");
    std::fs::write(&held, "").unwrap();
    let command = json!([SCRIPTED, "gate", dir.join("held.starts"), held]);
    let through: Vec<_> =
        [program].into_iter().chain(flags.split(' ')).chain(["sh", "-c", ON_A_SMALL_DISK]).collect();
    let mut stack = builder
        .config(&format!("[agents.held]\ncommand = {command}\nmode = \"oneshot\"\ntimeout_secs = 600\n"))
        .env("DISK", disk.to_str().unwrap())
        .launcher(&through)
        .start()
        .await;
    let rest = stack.rest();
    let task = json!({"key": "t", "agent": "held", "action": "chat", "input": {"message": "at last"}});
    let accepted = rest.submit("/api/v1/plans", json!({"tasks": [task]})).await;
    until("the agent runs", async || dir.join("held.starts").exists()).await;

    let (enough, rejections) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers: JoinSet<_> =
        (0..4).map(|_| call(stack.rest(), Arc::clone(&enough), Arc::clone(&rejections))).collect();
    // The disk in the mount namespace of the stack.
    let ballast = PathBuf::from(format!("/proc/{}/root{}/ballast", stack.pid(), disk.display()));
    fill(&ballast);
    until("plans are rejected", async || rejections.load(Ordering::Relaxed) > 3).await;
    until("the planner is not ready", async || readiness(&rest).await["checks"]["planner"] == "not_ready")
        .await;
    // The plan ends while its end cannot be written.
    let attempts = async || stack.metric(Role::Executor, "agent_call_duration_seconds_count").await;
    let before = attempts().await;
    std::fs::remove_file(&held).unwrap();
    until("the agent has answered", async || attempts().await > before).await;

    std::fs::remove_file(&ballast).unwrap();
    until("the stack is ready again", async || readiness(&rest).await["status"] == "ready").await;
    let path = format!("/api/v1/plans/{accepted}");
    let plan = until_some("the accepted plan ends", async || {
        let plan = rest.get(&path).await.json;
        plan["ended_at"].is_string().then_some(plan)
    })
    .await;
    assert_eq!((&plan["status"], &plan["output"]), (&json!("succeeded"), &json!("at last")), "{plan:#}");
    until("chats run again", async || rest.chat_with("echo_agent", "hello").await.status == 200).await;
    enough.store(true, Ordering::Relaxed);

    for Call { correlation_id, answer } in callers.join_all().await.into_iter().flatten() {
        if answer.status == 200 {
            let plan = rest.get(&format!("/api/v1/plans/{}", answer.str("plan_id"))).await.json;
            assert_eq!((&plan["status"], &plan["output"]), (&json!("succeeded"), &answer.json["output"]));
        } else {
            assert_eq!(answer.status, 503, "{}", answer.text);
            assert_eq!(answer.json["error"]["code"], "unavailable", "{}", answer.text);
            assert!(!answer.header("retry-after").is_empty());
            let message = answer.json["error"]["message"].as_str().unwrap();
            assert!(message.contains("journal") && !message.contains('/'), "{message}");
            let plans = rest.get(&format!("/api/v1/plans?correlation_id={correlation_id}")).await;
            assert_eq!(plans.json["plans"], json!([]), "a rejected plan does not exist: {}", plans.text);
        }
    }
    assert_eq!(stack.stop().await, Some(0), "{}", stack.stderr_text());
}
