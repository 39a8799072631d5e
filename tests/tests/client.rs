//! The commands of `phoenix` that talk to a gateway, as a person or a script runs them.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{os::unix::fs::PermissionsExt, path::Path, process::Stdio};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use phoenix_platform::config::Role;
use phoenix_testkit::{phoenix_bin, sandbox::Sandbox, wait::until};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command};

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// Names and values.
type Variables<'a> = &'a [(&'a str, &'a str)];

/// What a command printed, and its exit code.
#[derive(Debug)]
struct Ran {
    out: String,
    err: String,
    code: i32,
}

impl Ran {
    /// The output without its last line break.
    fn succeeded(&self) -> &str {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{self:?}");
        self.out.trim_end()
    }

    /// The lines of the output as JSON.
    fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Runs `phoenix` with `words`, whose `stdin` is a pipe.
async fn phoenix(url: &str, words: &[&str], stdin: &str) -> Ran {
    let mut command = Command::new(phoenix_bin());
    command.args(words).env_clear().env("PHOENIX_URL", url);
    finish(command, stdin).await
}

async fn finish(mut command: Command, stdin: &str) -> Ran {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // A command that takes no input ends without reading it.
    let _ = pipe.write_all(stdin.as_bytes()).await;
    drop(pipe);
    let output = child.wait_with_output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { out: text(output.stdout), err: text(output.stderr), code: output.status.code().unwrap() }
}

/// An agent that echoes unless the file `broken` exists.
fn agent(dir: &Path) -> String {
    let command = json!([SCRIPTED, "fail", dir.join("starts"), dir.join("broken")]);
    format!("[agents.fickle]\ncommand = {command}\n[agents.fickle.retry]\nmax_attempts = 1\n")
}

fn plan(dir: &Path) -> String {
    let task = |key: &str, message: &str| json!({"key": key, "agent": "fickle", "action": "chat", "input": {"message": message}});
    let path = dir.join("plan.json");
    let mut tasks = [task("first", "one"), task("second", "{{tasks.first.output}} two")];
    tasks[1]["depends_on"] = json!(["first"]);
    std::fs::write(&path, json!({ "tasks": tasks }).to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn chats_and_plans_are_run_shown_and_traced() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(&agent(dir.path())).await;
    let url = sandbox.url(Role::Gateway);
    let run = async |words: &[&str]| phoenix(&url, words, "").await;

    assert_eq!(run(&["chat", "--agent", "fickle", "hello"]).await.succeeded(), "hello");
    let piped = phoenix(&url, &["chat", "--agent=fickle", "--json"], "from a pipe\n").await;
    assert_eq!(piped.json().last().unwrap()["output"], "from a pipe");

    let file = plan(dir.path());
    let waited = run(&["plans", "submit", &file, "--wait"]).await;
    let plan_id = waited.succeeded().lines().next().unwrap();
    assert!(waited.out.contains("plan_ended") && waited.out.ends_with("one two\n"), "{}", waited.out);
    let submitted = phoenix(&url, &["plans", "submit", "-"], &std::fs::read_to_string(&file).unwrap()).await;
    let watched = run(&["plans", "watch", submitted.succeeded(), "--json"]).await;
    assert_eq!(watched.json().last().unwrap()["status"], "succeeded");

    let listed = run(&["plans", "list", "--status=succeeded", "--since", "1h", "-n", "3"]).await;
    let rows: Vec<_> = listed.succeeded().lines().collect();
    assert!(rows.len() == 4 && rows[0].starts_with("PLAN") && listed.out.contains(plan_id), "{}", listed.out);
    let plan = &run(&["plans", "get", plan_id, "--json"]).await.json()[0];
    let correlation_id = plan["correlation_id"].as_str().unwrap();
    for id in [plan_id, correlation_id] {
        let trace = run(&["trace", id]).await;
        let story = trace.succeeded();
        assert!(story.starts_with(&format!("plan {plan_id}  succeeded after ")), "{story}");
        assert!(
            story.contains("task second  fickle chat  succeeded") && story.contains("after first"),
            "{story}"
        );
    }
    let stats = run(&["stats", "--window", "15m"]).await;
    assert!(
        stats.succeeded().starts_with("plans     4 accepted, 4 succeeded, 0 failed, 0 cancelled in 15m"),
        "{}",
        stats.out
    );
    assert!(stats.out.contains("success   100.00 %\nlatency   p50 "), "{}", stats.out);
    let top = run(&["top"]).await;
    assert!(
        top.succeeded().contains("plans     4 accepted") && top.out.ends_with("\n0 plans run\n"),
        "{}",
        top.out
    );
    assert!(!top.out.contains('\u{1b}'), "a pipe gets no escapes");
    assert_eq!(run(&["top", "--json"]).await.json()[0]["stats"]["total"]["failed"], 0);
    let agents = run(&["agents", "list"]).await;
    assert!(agents.succeeded().lines().any(|row| row.starts_with("fickle")), "{}", agents.out);
    let git = run(&["agents", "get", "git_agent"]).await;
    assert!(git.succeeded().lines().any(|row| row.starts_with("git_status")), "{}", git.out);
}

#[tokio::test]
async fn agents_are_isolated_and_restored_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let mut sandbox = Sandbox::start(&agent(dir.path())).await;
    let url = sandbox.url(Role::Gateway);
    let run = async |words: &[&str]| phoenix(&url, words, "").await;
    let isolate =
        ["agents", "isolate", "fickle", "--reason", "it deletes\nfiles", "--actor", "alice", "--json"];
    assert_eq!(run(&isolate).await.json()[0]["isolated_by"], "alice");
    let chat = async || run(&["chat", "--agent", "fickle", "hello"]).await;
    until("the planner has learnt it", async || chat().await.code == 75).await;
    let refused = chat().await;
    assert!(refused.err.contains("agent `fickle` was isolated by alice at "), "{refused:?}");
    let id = refused.err.lines().find_map(|line| line.strip_prefix("phoenix trace ")).unwrap();
    let trace = run(&["trace", id.split(' ').next().unwrap()]).await;
    assert!(trace.succeeded().contains("it deletes"), "{}", trace.out);

    // The decision is in the table, and holds without the health service.
    sandbox.stop(Role::Health).await;
    assert!(chat().await.err.contains("isolated by alice"));
    sandbox.restart(Role::Health).await;
    until("the agent is shown", async || run(&["agents", "get", "fickle"]).await.code == 0).await;
    assert!(chat().await.err.contains("isolated by alice"));
    let shown = run(&["agents", "get", "fickle"]).await;
    assert!(shown.succeeded().contains(", isolated by alice: it deletes\nfiles"), "{}", shown.out);
    assert!(shown.out.contains("closed → isolated  isolated  it deletes files (alice)"), "{}", shown.out);

    let restore = ["agents", "restore", "fickle", "--reason", "repaired"];
    assert_eq!(run(&restore).await.succeeded(), "fickle  closed");
    until("the planner has learnt it", async || chat().await.code == 0).await;
    let unknown = run(&["agents", "isolate", "unknown", "--reason", "x"]).await;
    assert!(unknown.code == 1 && unknown.err.contains("unknown agent `unknown`"), "{unknown:?}");
}

#[tokio::test]
async fn failures_name_their_cause_and_are_redriven() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(&agent(dir.path())).await;
    let url = sandbox.url(Role::Gateway);
    let run = async |words: &[&str]| phoenix(&url, words, "").await;
    std::fs::write(dir.path().join("broken"), "").unwrap();

    let chat = run(&["chat", "--agent", "fickle", "hello"]).await;
    assert_eq!((chat.code, chat.out.as_str()), (1, ""), "{chat:?}");
    assert!(chat.err.starts_with("phoenix: execution_failed: "), "{chat:?}");
    let trace = chat.err.lines().find_map(|line| line.strip_prefix("phoenix trace ")).unwrap();
    let trace = run(&["trace", trace.split(' ').next().unwrap()]).await;
    assert!(trace.succeeded().contains("attempt 1") && trace.out.contains("failed"), "{}", trace.out);

    let failed = run(&["plans", "submit", &plan(dir.path()), "--wait"]).await;
    let plan_id = failed.out.lines().next().unwrap();
    assert_eq!(failed.code, 1, "{failed:?}");
    assert!(
        failed.err.starts_with(&format!("phoenix: plan {plan_id} failed: execution_failed")),
        "{failed:?}"
    );
    let letters = run(&["dead-letters", "list", "--plan-id", plan_id, "--json"]).await.json();
    assert_eq!((letters.len(), &letters[0]["state"]), (1, &json!("open")));

    std::fs::remove_file(dir.path().join("broken")).unwrap();
    let redriven = run(&["plans", "redrive", plan_id, "--reason", "repaired", "--wait"]).await;
    assert!(redriven.succeeded().ends_with("one two"), "{redriven:?}");
    let discarded = run(&["dead-letters", "discard", "--agent=fickle", "--reason", "a test"]).await;
    assert_eq!(discarded.succeeded(), "1 dead letters are discarded");
}

#[tokio::test]
async fn waiting_tasks_are_listed_and_decided() {
    let dir = tempfile::tempdir().unwrap();
    let config = agent(dir.path()).replacen("command", "approval = \"required\"\ncommand", 1);
    let sandbox = Sandbox::start(&config).await;
    let url = sandbox.url(Role::Gateway);
    let run = async |words: &[&str]| phoenix(&url, words, "").await;
    let submitted = run(&["plans", "submit", &plan(dir.path())]).await;
    let plan_id = submitted.succeeded();
    let listed = async || run(&["approvals", "--json"]).await.json();
    until("the first task waits", async || listed().await.len() == 1).await;
    let rows = run(&["approvals"]).await;
    assert!(rows.succeeded().starts_with("PLAN") && rows.out.contains("fickle.chat"), "{rows:?}");
    let hash = listed().await[0]["input_hash"].as_str().unwrap().to_owned();
    let trace = run(&["plans", "get", plan_id]).await;
    assert!(trace.succeeded().contains("  waiting  ") && trace.out.contains(&hash), "{}", trace.out);

    let wrong = ["plans", "approve", plan_id, "--actor=ann", "--input-hash", &"0".repeat(64)];
    let wrong = run(&wrong).await;
    assert!(wrong.code == 1 && wrong.err.contains("conflict"), "{wrong:?}");
    let nameless = run(&["plans", "approve", plan_id]).await;
    assert!(nameless.code == 64 && nameless.err.contains("--actor"), "{nameless:?}");
    let approved = run(&["plans", "approve", plan_id, "first", "--actor=ann", "--input-hash", &hash]).await;
    assert_eq!(approved.succeeded(), "task first is approved");
    until("the second task waits", async || {
        listed().await.first().is_some_and(|next| next["task"] == "second")
    })
    .await;
    let edited = ["plans", "approve", plan_id, "--actor=ann", "--input=-", "--json"];
    let edited = phoenix(&url, &edited, r#"{"message": "other"}"#).await;
    assert_eq!(edited.json()[0]["approval"]["decision"]["input"]["message"], "other");
    let watched = run(&["plans", "watch", plan_id]).await;
    assert!(
        watched.succeeded().ends_with("other") && watched.out.contains("approval_requested"),
        "{watched:?}"
    );
    let trace = run(&["trace", plan_id]).await;
    assert!(
        trace.succeeded().contains("by ann") && trace.out.contains("with another input"),
        "{}",
        trace.out
    );

    let submitted = run(&["plans", "submit", &plan(dir.path())]).await;
    let plan_id = submitted.succeeded();
    until("the first task waits", async || listed().await.len() == 1).await;
    let rejected = run(&["plans", "reject", plan_id, "--actor=ann", "--reason=no"]).await;
    assert_eq!(rejected.succeeded(), "task first is rejected");
    let watched = run(&["plans", "watch", plan_id]).await;
    assert!(watched.code == 1 && watched.err.contains("rejected by ann: no"), "{watched:?}");
}

#[tokio::test]
async fn exit_codes_tell_wrong_usage_refusal_and_absence_apart() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(&agent(dir.path())).await;
    let url = sandbox.url(Role::Gateway);
    let cases: [(&str, &[&str], i32, &str); 8] = [
        (&url, &["plans", "get", "7"], 64, "`7` is not an id"),
        (&url, &["plans", "list", "--since", "soon"], 64, "`soon` is no time"),
        (&url, &["plans", "submit", "missing.json"], 64, "cannot read `missing.json`"),
        ("ftp://host", &["agents", "list"], 64, "begins with http:// or https://"),
        (&url, &["plans", "list", "--status", "happy"], 1, "`status` must be one of"),
        (&url, &["trace", "01a21740-b794-71a6-8e39-3e0fbea051f5"], 1, "there is no plan"),
        (&url, &["agents", "get", "unknown"], 1, "unknown agent `unknown`"),
        ("http://127.0.0.1:1", &["agents", "list"], 69, "cannot reach the gateway at http://127.0.0.1:1/"),
    ];
    for (url, words, code, message) in cases {
        let ran = phoenix(url, words, "").await;
        assert!(ran.code == code && ran.out.is_empty() && ran.err.contains(message), "{words:?}: {ran:?}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            phoenix(&url, &["completions", shell], "").await.succeeded().contains("dead-letters"),
            "{shell}"
        );
    }
    let folder = dir.path().to_str().unwrap();
    phoenix(&url, &["man", folder], "").await.succeeded();
    assert!(dir.path().join("phoenix-plans-submit.1").is_file());
}

#[tokio::test]
async fn contexts_choose_the_gateway_and_hide_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(&agent(dir.path())).await;
    let url = sandbox.url(Role::Gateway);
    let run = async |words: &[&str], env: Variables<'_>, stdin: &str| {
        let mut command = Command::new(phoenix_bin());
        command.args(words).env_clear().env("HOME", dir.path()).envs(env.iter().copied());
        finish(command, stdin).await
    };
    let none = run(&["context", "list"], &[], "").await;
    assert!(none.succeeded().starts_with("no context is set"), "{none:?}");
    let secret = "t0p-s3cret";
    let set = ["context", "set", "here", "--url", &url, "--token-stdin"];
    let here = run(&set, &[], &format!("{secret}\n")).await;
    assert!(here.succeeded().contains("here") && here.out.contains("[set]"), "{here:?}");
    let away = run(&["context", "set", "away", "--url", "http://127.0.0.1:1"], &[], "").await;
    assert!(away.succeeded().lines().any(|row| row.starts_with('*') && row.contains("here")), "{away:?}");
    let file = dir.path().join(".config/phoenix/contexts.toml");
    assert!(std::fs::read_to_string(&file).unwrap().contains(secret), "the token is kept");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let agents = ["agents", "list"];
    let chosen = [&agents[..], &["--context", "away"]].concat();
    let named: [(&[&str], Variables<'_>, i32); 6] = [
        (&agents, &[], 0),
        (&agents, &[("PHOENIX_CONTEXT", "away")], 69),
        (&agents, &[("PHOENIX_CONTEXT", "away"), ("PHOENIX_URL", &url)], 0),
        (&chosen, &[("PHOENIX_URL", &url)], 69),
        (&["agents", "list", "--url", &url], &[("PHOENIX_CONTEXT", "unknown")], 0),
        (&["agents", "list", "--context", "here", "--url", &url], &[], 64),
    ];
    for (words, env, code) in named {
        let ran = run(words, env, "").await;
        assert_eq!(ran.code, code, "{words:?} {env:?} {ran:?}");
    }
    for words in [&["context", "use", "other"][..], &["agents", "list", "--context", "other"]] {
        let unknown = run(words, &[], "").await;
        let message = "there is no context `other` (known: away, here)";
        assert!(unknown.code == 64 && unknown.err.contains(message), "{unknown:?}");
    }
    for words in [
        &["context", "set", "a/b", "--url", "http://h"][..],
        &["context", "set", "a", "--url", "ftp://h"],
        &["context", "set", "a", "--url", "http://user:pw@h"],
        &["context", "set", "a", "--url", "http://h", "--token-stdin"],
    ] {
        assert_eq!(run(words, &[], "").await.code, 64, "{words:?}");
    }
    for words in
        [&["context", "show"][..], &["context", "show", "here", "--json"], &["context", "list", "--json"]]
    {
        let shown = run(words, &[], "").await;
        assert!(shown.succeeded().contains("[set]") && !shown.out.contains(secret), "{shown:?}");
    }
    let removed = run(&["context", "remove", "here"], &[], "").await;
    assert!(!removed.succeeded().contains("here"), "{removed:?}");
    assert_eq!(run(&["context", "show"], &[], "").await.code, 64, "none is the current one");

    std::fs::write(&file, format!("[contexts.x]\ntoken = {secret}\n")).unwrap();
    let broken = run(&agents, &[], "").await;
    assert!(broken.code == 64 && broken.err.contains("line 2") && !broken.err.contains(secret), "{broken:?}");
    assert_eq!(run(&["agents", "list", "--url", &url], &[], "").await.code, 0, "it is not read");
}

#[tokio::test]
async fn exit_code_follows_the_error_of_a_chat() {
    let dir = tempfile::tempdir().unwrap();
    let config = agent(dir.path()).replace(
        "max_attempts = 1",
        "max_attempts = 1\n[agents.fickle.circuit_breaker]\nfailure_threshold = 2",
    );
    let sandbox = Sandbox::start(&config).await;
    let url = sandbox.url(Role::Gateway);
    std::fs::write(dir.path().join("broken"), "").unwrap();
    let chat = async |words: &[&str]| phoenix(&url, &[&["chat", "--agent=fickle"], words].concat(), "").await;
    assert_eq!(chat(&["hello"]).await.code, 1, "execution_failed");
    until("the circuit is open", async || chat(&["hello"]).await.err.contains("agent_unavailable")).await;
    assert_eq!(chat(&["hello"]).await.code, 75, "agent_unavailable");
    let waited = phoenix(&url, &["plans", "submit", "--wait", &plan(dir.path())], "").await;
    assert!(waited.code == 75 && waited.err.contains("agent_unavailable"), "{waited:?}");
}

#[tokio::test]
async fn load_is_sent_and_ends_early_on_ctrl_c() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(&agent(dir.path())).await;
    let url = sandbox.url(Role::Gateway);
    let words =
        ["load", "--agent=fickle", "--requests=20", "--concurrency=2", "--metrics-addr=off", "--json"];
    let ran = phoenix(&url, &words, "").await;
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((ran.code, &report["sent"], &report["ok"]), (0, &json!(20), &json!(20)), "{ran:?}");
    let wrong = phoenix(&url, &["load", "--rate=0"], "").await;
    assert_eq!((wrong.code, wrong.out.as_str()), (64, ""), "{wrong:?}");
    let unknown = phoenix(&url, &["load", "--context=none"], "").await;
    assert!(unknown.code == 64 && unknown.err.contains("there is no context `none`"), "{unknown:?}");

    // Otherwise a late count of those would pass for the first chats of the next run.
    until("the chats so far are counted", async || stats(&url).await == 20).await;
    let mut command = Command::new(phoenix_bin());
    command.args(["load", "--agent=fickle", "--duration-secs=600", "--concurrency=1", "--metrics-addr=off"]);
    command.env_clear().env("PHOENIX_URL", &url).stdin(Stdio::null()).kill_on_drop(true);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Its only connection sends the next chat when the one before is answered.
    until("chats are answered", async || stats(&url).await > 22).await;
    kill(Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()), Signal::SIGINT).unwrap();
    let output = child.wait_with_output().await.unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && table.contains("p99 "), "{table}");
}

/// Plans that were accepted so far.
async fn stats(url: &str) -> u64 {
    let stats = phoenix(url, &["stats", "--json"], "").await;
    stats.json()[0]["total"]["accepted"].as_u64().unwrap()
}
