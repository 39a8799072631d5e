//! A task that waits for an approval outlives its planner, with real processes.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{stack::Stack, wait::until};
use serde_json::{Value, json};

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

#[tokio::test]
async fn approved_task_runs_once_after_its_planner_was_killed() {
    let builder = Stack::builder();
    let starts = builder.dir().join("writer.starts");
    let config = format!(
        "[agents.writer]\ncommand = {}\nmode = \"oneshot\"\napproval = [\"ch*\"]\n",
        json!([SCRIPTED, "echo", starts])
    );
    let stack = builder.config(&config).start().await;
    let rest = stack.rest();
    let started = || std::fs::read_to_string(&starts).unwrap_or_default().lines().count();
    let submit = async |message: &str| {
        let input = json!({"message": message});
        let task = json!({"key": "write", "agent": "writer", "action": "chat", "input": input});
        rest.submit("/api/v1/plans", json!({"tasks": [task]})).await
    };
    let (approved, rejected) = (submit("hello").await, submit("no").await);
    let waits = async |plan_id: &str| rest.plan(plan_id).await["tasks"][0]["status"] == "awaiting_approval";
    until("both wait", async || waits(&approved).await && waits(&rejected).await).await;
    let hash = rest.plan(&approved).await["tasks"][0]["approval"]["input_hash"].clone();
    for _ in 0..2 {
        let killed = stack.role_pid(Role::Planner).unwrap();
        stack.signal_role(Role::Planner, Signal::SIGKILL);
        until("another planner runs", async || {
            stack.role_pid(Role::Planner).is_some_and(|pid| pid != killed)
        })
        .await;
        until("what waits is listed", async || {
            let listed = rest.try_send("GET".parse().unwrap(), "/api/v1/approvals", None).await;
            listed.is_some_and(|listed| listed.json["approvals"].as_array().map(Vec::len) == Some(2))
        })
        .await;
    }
    assert_eq!(started(), 0, "nothing ran before the decision");

    let decide = async |plan_id: &str, action: &str, body: Value| {
        rest.post(&format!("/api/v1/plans/{plan_id}:{action}"), body).await
    };
    let yes = json!({"actor": "ann", "input_hash": hash});
    let decided = decide(&approved, "approve", yes.clone()).await;
    assert_eq!((decided.status.as_u16(), &decided.json["approval"]["state"]), (200, &json!("approved")));
    let no = decide(&rejected, "reject", json!({"actor": "ann", "reason": "not today"})).await;
    assert_eq!(no.status, 200, "{}", no.text);
    let plan = rest.wait_for_end(&approved).await;
    assert_eq!((&plan["status"], &plan["output"]), (&json!("succeeded"), &json!("hello")));
    assert_eq!(rest.wait_for_end(&rejected).await["status"], "cancelled");
    assert_eq!(started(), 1, "the approved task ran once, the rejected one never");
    assert_eq!(decide(&approved, "approve", yes).await.text, decided.text, "a repetition");
    assert_eq!(decide(&approved, "reject", json!({"actor": "bob"})).await.status, 409);
}
