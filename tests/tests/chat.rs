//! Chats from REST to an agent process and back, with all four services in this process.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use phoenix_platform::config::Role;
use phoenix_testkit::{http::Answer, sandbox::Sandbox, wait::until};
use serde_json::json;

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// `[agents.NAME]` for the scripted agent, with one attempt and a breaker that opens after three failures.
fn agent(name: &str, mode: &str, starts: &Path, switch: Option<&Path>) -> String {
    let mut command = vec![SCRIPTED.to_owned(), mode.into(), starts.display().to_string()];
    command.extend(switch.map(|path| path.display().to_string()));
    format!(
        "[agents.{name}]\ncommand = {}\ntimeout_secs = 20\n[agents.{name}.retry]\nmax_attempts = 1\n\
         [agents.{name}.circuit_breaker]\nfailure_threshold = 3\ncooldown_ms = 1500\n",
        json!(command)
    )
}

fn starts(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

fn assert_code(answer: &Answer, status: u16, code: &str) {
    assert_eq!(
        (answer.status.as_u16(), answer.json["error"]["code"].as_str()),
        (status, Some(code)),
        "{}",
        answer.text
    );
}

#[tokio::test]
async fn chat_returns_git_status_of_a_real_repository() {
    let repository = tempfile::tempdir().unwrap();
    let mut init = Command::new("git");
    init.args(["init", "--quiet", "--initial-branch=trunk"]).current_dir(repository.path());
    assert!(init.status().unwrap().success());
    std::fs::write(repository.path().join("new.txt"), "hello").unwrap();
    let root = repository.path().to_str().unwrap();
    let sandbox =
        Sandbox::start_with("", &[("GIT_AGENT_REPO_ROOT", root), ("PATH", "/usr/local/bin:/usr/bin:/bin")])
            .await;
    let answer = sandbox.rest().post("/api/v1/chat", json!({"message": "git status, please"})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.str("status"), "success");
    assert!(
        answer.str("output").contains("new.txt") && answer.str("output").contains("trunk"),
        "{}",
        answer.text
    );
    assert_eq!(answer.header("x-correlation-id"), answer.str("correlation_id"));
    assert!(!answer.str("plan_id").is_empty());
}

#[tokio::test]
async fn answer_without_a_model_says_so() {
    let sandbox = Sandbox::start("[llm]\ndefault_provider = \"offline\"\n").await;
    let answer = sandbox.rest().post("/api/v1/chat", json!({"message": "What is a phoenix?"})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(answer.str("output").contains("no"), "{}", answer.text);
    assert_eq!(sandbox.rest().get("/health").await.str("llm_provider"), "offline");
}

#[tokio::test]
async fn three_failures_open_the_circuit_and_a_success_closes_it() {
    let dir = tempfile::tempdir().unwrap();
    let (log, broken) = (dir.path().join("starts"), dir.path().join("broken"));
    std::fs::write(&broken, "").unwrap();
    let sandbox = Sandbox::start(&agent("flaky", "fail", &log, Some(&broken))).await;
    let rest = sandbox.rest();
    assert_eq!(rest.agent("flaky").await.unwrap()["health"], "healthy");
    for n in 1..=3 {
        let answer = rest.chat_with("flaky", "hello").await;
        assert_code(&answer, 502, "execution_failed");
        assert!(
            answer.json["error"]["details"]["stderr"].as_str().unwrap().contains("boom"),
            "{}",
            answer.text
        );
        assert!(answer.json["plan_id"].is_string(), "{}", answer.text);
        assert_eq!(starts(&log), n);
    }
    let rejected = rest.chat_with("flaky", "hello").await;
    assert_code(&rejected, 503, "agent_unavailable");
    assert!(rejected.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(starts(&log), 3, "no process was started");
    let health = rest.agent("flaky").await.unwrap();
    assert_eq!((&health["health"], &health["consecutive_failures"]), (&json!("unhealthy"), &json!(3)));
    assert!(health["circuit_open_until"].as_str().unwrap().ends_with('Z'));

    std::fs::remove_file(&broken).unwrap();
    until("the circuit admits a chat", async || rest.chat_with("flaky", "again").await.status == 200).await;
    let health = rest.agent("flaky").await.unwrap();
    assert_eq!((&health["health"], &health["circuit_open_until"]), (&json!("healthy"), &json!(null)));
    assert_eq!(starts(&log), 4, "one of the attempts was admitted");
}

#[tokio::test]
async fn one_chat_that_crashes_its_agent_opens_no_circuit() {
    let dir = tempfile::tempdir().unwrap();
    let (log, broken) = (dir.path().join("starts"), dir.path().join("broken"));
    std::fs::write(&broken, "").unwrap();
    let retried =
        agent("flaky", "fail", &log, Some(&broken)).replace("max_attempts = 1", "initial_backoff_ms = 5");
    let sandbox = Sandbox::start(&retried).await;
    let rest = sandbox.rest();
    assert_code(&rest.chat_with("flaky", "crash").await, 502, "execution_failed");
    assert_eq!(starts(&log), 3);
    let health = rest.agent("flaky").await.unwrap();
    assert_eq!((&health["health"], &health["consecutive_failures"]), (&json!("degraded"), &json!(3)));
    assert_code(&rest.chat_with("flaky", "crash").await, 502, "execution_failed");
    let health = rest.agent("flaky").await.unwrap();
    assert_eq!(health["health"], "unhealthy", "a second task failed");
}

#[tokio::test]
async fn invalid_requests_do_not_count_against_an_agent() {
    let sandbox = Sandbox::start("").await;
    let rest = sandbox.rest();
    for _ in 0..4 {
        let answer = rest.chat_with("git_agent", "sing me a song").await;
        assert_code(&answer, 400, "validation_failed");
    }
    assert_eq!(rest.agent("git_agent").await.unwrap()["health"], "healthy");
    assert_code(&rest.chat_with("no_such_agent", "hello").await, 422, "planning_failed");
}

#[tokio::test]
async fn missing_and_hanging_programs_fail_in_bounded_time() {
    let dir = tempfile::tempdir().unwrap();
    let config = agent("slowpoke", "hang", &dir.path().join("starts"), None)
        .replace("timeout_secs = 20", "timeout_secs = 0.3")
        + "[agents.ghost]\ncommand = [\"/nonexistent/agent\"]\n[agents.ghost.retry]\nmax_attempts = 2\ninitial_backoff_ms = 1\n";
    let sandbox = Sandbox::start(&config).await;
    let rest = sandbox.rest();
    assert_code(&rest.chat_with("slowpoke", "hello").await, 504, "timeout");
    let ghost = rest.chat_with("ghost", "hello").await;
    assert_code(&ghost, 502, "execution_failed");
    assert_eq!(ghost.json["error"]["details"]["attempts"], "2");
    assert!(!ghost.text.contains("/nonexistent"), "an answer contains a path: {}", ghost.text);
}

#[tokio::test]
async fn agent_receives_attempt_deadline_and_trace() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(&agent("curious", "meta", &dir.path().join("starts"), None)).await;
    let answer = sandbox.rest().chat_with("curious", "hello").await;
    let meta: serde_json::Value = serde_json::from_str(answer.str("output")).unwrap();
    assert_eq!(meta["attempt"], 1);
    assert!(meta["deadline_ms"].as_u64().unwrap() <= 20_000);
    assert!(!meta["idempotency_key"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn chats_run_without_the_health_service() {
    let dir = tempfile::tempdir().unwrap();
    let mut sandbox = Sandbox::start(&agent("echo", "echo", &dir.path().join("starts"), None)).await;
    let rest = sandbox.rest();
    sandbox.stop(Role::Health).await;
    for _ in 0..3 {
        assert_eq!(rest.chat_with("echo", "hello").await.str("output"), "hello");
    }
    let agents = rest.get("/api/v1/agents").await;
    assert_eq!((agents.status.as_u16(), agents.str("code")), (503, "unavailable"), "{}", agents.text);
    assert!(!agents.header("retry-after").is_empty());
    assert!(rest.get("/readyz").await.text.contains("health"));
    sandbox.restart(Role::Health).await;
    until("the agents are listed again", async || rest.agent("echo").await.is_some()).await;
}

#[tokio::test]
async fn missing_executor_or_planner_fails_fast_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let mut sandbox = Sandbox::start(&agent("echo", "echo", &dir.path().join("starts"), None)).await;
    let rest = sandbox.rest();
    for role in [Role::Executor, Role::Planner] {
        sandbox.stop(role).await;
        let asked = Instant::now();
        let answer = rest.chat_with("echo", "hello").await;
        assert_code(&answer, 503, "unavailable");
        assert!(!answer.header("retry-after").is_empty() && !answer.str("correlation_id").is_empty());
        assert!(asked.elapsed() < Duration::from_secs(2), "{role}: {:?}", asked.elapsed());
        let ready = rest.get("/readyz").await;
        assert_eq!(ready.status, 503);
        assert!(ready.text.contains(role.as_str()), "{}", ready.text);
        sandbox.restart(role).await;
        until("chats run again", async || rest.chat_with("echo", "hello").await.status == 200).await;
    }
}

#[tokio::test]
async fn health_survives_a_restart_of_its_service() {
    let dir = tempfile::tempdir().unwrap();
    let mut sandbox = Sandbox::start(&agent("bad", "fail", &dir.path().join("starts"), None)).await;
    let rest = sandbox.rest();
    rest.chat_with("bad", "hello").await;
    let before = rest.agent("bad").await.unwrap();
    assert_eq!(before["health"], "degraded");
    sandbox.stop(Role::Health).await;
    sandbox.restart(Role::Health).await;
    until("the health is the same again", async || rest.agent("bad").await.as_ref() == Some(&before)).await;
}

#[tokio::test]
async fn request_in_flight_completes_while_services_stop() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("starts");
    let mut sandbox = Sandbox::start(&agent("slow", "slow", &log, None)).await;
    let rest = sandbox.rest();
    let chat = tokio::spawn(async move { rest.chat_with("slow", "take your time").await });
    until("the agent runs", async || starts(&log) == 1).await;
    for role in [Role::Gateway, Role::Planner, Role::Executor] {
        sandbox.stop(role).await;
    }
    let answer = chat.await.unwrap();
    assert_eq!(answer.str("output"), "take your time", "{}", answer.text);
}
