//! The agents of `examples/agents`, as its configuration registers them.
#![allow(clippy::print_stderr, clippy::unwrap_used, reason = "a skipped test says so; helpers of tests")]

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use phoenix_testkit::{
    http::{Answer, Rest},
    sandbox::Sandbox,
};
use serde_json::{Value, json};

/// Longest start of a server, never reached on a slow machine.
const START_LIMIT: Duration = Duration::from_secs(300);

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("examples/agents")
}

/// A stack with the configuration of the examples. `folder` comes first in the `PATH` of agents.
async fn sandbox(folder: Option<&Path>) -> Sandbox {
    let config = std::fs::read_to_string(examples().join("phoenix.toml")).unwrap();
    let config = config.replace("examples/agents", examples().to_str().unwrap());
    // Interpreters start slowly on a busy machine.
    let config = format!("{config}\n[agents.default]\nstart_timeout_secs = 600\ntimeout_secs = 100\n");
    let path = std::env::var("PATH").unwrap();
    let path = folder.map_or(path.clone(), |folder| format!("{}:{path}", folder.display()));
    Sandbox::start_with(&config, &[("PATH", path.as_str())]).await
}

async fn chat(rest: &Rest, agent: &str, message: &str) -> Answer {
    rest.post("/api/v1/chat", json!({ "agent": agent, "message": message })).await
}

async fn run(rest: &Rest, agent: &str, action: &str, input: Value) -> Answer {
    let task = json!({ "key": "t", "agent": agent, "action": action, "input": input });
    rest.post("/api/v1/plans", json!({ "tasks": [task] })).await
}

#[tokio::test]
async fn examples_answer_as_their_pages_say() {
    let sandbox = sandbox(None).await;
    let rest = sandbox.rest();

    let reviewed = chat(&rest, "reviewer", "+++ b/a\n+dbg!(1)\n").await;
    assert!(reviewed.str("output").contains("- debugging: dbg!(1)"), "{}", reviewed.text);
    let counted = chat(&rest, "counter", "one two").await;
    assert_eq!(counted.str("output"), "1 one\n2 two\n");
    let found = chat(&rest, "words", "the fox and the dog").await;
    let page = std::fs::read_to_string(examples().parent().unwrap().parent().unwrap().join("docs/agents.md"));
    assert!(page.unwrap().contains(&format!("\n{}\n", found.str("output"))), "{}", found.text);
    let refused = run(&rest, "words", "chat", json!({ "message": "x", "limit": 0 })).await;
    assert_eq!(refused.status, 400, "{}", refused.text);

    let free = run(&rest, "disk", "free", json!({ "folder": "/" })).await;
    let space: Value = serde_json::from_str(free.str("output")).unwrap();
    assert!(space["used_kib"].as_u64().unwrap() > 0, "{}", free.text);
    for (folder, problem) in [("/no \"such\" folder", "there is no such folder"), ("-x", "absolute path")] {
        let failed = run(&rest, "disk", "free", json!({ "folder": folder })).await;
        assert_eq!(failed.json["error"]["code"], "validation_failed", "{}", failed.text);
        assert!(failed.text.contains(problem), "{}", failed.text);
    }
}

#[tokio::test]
async fn example_with_the_official_sdk_converts_lengths() {
    // The SDK is a dependency of this server.
    let Some(server) = std::env::var_os("MCP_SERVER_TIME_BIN").map(PathBuf::from) else {
        let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!is_ci, "MCP_SERVER_TIME_BIN must be set in CI; cargo xtask test sets it");
        eprintln!("SKIPPED: the example with the MCP SDK, because MCP_SERVER_TIME_BIN is not set");
        return;
    };
    let sandbox = sandbox(server.parent()).await;
    let rest = sandbox.rest();
    let started = Instant::now();
    while !rest.get("/api/v1/agents/units").await.text.contains("convert_length") {
        assert!(started.elapsed() < START_LIMIT, "the tools were not published");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let converted =
        run(&rest, "units", "convert_length", json!({ "value": 2, "unit": "mi", "into": "m" })).await;
    assert_eq!((converted.status.as_u16(), converted.str("output")), (200, r#"{"m":3218.688}"#));
    let refused =
        run(&rest, "units", "convert_length", json!({ "value": 2, "unit": "mile", "into": "m" })).await;
    assert_eq!(refused.status, 400, "{}", refused.text);
}
