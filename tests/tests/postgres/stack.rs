//! `phoenix up` on PostgreSQL.

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{http::Rest, phoenix_bin, processes::is_alive, stack::Stack, wait::until};
use phoenix_testkit_postgres::Server;
use serde_json::json;
use tokio::process::Command;

use crate::{SCRIPTED, load::Load};

async fn submit(rest: &Rest, agent: &str) -> String {
    rest.submit("/api/v1/chat", json!({"message": "hello", "agent": agent})).await
}

#[tokio::test]
async fn killed_stack_continues_its_plans_when_it_is_started_again() {
    let Some(server) = Server::start().await else { return };
    let url = server.database().await;
    let held = tempfile::NamedTempFile::new().unwrap();
    let command = json!([SCRIPTED, "gate", "", held.path()]);
    let config = format!("[agents.held]\ncommand = {command}\nmode = \"oneshot\"\ntimeout_secs = 600\n");
    let start = async || Stack::builder().config(&config).env("DATABASE_URL", &url).start().await;
    let stack = start().await;
    let rest = stack.rest();
    let mut load = Load::start(&rest);
    load.until_more().await;
    let mut plans = Vec::new();
    for _ in 0..3 {
        plans.push(submit(&rest, "held").await);
    }
    until("the agents run", async || rest.plan(&plans[0]).await["tasks"][0]["status"] == "in_progress").await;

    let pids: Vec<_> = Role::ALL.iter().filter_map(|role| stack.role_pid(*role)).collect();
    assert_eq!(pids.len(), 4);
    for role in Role::ALL {
        stack.signal_role(*role, Signal::SIGKILL);
    }
    stack.signal(Signal::SIGKILL);
    until("every process is gone", async || !pids.iter().any(|pid| is_alive(*pid))).await;
    drop(stack);
    std::fs::remove_file(held.path()).unwrap();

    let mut again = start().await;
    let rest = again.rest();
    for plan_id in &plans {
        let plan = rest.wait_for_end(plan_id).await;
        assert_eq!((&plan["status"], &plan["output"]), (&json!("succeeded"), &json!("hello")), "{plan}");
    }
    assert_eq!(rest.chat_with("echo_agent", "and more").await.str("output"), "and more");
    load.check(&rest).await;

    let data = again.dir().join("data");
    let files: Vec<_> = std::fs::read_dir(&data).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(!files.iter().any(|name| name.to_string_lossy().ends_with(".db")), "{files:?}");
    let mut backup = Command::new(phoenix_bin());
    backup.args(["backup", "--to", "copy"]).current_dir(again.dir()).env("DATABASE_URL", &url);
    let output = backup.output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{text}");
    for word in ["pg_dump", "pg_restore", "docs/backup.md", "--data-dir"] {
        assert!(text.contains(word), "{text}");
    }
    assert!(!text.contains("sesame"), "{text}");
    assert_eq!(again.stop().await, Some(0));
}
