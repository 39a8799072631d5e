//! The real executable: real processes and real signals, observed from outside.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{
    processes::{children_of, is_alive, pids_of_stack},
    stack::Stack,
    wait::{until, until_some},
};
use serde_json::json;

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

fn agent(name: &str, mode: &str, dir: &Path) -> String {
    let command = json!([SCRIPTED, mode, dir.join(format!("{name}.starts"))]);
    format!(
        "[agents.{name}]\ncommand = {command}\nenv = [\"PATH\", \"MARK\"]\n[agents.{name}.retry]\nmax_attempts = 1\n"
    )
}

fn stack(agents: &[(&str, &str)]) -> phoenix_testkit::stack::StackBuilder {
    let builder = Stack::builder();
    let dir = builder.dir().to_owned();
    let config: String = agents.iter().map(|(name, mode)| agent(name, mode, &dir)).collect();
    builder.config(&config).env("MARK", dir.display().to_string())
}

async fn wait_for_no_process(dir: &Path) {
    until("no process of the stack is left", async || pids_of_stack(dir).is_empty()).await;
}

#[tokio::test]
async fn correlation_id_connects_all_logs_and_metrics_agree() {
    let stack = stack(&[("good", "echo"), ("bad", "fail")]).start().await;
    let rest = stack.rest();
    let answer = rest.chat_with("good", "hello").await;
    assert_eq!(answer.str("output"), "hello", "{}", answer.text);
    let failure = rest.chat_with("bad", "secret-message-text").await;
    assert_eq!(failure.status, 502);
    assert_eq!(rest.post("/api/v1/chat", json!({"message": " "})).await.status, 400);
    assert!(rest.post("/api/chat", json!({"message": "git status"})).await.json["status"].is_string());
    rest.get("/api/v1/agents").await;
    rest.get("/health").await;

    for answer in [&answer, &failure] {
        let id = answer.str("correlation_id");
        for service in ["gateway", "planner", "executor"] {
            until(&format!("the {service} has logged the request"), async || {
                stack.log_of(id).iter().any(|line| line["service"] == service)
            })
            .await;
        }
        let traces: std::collections::BTreeSet<_> =
            stack.log_of(id).iter().filter_map(|line| Some(line["trace_id"].as_str()?.to_owned())).collect();
        assert_eq!(traces.len(), 1, "one trace id in every line: {traces:?}");
        let plan = answer.str("plan_id");
        assert!(stack.log_of(id).iter().any(|line| line["service"] == "executor" && line["plan_id"] == plan));
    }
    assert!(!stack.stderr_text().contains("secret-message-text"), "no message in a log");

    for (role, name, value) in [
        (Role::Planner, "orchestrator_plan_started_total", 3.0),
        (Role::Planner, "orchestrator_plan_failed_total", 2.0),
        (Role::Planner, "orchestrator_plan_succeeded_total", 1.0),
        (Role::Executor, "orchestrator_task_started_total", 3.0),
        (Role::Executor, "agent_call_failures_total", 2.0),
        (Role::Executor, "orchestrator_task_duration_seconds_count", 3.0),
        (Role::Executor, "agent_call_duration_seconds_count", 3.0),
        (Role::Gateway, "http_requests_total_chat_v1", 3.0),
        (Role::Gateway, "http_requests_total_chat_legacy", 1.0),
        (Role::Gateway, "http_requests_total_agents_v1", 1.0),
        (Role::Gateway, "http_requests_total_health", 1.0),
    ] {
        until(&format!("{name} is {value}"), async || stack.metric(role, name).await == value).await;
    }
    assert!(stack.metrics(Role::Health).await.contains("# TYPE"));
}

#[tokio::test]
async fn agent_message_that_quotes_a_prompt_is_in_no_log() {
    const PROMPT: &str = "secret-message-text";
    let codes = ["400", "500", "501", "504"];
    let config: String = codes
        .map(|code| {
            let command = json!([SCRIPTED, "quote", "", code]);
            format!(
                "[agents.quote{code}]\ncommand = {command}\n[agents.quote{code}.retry]\nmax_attempts = 1\n"
            )
        })
        .concat();
    let stack = Stack::builder().config(&config).start().await;
    for code in codes {
        let answer = stack.rest().chat_with(&format!("quote{code}"), PROMPT).await;
        assert!(answer.text.contains(PROMPT), "the caller receives the message: {}", answer.text);
        let id = answer.str("correlation_id");
        until("the attempt is in the log, with its code", async || {
            stack
                .log_of(id)
                .iter()
                .any(|line| line["response_code"].as_u64().is_some_and(|found| code == found.to_string()))
        })
        .await;
        let ended = |line: &serde_json::Value| line["service"] == "gateway";
        until("the request's end is in the log", async || stack.log_of(id).iter().any(ended)).await;
    }
    assert!(!stack.stderr_text().contains(PROMPT), "{}", stack.stderr_text());
}

#[tokio::test]
async fn every_metric_exists_at_zero_before_the_first_request() {
    let stack = stack(&[]).start().await;
    for (role, name) in [
        (Role::Planner, "orchestrator_plan_started_total"),
        (Role::Planner, "orchestrator_plan_succeeded_total"),
        (Role::Planner, "orchestrator_plan_failed_total"),
        (Role::Executor, "orchestrator_task_started_total"),
        (Role::Executor, "agent_call_failures_total"),
        (Role::Executor, "orchestrator_task_duration_seconds_count"),
        (Role::Executor, "agent_call_duration_seconds_count"),
        (Role::Gateway, "http_requests_total_chat_legacy"),
        (Role::Gateway, "http_requests_total_chat_v1"),
        (Role::Gateway, "http_requests_total_agents_v1"),
        (Role::Gateway, "http_requests_total_health"),
        (Role::Gateway, "phoenix_overhead_seconds_count"),
        (Role::Planner, "phoenix_plans{state=\"pending\"}"),
        (Role::Planner, "phoenix_last_recovery_timestamp_seconds"),
        (Role::Executor, "phoenix_workers_busy{agent=\"echo_agent\"}"),
        (Role::Executor, "phoenix_agent_retries_total{agent=\"echo_agent\",class=\"io\"}"),
    ] {
        assert_eq!(stack.metric(role, name).await, 0.0, "{name}");
    }
}

#[tokio::test]
async fn overhead_excludes_the_time_of_agents() {
    let stack = stack(&[("slow", "slow")]).start().await;
    let rest = stack.rest();
    let plans =
        async |state: &str| stack.metric(Role::Planner, &format!("phoenix_plans{{state=\"{state}\"}}")).await;
    let chat = tokio::spawn(async move { rest.chat_with("slow", "take your time").await });
    until("its plan runs", async || plans("running").await == 1.0 && plans("pending").await == 0.0).await;
    assert_eq!(chat.await.unwrap().status, 200);
    // Concurrent tasks: their time counts once.
    let task = |key: &str| json!({"key": key, "agent": "slow", "action": "chat", "input": {"message": key}});
    let plan = stack.rest().post("/api/v1/plans", json!({"tasks": [task("a"), task("b")]})).await;
    assert_eq!(plan.str("status"), "succeeded", "{}", plan.text);
    until("no plan is left", async || plans("running").await == 0.0).await;
    let overhead =
        async |part: &str| stack.metric(Role::Gateway, &format!("phoenix_overhead_seconds_{part}")).await;
    assert_eq!(overhead("count").await, 2.0);
    let seconds = overhead("sum").await;
    assert!(0.0 < seconds && seconds < 1.5, "{seconds} s beside 3 s of work");
    for (name, least) in [
        ("phoenix_task_queue_wait_seconds_count", 3.0),
        ("phoenix_journal_commit_seconds_count", 2.0),
        ("phoenix_journal_entries_total", 2.0),
    ] {
        let value = stack.metric(Role::Planner, name).await;
        assert!(value >= least, "{name} is {value}");
    }
}

#[tokio::test]
async fn terminated_stack_completes_requests_in_flight() {
    let mut stack = stack(&[("slow", "slow")]).start().await;
    let (rest, dir) = (stack.rest(), stack.dir());
    let chat = tokio::spawn(async move { rest.chat_with("slow", "take your time").await });
    until("the agent runs", async || dir.join("slow.starts").exists()).await;
    assert_eq!(stack.stop().await, Some(0), "{}", stack.stderr_text());
    assert_eq!(chat.await.unwrap().str("output"), "take your time");
    wait_for_no_process(&dir).await;
}

#[tokio::test]
async fn killed_service_is_restarted_and_its_agents_are_killed() {
    let stack = stack(&[("good", "echo"), ("forker", "fork")]).start().await;
    let (rest, dir) = (stack.rest(), stack.dir());
    let hanging = stack.rest();
    let chat = tokio::spawn(async move {
        let body = json!({"message": "hang", "agent": "forker"});
        hanging.try_send("POST".parse().unwrap(), "/api/v1/chat", Some(body)).await
    });
    let agent = until_some("the agent runs", async || {
        std::fs::read_to_string(dir.join("forker.starts")).ok()?.trim().parse::<i32>().ok()
    })
    .await;
    let child = until_some("the agent has a child", async || children_of(agent).first().copied()).await;
    let orphans = [agent, child];
    for role in [Role::Executor, Role::Health, Role::Planner, Role::Gateway] {
        let killed = stack.role_pid(role).unwrap();
        stack.signal_role(role, Signal::SIGKILL);
        until(&format!("another {role} runs"), async || {
            stack.role_pid(role).is_some_and(|pid| pid != killed)
        })
        .await;
        until("chats run again", async || {
            let answer = rest.try_send(
                "POST".parse().unwrap(),
                "/api/v1/chat",
                Some(json!({"message": "hi", "agent": "good"})),
            );
            answer.await.is_some_and(|answer| answer.status == 200)
        })
        .await;
    }
    until("the new planner reports its takeover", async || {
        stack.metric(Role::Planner, "phoenix_last_recovery_timestamp_seconds").await > 1e9
    })
    .await;
    until("the processes of the killed executor are gone", async || {
        orphans.iter().all(|pid| !is_alive(*pid))
    })
    .await;
    let answer = chat.await.unwrap();
    assert_eq!(answer.map(|answer| answer.status.as_u16()), Some(503), "its planner was killed");
}

#[tokio::test]
async fn orderly_shutdown_leaves_one_file_per_database() {
    let mut stack = stack(&[("good", "echo")]).start().await;
    let rest = stack.rest();
    assert_eq!(rest.chat_with("good", "hi").await.status, 200);
    let killed = stack.role_pid(Role::Planner).unwrap();
    stack.signal_role(Role::Planner, Signal::SIGKILL);
    until("another planner runs", async || stack.role_pid(Role::Planner).is_some_and(|pid| pid != killed))
        .await;
    until("chats run again", async || rest.chat_with("good", "hi").await.status == 200).await;
    assert_eq!(stack.stop().await, Some(0), "{}", stack.stderr_text());
    let mut left: Vec<_> =
        stack.dir().join("data").read_dir().unwrap().map(|file| file.unwrap().file_name()).collect();
    left.retain(|name| name.to_string_lossy().contains(".db"));
    left.sort();
    assert_eq!(left, ["health.db", "planner.db"]);
}

#[tokio::test]
async fn killed_supervisor_leaves_no_process() {
    let mut stack = stack(&[("hung", "hang")]).start().await;
    let (rest, dir) = (stack.rest(), stack.dir());
    let _chat = tokio::spawn(async move {
        rest.try_send(
            "POST".parse().unwrap(),
            "/api/v1/chat",
            Some(json!({"message": "hi", "agent": "hung"})),
        )
        .await
    });
    until("the agent runs", async || dir.join("hung.starts").exists()).await;
    stack.signal(Signal::SIGKILL);
    assert_eq!(stack.wait().await, None);
    until("the services have exited or drain", async || pids_of_stack(&dir).len() <= 5).await;
    // A second signal ends those that still drain.
    for pid in pids_of_stack(&dir) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM);
    }
    wait_for_no_process(&dir).await;
}

#[tokio::test]
async fn frozen_planner_does_not_hang_its_callers() {
    let stack = stack(&[("good", "echo")]).start().await;
    let rest = stack.rest();
    assert_eq!(rest.chat_with("good", "hi").await.status, 200);
    stack.signal_role(Role::Planner, Signal::SIGSTOP);
    let asked = Instant::now();
    let answer = rest.chat_with("good", "hi").await;
    assert_eq!(
        (answer.status.as_u16(), answer.json["error"]["code"].as_str()),
        (503, Some("unavailable")),
        "{}",
        answer.text
    );
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
    stack.signal_role(Role::Planner, Signal::SIGCONT);
    until("chats run again", async || rest.chat_with("good", "hi").await.status == 200).await;
}

#[tokio::test]
async fn frozen_executor_fails_fast_once_detected() {
    let stack = stack(&[("good", "echo")]).start().await;
    let rest = stack.rest();
    assert_eq!(rest.chat_with("good", "hi").await.status, 200);
    stack.signal_role(Role::Executor, Signal::SIGSTOP);
    let waits = rest.submit("/api/v1/chat", json!({"message": "hi", "agent": "good"})).await;
    // Pings detect the frozen executor. It has not acknowledged the task, so the planner waits for no other.
    let asked = Instant::now();
    assert_eq!(rest.chat_with("good", "hi").await.status, 503);
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    for _ in 0..3 {
        let asked = Instant::now();
        let answer = rest.chat_with("good", "hi").await;
        let code = answer.json["error"]["code"].as_str();
        assert_eq!((answer.status.as_u16(), code), (503, Some("unavailable")), "{}", answer.text);
        assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    }
    stack.signal_role(Role::Executor, Signal::SIGCONT);
    until("chats run again", async || rest.chat_with("good", "hi").await.status == 200).await;
    let plan = rest.wait_for_end(&waits).await;
    assert_eq!(plan["status"], "succeeded", "the plan was not given up: {plan}");
}

#[tokio::test]
async fn api_token_is_required_and_never_logged() {
    let stack = stack(&[("good", "echo")])
        .env("ORCH_API_TOKEN", "token-of-the-test")
        .env("OPENAI_API_KEY", "sk-key-of-the-test")
        .start()
        .await;
    let anonymous = phoenix_testkit::http::Rest::new(stack.base_url());
    let rejected = anonymous.chat_with("good", "hi").await;
    assert_eq!(
        (rejected.status.as_u16(), rejected.header("www-authenticate").starts_with("Bearer")),
        (401, true)
    );
    assert!(!rejected.header("x-correlation-id").is_empty());
    assert_eq!(anonymous.get("/livez").await.status, 200);
    assert_eq!(stack.metric(Role::Gateway, "http_requests_total_chat_v1").await, 0.0);
    assert_eq!(stack.metric(Role::Planner, "orchestrator_plan_started_total").await, 0.0);
    assert_eq!(stack.rest().chat_with("good", "hi").await.status, 200);
    for secret in ["token-of-the-test", "sk-key-of-the-test"] {
        assert!(!stack.stderr_text().contains(secret));
        for file in std::fs::read_dir(stack.dir().join("data"))
            .unwrap()
            .flatten()
            .filter(|file| file.path().is_file())
        {
            let bytes = std::fs::read(file.path()).unwrap();
            assert!(
                !bytes.windows(secret.len()).any(|window| window == secret.as_bytes()),
                "{:?}",
                file.path()
            );
        }
    }
}

#[tokio::test]
async fn invalid_configuration_is_reported_and_starts_nothing() {
    for (config, env, code, said) in [
        ("[planner\n", None, 64, "phoenix.toml"),
        ("[agents.default]\ntimout_secs = 3\n", None, 64, "timout_secs"),
        ("", Some(("RUST_LOG", "a=b=c")), 64, "RUST_LOG"),
        ("", Some(("PHOENIX_CONFIG", "/nonexistent.toml")), 64, "/nonexistent.toml"),
    ] {
        let mut builder = Stack::builder().config(config);
        if let Some((name, value)) = env {
            builder = builder.env(name, value);
        }
        let output = builder.command().0.output().await.unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(said), "{said} is not in: {stderr}");
        assert!(output.stdout.is_empty());
    }
}

#[tokio::test]
async fn port_in_use_and_unwritable_folder_stop_the_start() {
    let builder = Stack::builder();
    let (mut command, offset) = builder.command();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", 9002 + offset)).unwrap();
    let output = command.output().await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(&format!("{}", 9002 + offset)) && stderr.contains("--port-offset"), "{stderr}");

    let builder = Stack::builder();
    std::fs::write(builder.dir().join("data"), "a file where the folder should be").unwrap();
    let output = builder.command().0.output().await.unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("--data-dir"), "{stderr}");
}
