//! Faults of an MCP server in a whole stack: what each is called, that it counts against its own agent only, and that neither the
//! memory of the executor nor another agent notices.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use phoenix_platform::config::Role;
use phoenix_testkit::{stack::Stack, wait::until};
use serde_json::{Value, json};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../services/executor/tests/mcp/server.py");

/// What the executor may need more than before, while a server writes 50 MB in a line and 64 MiB of noise.
const MEMORY_KIB: u64 = 64 * 1024;

/// Most memory that a process has had so far, in KiB.
fn peak(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

#[tokio::test]
async fn faults_of_a_server_have_a_class_and_disturb_nothing_else() {
    let config = format!(
        "[agents.default]\nretry = {{ max_attempts = 1 }}\nstart_timeout_secs = 600\n\
         [agents.faulty]\nmcp = {{ command = {} }}\ntimeout_secs = 100\n\
         [[agents.faulty.tool_rules]]\ntools = [\"hang\"]\ntimeout_secs = 1\n\
         [agents.slow]\nmcp = {{ command = {} }}\n",
        json!(["python3", SCRIPT]),
        json!(["python3", SCRIPT, "--slow", "20"]),
    );
    let stack = Stack::builder().config(&config).start().await;
    let rest = stack.rest();
    let task = |agent: &str, action: &str, input: Value| json!({"tasks": [{"key": "t", "agent": agent, "action": action, "input": input}]});
    let patient = rest.submit("/api/v1/plans", task("slow", "echo", json!({"text": "at last"}))).await;
    let echo = async || {
        let plan = rest.post("/api/v1/plans", task("faulty", "echo", json!({"text": "well"}))).await;
        assert_eq!((plan.status.as_u16(), plan.str("output")), (200, "well"), "{}", plan.text);
    };
    let failures = async || rest.agent("faulty").await.unwrap()["consecutive_failures"].clone();
    echo().await;
    let executor = stack.role_pid(Role::Executor).unwrap();
    let before = peak(executor);
    for (tool, code, counts) in [
        ("noise", None, false),
        ("twice", None, false),
        ("refuse", Some("validation_failed"), false),
        ("knit", Some("planning_failed"), false),
        ("fail_call", Some("execution_failed"), true),
        ("big", Some("execution_failed"), true),
        ("flood", Some("execution_failed"), true),
        ("die", Some("execution_failed"), true),
        ("hang", Some("timeout"), true),
    ] {
        let others = async {
            for _ in 0..3 {
                let chat = json!({"message": "hello", "agent": "echo_agent"});
                let chat = rest.post("/api/v1/chat", chat).await;
                assert_eq!(chat.status, 200, "beside {tool}: {}", chat.text);
            }
        };
        let (plan, ()) = tokio::join!(rest.post("/api/v1/plans", task("faulty", tool, json!({}))), others);
        // A plan that is refused is no plan.
        let found = plan.json["error"]["code"].as_str().or(plan.json["code"].as_str());
        assert_eq!(found, code, "{tool}: {}", plan.text);
        let expected = json!(u32::from(counts));
        until("the failure counts, if it does", async || failures().await == expected).await;
        echo().await;
        until("a success ends the row of failures", async || failures().await == 0).await;
    }
    assert_eq!(stack.role_pid(Role::Executor), Some(executor), "it is the same process");
    let more = peak(executor).saturating_sub(before);
    assert!(more < MEMORY_KIB, "the executor has needed {more} KiB more");

    let plan = rest.wait_for_end(&patient).await;
    assert_eq!(plan["output"], "at last", "{plan}");
    for agent in ["slow", "echo_agent"] {
        let shown = rest.agent(agent).await.unwrap();
        assert_eq!(
            (&shown["health"], &shown["consecutive_failures"]),
            (&json!("healthy"), &json!(0)),
            "{shown}"
        );
    }
}
