//! `phoenix up` and its data folder: locking, permissions, names, environment and shutdown.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::{
    io::Write,
    net::TcpStream,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use phoenix_platform::config::Role;
use phoenix_testkit::{
    phoenix_bin,
    processes::{children_of, command_line, is_alive},
    stack::{Stack, StackBuilder},
    wait::{until, until_some},
};
use serde_json::{Value, json};

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// A stack with one agent of the given mode, named after it.
fn stack_with(mode: &str) -> StackBuilder {
    let builder = Stack::builder();
    let command = json!([SCRIPTED, mode, builder.dir().join("starts"), builder.dir().join("switch")]);
    let config = format!("[agents.{mode}]\ncommand = {command}\n[agents.{mode}.retry]\nmax_attempts = 1\n");
    std::fs::write(builder.dir().join("switch"), "").unwrap();
    builder.config(&config)
}

/// Runs `phoenix` with `arguments` in `dir`.
async fn phoenix(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(phoenix_bin());
    command.args(arguments).current_dir(dir).env_remove("DATABASE_URL").env_remove("PHOENIX_DATA_DIR");
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Exit code and output of a stack that fails to start.
async fn failed_start(builder: StackBuilder) -> (Option<i32>, String) {
    let output = builder.command().0.output().await.unwrap();
    assert!(output.stdout.is_empty(), "{}", text(&output));
    (output.status.code(), text(&output))
}

#[tokio::test]
async fn second_stack_on_one_data_folder_is_rejected() {
    let mut stack = Stack::builder().start().await;
    let data = stack.dir().join("data").canonicalize().unwrap();
    let second = phoenix(&stack.dir(), &["up", "--data-dir", "data", "--port-offset", "15001"]).await;
    assert_eq!(second.status.code(), Some(1), "{}", text(&second));
    for expected in [data.to_str().unwrap(), "--data-dir"] {
        assert!(text(&second).contains(expected), "{expected} is not in {}", text(&second));
    }
    assert!(second.stdout.is_empty());
    assert_eq!(stack.rest().chat_with("echo_agent", "hi").await.status, 200, "the first stack is unaffected");
    // A service that inherits the lock would hold it after the exit of the stack.
    for role in Role::ALL {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", stack.role_pid(*role).unwrap()));
        let open = fds.into_iter().flatten().flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
        assert!(!open.into_iter().any(|file| file.ends_with("up.lock")), "{role}");
    }
    assert_eq!(stack.stop().await, Some(0));
}

#[tokio::test]
async fn data_folder_with_special_characters_is_literal() {
    let mut stack = Stack::builder().data_dir("percent%20sign?mode=memory#1").start().await;
    let dir = stack.dir();
    let data = dir.join("percent%20sign?mode=memory#1");
    assert_eq!(stack.rest().chat_with("echo_agent", "kept").await.status, 200);
    assert!(data.join("planner.db").is_file() && data.join("health.db").is_file());
    let backup =
        phoenix(&dir, &["backup", "--data-dir", data.to_str().unwrap(), "--to", "file:copy?x"]).await;
    assert!(backup.status.success(), "{}", text(&backup));
    assert_eq!(stack.stop().await, Some(0));
    let restore = phoenix(&dir, &["restore", "--from", "file:copy?x", "--data-dir", "sqlite:new%3F"]).await;
    assert!(restore.status.success(), "{}", text(&restore));
    assert!(dir.join("sqlite:new%3F/planner.db").is_file());
    let again = phoenix(&dir, &["backup", "--data-dir", "sqlite:new%3F", "--to", "again%"]).await;
    assert!(again.status.success() && dir.join("again%/planner.db").is_file(), "{}", text(&again));
    let one = "sqlite://sqlite%3Anew%253F/planner.db";
    let one = phoenix(&dir, &["backup", "--database-url", one, "--to", "one%41.db"]).await;
    assert!(one.status.success() && dir.join("one%41.db").is_file(), "{}", text(&one));
}

#[tokio::test]
async fn settings_managed_by_up_exit_64() {
    let config = "[planner]\ndatabase_url = \"sqlite://x.db\"\ngrpc_addr = \"nonsense\"\n[gateway]\nhttp_addr = \"127.0.0.1:1\"\n\
                  [health]\nmetrics_addr = \"127.0.0.1:2\"\n";
    let (code, output) = failed_start(Stack::builder().config(config)).await;
    assert_eq!(code, Some(64), "{output}");
    for setting in ["planner.database_url", "planner.grpc_addr", "gateway.http_addr", "health.metrics_addr"] {
        assert_eq!(output.matches(&format!("{setting}: ")).count(), 1, "{setting} once in {output}");
    }
    assert!(output.contains("--data-dir") && output.contains("--port-offset"), "{output}");
}

#[tokio::test]
async fn variables_that_up_ignores_are_named_in_one_warning() {
    let set = [
        ("DATABASE_URL", "sqlite:///nonexistent/x.db"),
        ("GRPC_ADDR", "nonsense"),
        ("METRICS_ADDR", "127.0.0.1:1"),
        ("PLANNER_URL", "nonsense"),
        ("HTTP_ADDR", "127.0.0.1:2"),
    ];
    let mut builder = Stack::builder();
    for (name, value) in set {
        builder = builder.env(name, value);
    }
    let mut stack = builder.start().await;
    let warning = until_some("the warning", async || {
        let lines = stack.stderr_text();
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let warnings: Vec<_> =
            lines.filter(|line| line["service"] == "up" && line["level"] == "WARN").collect();
        assert!(warnings.len() < 2, "{warnings:?}");
        warnings.into_iter().next()
    })
    .await
    .to_string();
    for (name, value) in set {
        assert!(warning.contains(name) && !warning.contains(value), "{name} in {warning}");
    }
    assert!(warning.contains("--data-dir") && warning.contains("--port-offset"), "{warning}");
    assert!(stack.dir().join("data/planner.db").is_file());
    assert_eq!(stack.stop().await, Some(0));
}

#[tokio::test]
async fn data_folder_in_a_repository_is_not_committed() {
    let builder = Stack::builder();
    let dir = builder.dir().to_owned();
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(&dir).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    };
    git(&["init", "--quiet"]);
    let mut stack = builder.config("").start().await;
    let note = json!({"key": "n", "agent": "obsidian_agent", "action": "create_note",
        "input": {"title": "Note", "content": "private"}});
    assert_eq!(stack.rest().post("/api/v1/plans", json!({"tasks": [note]})).await.str("status"), "succeeded");
    git(&["add", "--all"]);
    assert_eq!(git(&["ls-files"]).trim(), "phoenix.toml");
    assert_eq!(stack.stop().await, Some(0));
}

/// Every file and folder below `folder` that grants permissions to group or others.
fn shared(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(path) = open.pop() {
        let metadata = path.symlink_metadata().unwrap();
        if metadata.mode() & 0o077 != 0 {
            found.push(path.clone());
        }
        if metadata.is_dir() {
            open.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}

#[tokio::test]
async fn every_written_file_is_private() {
    let mut stack = Stack::builder().launcher(&["sh", "-c", "umask 000; exec \"$@\"", "sh"]).start().await;
    let (dir, rest) = (stack.dir(), stack.rest());
    let note = json!({"key": "n", "agent": "obsidian_agent", "action": "create_note",
        "input": {"path": "deep/er/note.md", "content": "private"}});
    assert_eq!(rest.post("/api/v1/plans", json!({"tasks": [note]})).await.str("status"), "succeeded");
    let data = dir.join("data");
    assert!(data.join("planner.db-wal").is_file() && data.join("vault/deep/er/note.md").is_file());
    assert_eq!(shared(&data), Vec::<PathBuf>::new(), "while it runs");
    // A note of another program.
    std::fs::set_permissions(data.join("vault/deep/er/note.md"), PermissionsExt::from_mode(0o644)).unwrap();
    let open = |arguments: &str| {
        let script = format!("umask 000; exec \"$0\" {arguments}");
        let output =
            Command::new("sh").args(["-c", &script]).arg(phoenix_bin()).current_dir(&dir).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    };
    open("backup --data-dir data --to copies/first");
    assert_eq!(shared(&dir.join("copies")), Vec::<PathBuf>::new(), "a backup");
    assert_eq!(stack.stop().await, Some(0));
    open("restore --from copies/first --data-dir restored");
    assert_eq!(shared(&dir.join("restored")), Vec::<PathBuf>::new(), "a restore");
}

#[tokio::test]
async fn agent_cannot_read_services_or_the_model_agent() {
    // No server listens on the port of the model.
    let config = format!(
        "[agents.snoop]\ncommand = {}\nenv = [\"PATH\"]\n[agents.llm_router_agent.retry]\nmax_attempts = 1\n\
         [llm.openai]\napi_key = \"${{MODEL_KEY}}\"\nbase_url = \"http://127.0.0.1:9\"\n",
        json!([SCRIPTED, "snoop"])
    );
    let mut stack = Stack::builder()
        .config(&config)
        .env("ORCH_API_TOKEN", "token-of-the-test")
        .env("MODEL_KEY", "sk-key-of-the-test")
        .env("DB_PASSWORD", "password-of-the-test")
        .unprivileged()
        .start()
        .await;
    let rest = stack.rest();
    assert_ne!(rest.chat_with("llm_router_agent", "hi").await.status, 200);
    let executor = stack.role_pid(Role::Executor).unwrap();
    let model = children_of(executor)
        .into_iter()
        .find(|pid| command_line(*pid).iter().any(|word| word == "llm-router"));
    let model = model.expect("the model agent waits for the next request");
    let seen = rest.chat_with("snoop", "look").await;
    let seen = seen.str("output");
    assert!(
        !seen.contains("phoenix up") && !seen.contains("--supervised") && !seen.contains("llm-router"),
        "{seen}"
    );
    // Root can read the environment of each process.
    let environment = |pid: i32| std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let has =
        |pid: i32, secret: &str| environment(pid).windows(secret.len()).any(|part| part == secret.as_bytes());
    if geteuid().is_root() {
        for role in Role::ALL {
            let pid = stack.role_pid(*role).unwrap();
            assert_eq!(has(pid, "token-of-the-test"), *role == Role::Gateway, "{role}");
            assert_eq!(has(pid, "sk-key-of-the-test"), *role == Role::Executor, "{role}");
            assert!(!has(pid, "password-of-the-test"), "{role}");
        }
        // The agent collects its key over a socket of the executor.
        assert!(!has(model, "sk-key-of-the-test") && has(model, "PHOENIX_LLM_SETTINGS_SOCKET"));
    }
    assert_eq!(
        rest.get("/health").await.str("llm_provider"),
        "openai",
        "the gateway knows that a key is set"
    );
    // The agent ends with its executor, although the guard cannot read its marker.
    stack.signal_role(Role::Executor, Signal::SIGKILL);
    until("the model agent is gone", async || !is_alive(model)).await;
    until("another executor runs", async || {
        stack.role_pid(Role::Executor).is_some_and(|pid| pid != executor)
    })
    .await;
    until("chats run again", async || rest.chat_with("snoop", "look").await.status == 200).await;
    assert_eq!(stack.stop().await, Some(0), "{}", stack.stderr_text());
}

#[tokio::test]
async fn user_signals_are_ignored_and_hangup_drains() {
    let mut stack = stack_with("gate").start().await;
    let rest = stack.rest();
    let pids: Vec<_> = Role::ALL.iter().map(|role| stack.role_pid(*role).unwrap()).collect();
    for pid in pids.iter().copied().chain([stack.pid()]) {
        for signal in [Signal::SIGUSR1, Signal::SIGUSR2] {
            kill(Pid::from_raw(pid), signal).unwrap();
        }
    }
    assert_eq!(rest.chat_with("echo_agent", "hi").await.status, 200);
    let now: Vec<_> = Role::ALL.iter().map(|role| stack.role_pid(*role).unwrap()).collect();
    assert_eq!(now, pids, "no service was restarted");
    let dir = stack.dir();
    let chat = tokio::spawn(async move { rest.chat_with("gate", "in flight").await });
    until("the agent runs", async || dir.join("starts").exists()).await;
    stack.signal(Signal::SIGHUP);
    std::fs::remove_file(dir.join("switch")).unwrap();
    assert_eq!(chat.await.unwrap().str("output"), "in flight");
    assert_eq!(stack.wait().await, Some(0), "{}", stack.stderr_text());
}

#[tokio::test]
async fn stack_with_a_service_killed_during_drain_exits_1() {
    let mut stack = stack_with("gate").start().await;
    let (rest, dir) = (stack.rest(), stack.dir());
    let chat = tokio::spawn(async move {
        let body = json!({"message": "hi", "agent": "gate"});
        rest.try_send("POST".parse().unwrap(), "/api/v1/chat", Some(body)).await
    });
    until("the agent runs", async || dir.join("starts").exists()).await;
    let gateway = stack.role_pid(Role::Gateway).unwrap();
    stack.signal(Signal::SIGTERM);
    let address = stack.base_url().trim_start_matches("http://").to_owned();
    until("the gateway drains", async || TcpStream::connect(&address).is_err()).await;
    kill(Pid::from_raw(gateway), Signal::SIGKILL).unwrap();
    std::fs::remove_file(dir.join("switch")).unwrap();
    assert_eq!(stack.wait().await, Some(1), "{}", stack.stderr_text());
    let _ = chat.await;
}

#[tokio::test]
async fn partial_requests_to_metrics_do_not_delay_a_stop() {
    let mut stack = Stack::builder().start().await;
    let offset = stack.base_url().rsplit(':').next().unwrap().parse::<u16>().unwrap() - 8181;
    let open = Role::ALL.iter().map(|role| {
        let mut connection = TcpStream::connect(("127.0.0.1", role.default_metrics_port() + offset)).unwrap();
        connection.write_all(b"GET /metrics HTTP/1.1\r\nHos").unwrap();
        connection
    });
    let _open: Vec<_> = open.collect();
    let asked = Instant::now();
    assert_eq!(stack.stop().await, Some(0), "{}", stack.stderr_text());
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn unreadable_configuration_is_named_and_exits_64() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("phoenix.toml"), "[planner]\nmax_plans_in_flight = 1\n").unwrap();
    let is_root = geteuid().is_root();
    let closed = if is_root { dir.path().to_owned() } else { dir.path().join("phoenix.toml") };
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(if is_root { 0o700 } else { 0o000 }))
        .unwrap();
    let mut command = if is_root { Command::new("setpriv") } else { Command::new(phoenix_bin()) };
    if is_root {
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(phoenix_bin());
    }
    command
        .args(["planner", "--metrics-addr", "127.0.0.1:0", "--addr", "127.0.0.1:0"])
        .current_dir(dir.path());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    let expected = format!("{}/phoenix.toml: the configuration file cannot be read", dir.path().display());
    assert!(text(&output).contains(&expected), "{}", text(&output));
}

#[tokio::test]
async fn backup_narrowed_by_a_variable_names_what_is_missing() {
    let mut stack = Stack::builder().start().await;
    let dir = stack.dir();
    let backup = |variable: &'static str, to: &'static str| {
        let mut command = Command::new(phoenix_bin());
        command.args(["backup", "--to", to]).current_dir(&dir).env_remove("PHOENIX_DATA_DIR");
        command.env("DATABASE_URL", variable);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let output = backup("sqlite://data/planner.db", "one.db").await.unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    for expected in ["DATABASE_URL", "health.db", "notes", "--data-dir"] {
        assert!(said.contains(expected), "{expected} is not in {said}");
    }
    let whole = backup("", "copy").await.unwrap();
    assert!(whole.status.success() && whole.stderr.is_empty(), "{}", text(&whole));
    assert_eq!(stack.stop().await, Some(0));
}

#[tokio::test]
async fn backup_of_postgres_names_its_tools_and_not_the_password() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(phoenix_bin());
    command.args(["backup", "--to", "copy"]).current_dir(dir.path());
    command.env("DATABASE_URL", "postgres://u:sesame@db.example/phoenix");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    assert!(
        text(&output).contains("pg_dump") && text(&output).contains("docs/backup.md"),
        "{}",
        text(&output)
    );
    assert!(!text(&output).contains("sesame"), "{}", text(&output));
}
