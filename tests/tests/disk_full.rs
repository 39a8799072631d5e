//! A disk that runs full under a stack that works, and has room again later. The disk is a small one in memory, which only
//! the stack sees.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are tests too")]

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

/// Runs what follows with a small disk at `$DISK`.
const ON_A_SMALL_DISK: &str = r#"mount -t tmpfs -o size=8m small "$DISK" && exec "$0" "$@""#;

/// What gives a process mounts of its own; nothing where that is not allowed.
fn own_mounts(disk: &Path) -> Option<[&'static str; 2]> {
    let ways = [["unshare", "--mount"], ["unshare", "--map-root-user --mount"]];
    let works = |[program, flags]: &[&str; 2]| {
        let mut command = Command::new(program);
        command.args(flags.split(' ')).args(["sh", "-c", ON_A_SMALL_DISK, "true"]).env("DISK", disk);
        command.output().is_ok_and(|output| output.status.success())
    };
    ways.into_iter().find(works)
}

/// Writes to `file` until nothing more fits.
fn fill(file: &Path) {
    let mut ballast = OpenOptions::new().create(true).append(true).open(file).unwrap();
    for size in [65_536, 4096, 512] {
        let block = vec![0x5a; size];
        while ballast.write_all(&block).is_ok() {}
    }
}

/// What a caller was told.
struct Told {
    correlation_id: String,
    answer: Answer,
}

/// Sends one chat after the other until `enough`.
async fn call(rest: Rest, enough: Arc<AtomicBool>, refusals: Arc<AtomicUsize>) -> Vec<Told> {
    let mut told = Vec::new();
    while !enough.load(Ordering::Relaxed) {
        let answer = rest.chat_with("echo_agent", &"something that takes room ".repeat(40)).await;
        if answer.status != 200 {
            refusals.fetch_add(1, Ordering::Relaxed);
            // As its `Retry-After` asks for, more or less.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        told.push(Told { correlation_id: answer.header("x-correlation-id").to_owned(), answer });
    }
    told
}

async fn readiness(rest: &Rest) -> Value {
    rest.get("/readyz").await.json
}

#[tokio::test]
async fn a_full_disk_refuses_plans_loses_none_and_is_got_over_when_there_is_room() {
    let builder = Stack::builder();
    let (dir, disk) = (builder.dir().to_owned(), builder.dir().join("data"));
    std::fs::create_dir(&disk).unwrap();
    let Some([program, flags]) = own_mounts(&disk) else {
        eprintln!("SKIPPED: a full disk, because this user can't mount one");
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
        .through(&through)
        .start()
        .await;
    let rest = stack.rest();
    let task = json!({"key": "t", "agent": "held", "action": "chat", "input": {"message": "at last"}});
    let accepted = rest.submit("/api/v1/plans", json!({"tasks": [task]})).await;
    until("its agent works", async || dir.join("held.starts").exists()).await;

    let (enough, refusals) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers: JoinSet<_> =
        (0..4).map(|_| call(stack.rest(), Arc::clone(&enough), Arc::clone(&refusals))).collect();
    // The disk as the stack sees it.
    let ballast = PathBuf::from(format!("/proc/{}/root{}/ballast", stack.pid(), disk.display()));
    fill(&ballast);
    until("plans are refused", async || refusals.load(Ordering::Relaxed) > 3).await;
    until("the planner says that it is not ready", async || {
        readiness(&rest).await["checks"]["planner"] == "not_ready"
    })
    .await;
    // Its end comes at a time when it can't be written.
    let attempts = async || stack.metric(Role::Executor, "agent_call_duration_seconds_count").await;
    let before = attempts().await;
    std::fs::remove_file(&held).unwrap();
    until("the agent has answered", async || attempts().await > before).await;

    std::fs::remove_file(&ballast).unwrap();
    until("the stack is ready again by itself", async || readiness(&rest).await["status"] == "ready").await;
    let path = format!("/api/v1/plans/{accepted}");
    let plan = until_some("the plan that was accepted before ends well", async || {
        let plan = rest.get(&path).await.json;
        plan["ended_at"].is_string().then_some(plan)
    })
    .await;
    assert_eq!((&plan["status"], &plan["output"]), (&json!("succeeded"), &json!("at last")), "{plan:#}");
    until("chats run again", async || rest.chat_with("echo_agent", "hello").await.status == 200).await;
    enough.store(true, Ordering::Relaxed);

    for Told { correlation_id, answer } in callers.join_all().await.into_iter().flatten() {
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
            assert_eq!(plans.json["plans"], json!([]), "what was refused does not exist: {}", plans.text);
        }
    }
    assert_eq!(stack.stop().await, Some(0), "{}", stack.stderr_text());
}
