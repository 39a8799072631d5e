//! `phoenix config` and `phoenix doctor`, which look at settings and at the machine and start nothing.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Output},
};

use phoenix_testkit::phoenix_bin;
use serde_json::Value;

const FILE: &str = r#"
[planner]
retention_days = 7
[llm]
default_provider = "openai"
[llm.openai]
model_name = "gpt-3.5-turbo"
api_key = "sk-hunter2"
[agents.reviewer]
command = ["no-such-program-anywhere", "--token=hunter2"]
"#;

/// Runs `phoenix` in `dir`, whose file `phoenix.toml` is read.
fn phoenix(dir: &Path, words: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(phoenix_bin());
    let path = std::env::var_os("PATH").unwrap();
    command.args(words).current_dir(dir).env_clear().env("PATH", path).envs(env.iter().copied());
    let output = command.output().unwrap();
    let all = [&*output.stdout, &*output.stderr].concat();
    assert!(!String::from_utf8(all).unwrap().contains("hunter2"), "a secret is shown: {output:?}");
    output
}

fn documents(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn findings<'a>(documents: &'a [Value], check: &str) -> Vec<(&'a str, &'a str)> {
    let of_check = documents.iter().filter(|finding| finding["check"] == check);
    of_check.map(|one| (one["severity"].as_str().unwrap(), one["message"].as_str().unwrap())).collect()
}

/// A listener on the port of the planner's metrics, with the offset that leads to it. The other ports of the offset are free.
fn taken_port() -> (TcpListener, u16) {
    let first = 1_000 + u16::try_from(std::process::id() % 500).unwrap();
    for offset in (first..14_000).step_by(501) {
        let ports = [8181, 9000, 9001, 9002, 9003, 50051, 50052, 50053];
        let free = ports.iter().map_while(|port| TcpListener::bind(("127.0.0.1", port + offset)).ok());
        let mut free: Vec<_> = free.collect();
        if free.len() == ports.len() {
            return (free.swap_remove(2), offset);
        }
    }
    unreachable!("no free ports")
}

#[test]
fn config_show_names_the_source_of_every_value_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("phoenix.toml"), FILE).unwrap();
    let env = [("ORCH_API_TOKEN", "hunter2"), ("RUST_LOG", "debug"), ("ANTHROPIC_API_KEY", "hunter2")];
    let shown =
        phoenix(dir.path(), &["config", "show", "--json", "--port-offset=100", "--log-format=json"], &env);
    assert_eq!(shown.status.code(), Some(0), "{shown:?}");
    let rows = documents(&shown);
    for (name, value, source) in [
        ("gateway.http_addr", "127.0.0.1:8281", "phoenix up"),
        ("gateway.api_token", "[set]", "environment (ORCH_API_TOKEN)"),
        ("planner.log_filter", "debug", "environment (RUST_LOG)"),
        ("planner.log_format", "json", "flag (--log-format)"),
        ("planner.retention_days", "7 days", "file (planner.retention_days)"),
        ("planner.takeover_grace_secs", "600 s", "default"),
        ("llm.openai.api_key", "[set]", "file (llm.openai.api_key)"),
        ("llm.anthropic.api_key", "[set]", "environment (ANTHROPIC_API_KEY)"),
        (
            "agents.reviewer.command",
            "no-such-program-anywhere and 1 argument",
            "file (agents.reviewer.command)",
        ),
    ] {
        let row: Vec<_> = rows.iter().filter(|row| row["name"] == name).collect();
        assert_eq!(row.len(), 1, "{name}");
        assert_eq!((&row[0]["value"], &row[0]["detail"]), (&value.into(), &source.into()), "{name}");
    }
    let one = phoenix(
        dir.path(),
        &["config", "show", "--role=planner", "--addr=127.0.0.1:1", "planner.grpc"],
        &[("PHOENIX_SERVICE_TOKEN", "hunter2-0123456789012345678901234567890123456789")],
    );
    let text = String::from_utf8(one.stdout).unwrap();
    let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(lines[1..], [["planner.grpc_addr", "127.0.0.1:1", "flag", "(--addr)"]], "{text}");
}

#[test]
fn config_check_reports_every_problem_with_exit_code_64() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("phoenix.toml");
    std::fs::write(&path, FILE).unwrap();
    let valid = phoenix(dir.path(), &["config", "check", "--json"], &[("GRPC_ADDR", "127.0.0.1:5")]);
    let report = &documents(&valid)[0];
    assert_eq!(
        (valid.status.code(), &report["valid"], &report["file"]),
        (Some(0), &true.into(), &"phoenix.toml".into())
    );
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("GRPC_ADDR") && warnings.contains("gpt-3.5-turbo ends on"), "{warnings}");
    std::fs::write(
        &path,
        "[planner]\nretention_dais = 7\nmax_plans_in_flight = 0\n[llm.openai]\napi_key = 4\n",
    )
    .unwrap();
    let invalid = phoenix(dir.path(), &["config", "check", "--json"], &[]);
    let report = &documents(&invalid)[0];
    assert_eq!((invalid.status.code(), &report["valid"]), (Some(64), &false.into()));
    let problems = report["problems"].to_string();
    assert!(problems.contains("retention_dais") && problems.contains("max_plans_in_flight"), "{problems}");
    let flags = phoenix(dir.path(), &["config", "check", "--addr=127.0.0.1:1"], &[]);
    assert_eq!(flags.status.code(), Some(64), "the flag of a service needs a role: {flags:?}");
}

#[test]
fn doctor_finds_what_is_wrong_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("phoenix.toml"), FILE).unwrap();
    let (taken, offset) = taken_port();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("planner.db"), [7; 4096]).unwrap();
    let provider = TcpListener::bind("127.0.0.1:0").unwrap();
    let base_url = format!("http://{}/v1", provider.local_addr().unwrap());
    drop(provider);
    let env = [("OPENAI_BASE_URL", base_url.as_str())];
    let offset_flag = format!("--port-offset={offset}");
    let sick = phoenix(dir.path(), &["doctor", "--json", &offset_flag], &env);
    let found = documents(&sick);
    assert_eq!(sick.status.code(), Some(1), "{sick:?}");
    for finding in &found {
        assert_eq!(finding["action"].is_null(), finding["severity"] == "ok", "{finding}");
    }
    let has = |check: &str, severity: &str, text: &str| {
        let of_check = findings(&found, check);
        assert!(
            of_check.iter().any(|one| one.0 == severity && one.1.contains(text)),
            "{check} {text}: {of_check:?}"
        );
    };
    has("settings", "ok", "phoenix.toml");
    has("ports", "error", "(planner /metrics) cannot be bound: another process uses it");
    has("database", "error", "planner.db cannot be read");
    has("agents", "error", "`no-such-program-anywhere`");
    has("providers", "error", "openai cannot be reached");
    has("data folder", "ok", "can be written");
    has("kernel", "ok", "subreaper");
    assert_eq!(findings(&found, "clock").len(), 1, "{found:?}");

    std::fs::remove_file(data.join("planner.db")).unwrap();
    std::fs::write(dir.path().join("phoenix.toml"), "[llm]\ndefault_provider = \"offline\"\n").unwrap();
    drop(taken);
    let well = phoenix(dir.path(), &["doctor", "--offline", &offset_flag], &[]);
    let text = String::from_utf8(well.stdout.clone()).unwrap();
    assert!(text.lines().last().unwrap().contains(" 0 errors"), "{text}");
    assert_eq!(well.status.code(), Some(0), "{text}");
}

#[test]
fn doctor_finds_a_model_that_has_ended_and_broken_settings() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("phoenix.toml"), FILE).unwrap();
    let sick = phoenix(
        dir.path(),
        &["doctor", "--json", "--offline", "--role=executor"],
        &[("PHOENIX_SERVICE_TOKEN", "hunter2-0123456789012345678901234567890123456789")],
    );
    let found = documents(&sick);
    assert!(
        findings(&found, "models").iter().any(|one| one.0 == "error" && one.1.contains("2026-10-23")),
        "{found:?}"
    );
    assert_eq!(findings(&found, "database"), []);
    std::fs::write(dir.path().join("phoenix.toml"), "[planner]\nretention_dais = 7\n").unwrap();
    let sick = phoenix(dir.path(), &["doctor", "--json", "--offline"], &[]);
    let found = documents(&sick);
    assert!(
        findings(&found, "settings").iter().any(|one| one.0 == "error" && one.1.contains("retention_dais")),
        "{found:?}"
    );
    assert_eq!(sick.status.code(), Some(1));
}
