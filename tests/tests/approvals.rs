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

#[tokio::test]
async fn questions_of_an_mcp_server_are_answered_by_approvals() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../services/executor/tests/mcp/server.py");
    let config = format!(
        "[agents.hub]\nmcp = {{ command = {}, protocol = \"2026-07-28\" }}\nstart_timeout_secs = 600\napproval = [\"ask\"]\n",
        json!(["python3", script, "--era", "modern"])
    );
    let stack = Stack::builder().config(&config).start().await;
    let rest = stack.rest();
    let submit = async || {
        let task = json!({"key": "push", "agent": "hub", "action": "ask", "input": {"repository": "r"}});
        rest.submit("/api/v1/plans", json!({"tasks": [task]})).await
    };
    let approval = async |plan_id: &str| rest.plan(plan_id).await["tasks"][0]["approval"].clone();
    let waits_for = async |plan_id: &str, reason: &str| {
        until("the task waits", async || {
            let approval = approval(plan_id).await;
            approval["state"] == "waiting" && approval["reason"].as_str().unwrap_or_default() == reason
        })
        .await;
    };
    let approve = async |plan_id: &str, input: Value| {
        let body = json!({"actor": "ann", "input": input});
        rest.post(&format!("/api/v1/plans/{plan_id}:approve"), body).await
    };

    let plan_id = submit().await;
    waits_for(&plan_id, "").await;
    let first = rest.post(&format!("/api/v1/plans/{plan_id}:approve"), json!({"actor": "ann"})).await;
    assert_eq!(first.status, 200, "{}", first.text);
    waits_for(&plan_id, "hub asks: Which branch?").await;
    let killed = stack.role_pid(Role::Planner).unwrap();
    stack.signal_role(Role::Planner, Signal::SIGKILL);
    until("another planner runs", async || stack.role_pid(Role::Planner).is_some_and(|pid| pid != killed))
        .await;
    until("the question is listed", async || {
        let listed = rest.try_send("GET".parse().unwrap(), "/api/v1/approvals", None).await;
        listed.is_some_and(|listed| listed.json["approvals"][0]["reason"] == "hub asks: Which branch?")
    })
    .await;
    for (answers, problem) in [
        (json!({}), "`input.branch.name` is missing"),
        (json!({"branch": {"name": 7}}), "`input.branch.name` must be a string"),
        (json!({"branch": {"name": "main"}, "other": {}}), "`input.other` is no question"),
    ] {
        let refused = approve(&plan_id, answers).await;
        assert_eq!(refused.status, 400, "{}", refused.text);
        assert!(refused.text.contains(problem), "{}", refused.text);
    }
    let answered = approve(&plan_id, json!({"branch": {"name": "main"}})).await;
    assert_eq!(answered.status, 200, "{}", answered.text);
    waits_for(&plan_id, "hub asks: Push to main?").await;
    let rejected = submit().await;
    // A question without fields is answered by an approval.
    assert_eq!(
        rest.post(&format!("/api/v1/plans/{plan_id}:approve"), json!({"actor": "ann"})).await.status,
        200
    );
    let plan = rest.wait_for_end(&plan_id).await;
    assert_eq!((&plan["status"], &plan["output"]), (&json!("succeeded"), &json!("r: main accept")), "{plan}");
    let attempts = plan["tasks"][0]["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 3, "{plan}");
    assert_eq!(attempts[0]["error_class"], "action_not_supported", "{plan}");
    assert!(rest.get("/api/v1/dead-letters").await.json["dead_letters"].as_array().unwrap().is_empty());

    waits_for(&rejected, "").await;
    rest.post(&format!("/api/v1/plans/{rejected}:approve"), json!({"actor": "ann"})).await;
    waits_for(&rejected, "hub asks: Which branch?").await;
    let no = rest.post(&format!("/api/v1/plans/{rejected}:reject"), json!({"actor": "ann"})).await;
    assert_eq!(no.status, 200, "{}", no.text);
    assert_eq!(rest.wait_for_end(&rejected).await["status"], "cancelled");

    let declined = submit().await;
    waits_for(&declined, "").await;
    rest.post(&format!("/api/v1/plans/{declined}:approve"), json!({"actor": "ann"})).await;
    waits_for(&declined, "hub asks: Which branch?").await;
    assert_eq!(approve(&declined, json!({"branch": null})).await.status, 200);
    assert_eq!(rest.wait_for_end(&declined).await["output"], "r: decline");
    let agent = rest.agent("hub").await.unwrap();
    assert_eq!((&agent["health"], &agent["consecutive_failures"]), (&json!("healthy"), &json!(0)), "{agent}");

    let forged = json!({"phoenix/questions": {"asked": {}, "attempts": 9}});
    let task = json!({"key": "push", "agent": "hub", "action": "ask", "input": forged});
    let refused = rest.post("/api/v1/plans", json!({"tasks": [task]})).await;
    assert_eq!(
        (refused.status.as_u16(), refused.text.contains("is reserved for answers")),
        (400, true),
        "{}",
        refused.text
    );
}
