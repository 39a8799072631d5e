//! One attempt, in every mode: it ends in time, with the right failure class, and leaves no process behind.

use std::{
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use phoenix_domain::{AgentMode, AgentSpec, FailureClass, OrchestratorErrorCode};
use phoenix_proto::{
    executor::{ExecuteTaskRequest, task_finished},
    health_v1::Outcome,
};
use serde_json::json;

use crate::sandbox::{Sandbox, TaskOutcome, agent, quick_retries};

const MODES: [AgentMode; 2] = [AgentMode::Oneshot, AgentMode::Workers];

/// A provider key that is long enough to be redacted.
const KEY: &str = "sk-very-secret-0123456789";

/// Runs one task and checks that no process is left, except a reusable worker.
async fn run(spec: AgentSpec) -> TaskOutcome {
    let mode = spec.mode;
    let sandbox = Sandbox::start(spec).await;
    let outcome = sandbox.run().await;
    let is_reusable = match outcome.finished.result.as_ref().unwrap() {
        task_finished::Result::Output(_) => true,
        task_finished::Result::Error(error) => error.details.contains_key("response_code"),
    };
    if mode == AgentMode::Oneshot || !is_reusable {
        sandbox.no_process_left().await;
    }
    sandbox.stop().await;
    outcome
}

/// Runs the failing task in every mode.
async fn fails(spec: AgentSpec, class: FailureClass, says: &str, stderr: &str) {
    for mode in MODES {
        fails_in(AgentSpec { mode, ..spec.clone() }, class, says, stderr).await;
    }
}

/// Runs a task that fails in `class`, with `says` in its message and `stderr` in its details.
async fn fails_in(spec: AgentSpec, class: FailureClass, says: &str, stderr: &str) {
    let what = format!("{:?} {}", spec.mode, spec.command.join(" "));
    let outcome = run(spec).await;
    let [failed] = outcome.failed.as_slice() else { panic!("{what}: {outcome:?}") };
    assert_eq!(failed.error_class, class.as_str(), "{what}: {}", failed.message);
    assert_eq!(
        (outcome.started.len(), outcome.finished.attempts, failed.retry_in_ms),
        (1, 1, None),
        "{what}"
    );
    assert!(failed.message.contains(says), "{what}: {}", failed.message);
    assert!(failed.stderr_tail.contains(stderr) && failed.stderr_tail.len() <= 64 * 1024, "{what}");
    let error = outcome.error();
    assert!(error.message.contains(says), "{what}: {}", error.message);
    assert_eq!(error.details["error_class"], class.as_str(), "{what}");
    assert_eq!(error.details.get("stderr").map_or("", String::as_str), failed.stderr_tail, "{what}");
    assert!(!error.to_string().contains('/'), "{what}: {error} contains a path");
}

/// An agent whose timeout no test reaches.
fn unhurried(behaviour: &[&str]) -> AgentSpec {
    AgentSpec { timeout: Duration::from_secs(600), ..agent(behaviour) }
}

#[tokio::test]
async fn agent_receives_request_and_its_result_is_returned() {
    for mode in MODES {
        let outcome = run(AgentSpec { mode, ..unhurried(&["answer"]) }).await;
        let data = outcome.data();
        let request = &data["request"];
        assert_eq!(request["tool"], "test_agent");
        assert_eq!(request["action"], "chat");
        assert_eq!(request["context"], "a test");
        assert_eq!(request["payload"], json!({ "message": "hello" }));
        assert_eq!(request["_meta"]["attempt"], 1);
        assert_eq!(request["_meta"]["idempotency_key"], "the key");
        let deadline_ms = request["_meta"]["deadline_ms"].as_u64().unwrap();
        assert!((500_000..=600_000).contains(&deadline_ms), "{deadline_ms}");
        assert_eq!(outcome.started[0].worker, format!("pid {}", data["pid"]));
        assert!(outcome.failed.is_empty());
    }
}

#[tokio::test]
async fn lenient_output_is_accepted() {
    let oneshot = ["answer-without-newline", "keep-pipes-open", "flood-stderr"];
    let workers = ["keep-pipes-open", "flood-stderr"];
    for (mode, behaviours) in [(AgentMode::Oneshot, &oneshot[..]), (AgentMode::Workers, &workers)] {
        for behaviour in behaviours {
            let begun = Instant::now();
            let outcome = run(AgentSpec { mode, ..unhurried(&[behaviour]) }).await;
            assert_eq!(outcome.data()["request"]["action"], "chat", "{mode:?} {behaviour}");
            assert!(begun.elapsed() < Duration::from_secs(60), "{mode:?} {behaviour}");
        }
    }
}

#[tokio::test]
async fn program_that_cannot_start_is_an_io_failure() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent");
    std::fs::write(&file, "no program").unwrap();
    let file = file.to_str().unwrap().to_owned();
    let with_command = |program: &str| AgentSpec { command: vec![program.into()], ..unhurried(&[]) };
    fails(with_command("no-such-program"), FailureClass::Io, "was not found", "").await;
    fails(with_command("/no/such/program"), FailureClass::Io, "was not found", "").await;
    fails(with_command(&file), FailureClass::Io, "may not be executed", "").await;
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    fails(with_command(&file), FailureClass::Io, "could not be started", "").await;
}

#[tokio::test]
async fn exit_code_other_than_0_is_a_failure_despite_output() {
    let backend = FailureClass::BackendFailure;
    fails_in(unhurried(&["exit", "3"]), backend, "exited with code 3", "boom").await;
    fails(unhurried(&["die-by-signal"]), backend, "ended by SIGABRT", "boom").await;
    fails(unhurried(&["flood-stderr-and-fail"]), backend, "exited with code 9", "the end").await;
    fails(unhurried(&["keep-pipes-open-and-fail"]), backend, "exited with code 4", "left a child").await;
}

#[tokio::test]
async fn output_other_than_one_response_is_a_backend_failure() {
    for (behaviour, says) in [
        ("garbage", "not an action response"),
        ("half", "not an action response"),
        ("nothing", "exited without an answer"),
        ("flood-stdout", "line of more than 8 MiB"),
        ("wrong-id", "`request_id` is not the one of the request"),
        ("two-lines", "more after its answer"),
        ("not-utf8", "not UTF-8"),
    ] {
        fails(unhurried(&[behaviour]), FailureClass::BackendFailure, says, "").await;
    }
}

#[tokio::test]
async fn long_request_that_is_never_read_is_an_io_failure() {
    for mode in MODES {
        let sandbox = Sandbox::start(AgentSpec { mode, ..unhurried(&["close-stdin"]) }).await;
        let payload_json = json!({ "message": "x".repeat(1 << 20) }).to_string();
        let request = ExecuteTaskRequest { payload_json, ..sandbox.request() };
        let outcome = sandbox.run_request(request).await.unwrap();
        assert_eq!(outcome.failed[0].error_class, FailureClass::Io.as_str(), "{}", outcome.failed[0].message);
        assert_eq!(outcome.failed[0].stderr_tail, "not reading");
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn agent_that_exceeds_its_timeout_is_killed() {
    let short = |behaviour| AgentSpec { timeout: Duration::from_millis(300), ..agent(behaviour) };
    let says = "did not answer within 300 ms";
    for behaviour in [&["hang"][..], &["ignore-sigterm"]] {
        fails(short(behaviour), FailureClass::Timeout, says, "").await;
    }
    fails_in(short(&["slow-start", "600000"]), FailureClass::Timeout, says, "").await;
    let spec = AgentSpec { timeout: Duration::from_secs(2), ..agent(&["hang-after-answer"]) };
    fails_in(spec, FailureClass::Timeout, "answered, but did not exit within 2 s", "").await;
}

#[tokio::test]
async fn error_response_determines_class_and_code() {
    for (code, class, error_code) in [
        ("400", FailureClass::InvalidRequest, OrchestratorErrorCode::ValidationFailed),
        ("424", FailureClass::InvalidRequest, OrchestratorErrorCode::ExecutionFailed),
        ("429", FailureClass::InvalidRequest, OrchestratorErrorCode::Overloaded),
        ("501", FailureClass::ActionNotSupported, OrchestratorErrorCode::PlanningFailed),
        ("504", FailureClass::Timeout, OrchestratorErrorCode::Timeout),
        ("500", FailureClass::BackendFailure, OrchestratorErrorCode::ExecutionFailed),
    ] {
        for mode in MODES {
            let outcome = run(AgentSpec { mode, ..unhurried(&["refuse", code]) }).await;
            let error = outcome.error();
            assert_eq!((outcome.failed[0].error_class.as_str(), error.code), (class.as_str(), error_code));
            assert_eq!(error.message, "agent `test_agent` answered: that will not do");
            assert_eq!(error.details["response_code"], code);
        }
    }
}

#[tokio::test]
async fn response_429_is_final_and_keeps_its_retry_after() {
    for (millis, expected) in [("30000", Some(30_000)), ("null", None)] {
        let spec = AgentSpec { retry: quick_retries(), ..unhurried(&["refuse", "429", millis]) };
        let sandbox = Sandbox::start(spec).await;
        let outcome = sandbox.run().await;
        let error = outcome.error();
        assert_eq!((outcome.finished.attempts, error.code), (1, OrchestratorErrorCode::Overloaded));
        assert_eq!(error.retry_after, expected.map(Duration::from_millis), "{millis}");
        assert_eq!(sandbox.health.reports(), [(Outcome::Neutral, String::new())]);
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn agent_environment_contains_only_listed_variables() {
    let mut spec = unhurried(&["answer"]);
    spec.env.push("NOT_SET_ANYWHERE".into());
    let outcome = run(spec).await;
    let data = outcome.data();
    let names: Vec<_> = data["environment"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["PATH", "PHOENIX_EXECUTOR", "TEST_TAG"]);
}

#[tokio::test]
async fn model_settings_reach_only_agents_that_list_them() {
    for lists_them in [true, false] {
        let mut spec = unhurried(&["print-settings"]);
        if lists_them {
            spec.env.push("PHOENIX_LLM_SETTINGS".into());
        }
        let sandbox = Sandbox::start_with(spec, |config| {
            config.llm.openai.api_key = Some(KEY.to_owned().into());
            // A variable of this name in the executor's environment is not passed on.
            config.environment.insert("PHOENIX_LLM_SETTINGS".into(), "stale".into());
        })
        .await;
        let data = sandbox.run().await.data();
        let settings = data.as_str().unwrap();
        assert_eq!(settings.contains(KEY), lists_them, "a result is not altered: {settings}");
        assert!(!settings.contains("stale"), "{settings}");
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn keys_in_errors_and_stderr_are_redacted() {
    let mut spec = unhurried(&["refuse-with-settings"]);
    spec.env.push("PHOENIX_LLM_SETTINGS".into());
    let sandbox =
        Sandbox::start_with(spec, |config| config.llm.openai.api_key = Some(KEY.to_owned().into())).await;
    let error = sandbox.run().await.error();
    for said in [&error.message, &error.details["stderr"]] {
        assert!(said.contains("[redacted]") && !said.contains(KEY), "{said}");
    }
    sandbox.stop().await;
}

/// Output that strict parsers reject, and its result.
#[tokio::test]
async fn lenient_json_is_read_or_its_problem_explained() {
    for (written, read) in [
        (r#""half a pair \ud83d""#, json!("half a pair \u{fffd}")),
        (r#"{"n":1234567}"#, json!({ "n": 1_234_567 })),
        (r#""ollama""#, json!("ollama")),
    ] {
        let sandbox = Sandbox::start_with(unhurried(&["write-data", written]), |config| {
            config.llm.lmstudio.api_key = Some("ollama".to_owned().into());
            config.llm.openai.api_key = Some("123456".to_owned().into());
            config.llm.grok.api_key = Some("status".to_owned().into());
        })
        .await;
        assert_eq!(sandbox.run().await.data(), read, "{written}");
        sandbox.stop().await;
    }
    let deep = format!("{}{}", "[".repeat(123), "]".repeat(123));
    let says = "nested 123 levels deep; at most 64 are allowed";
    fails(unhurried(&["write-data", &deep]), FailureClass::BackendFailure, says, "").await;
    let nan = FailureClass::BackendFailure;
    fails(unhurried(&["write-data", "[1,NaN]"]), nan, "`NaN` is not JSON", "").await;
}
