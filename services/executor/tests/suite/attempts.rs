//! One attempt, in every mode: whatever an agent does, it ends in time, in the right class, and leaves no process behind.

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

use crate::sandbox::{Sandbox, Told, agent, quick_retries};

const MODES: [AgentMode; 2] = [AgentMode::Oneshot, AgentMode::Workers];

/// The key of a model provider, long enough to be a secret.
const KEY: &str = "sk-very-secret-0123456789";

/// Runs one task and sees that nothing is left of it, but for a worker that can go on.
async fn run(spec: AgentSpec) -> Told {
    let mode = spec.mode;
    let sandbox = Sandbox::start(spec).await;
    let told = sandbox.run().await;
    let can_go_on = match told.finished.result.as_ref().unwrap() {
        task_finished::Result::Output(_) => true,
        task_finished::Result::Error(error) => error.details.contains_key("response_code"),
    };
    if mode == AgentMode::Oneshot || !can_go_on {
        sandbox.no_process_left().await;
    }
    sandbox.stop().await;
    told
}

/// Runs the failing task in every mode.
async fn fails(spec: AgentSpec, class: FailureClass, says: &str, stderr: &str) {
    for mode in MODES {
        fails_in(AgentSpec { mode, ..spec.clone() }, class, says, stderr).await;
    }
}

/// Runs a task that fails: in `class`, with a message that says `says`, with `stderr` in the details.
async fn fails_in(spec: AgentSpec, class: FailureClass, says: &str, stderr: &str) {
    let what = format!("{:?} {}", spec.mode, spec.command.join(" "));
    let told = run(spec).await;
    let [failed] = told.failed.as_slice() else { panic!("{what}: {told:?}") };
    assert_eq!(failed.error_class, class.as_str(), "{what}: {}", failed.message);
    assert_eq!((told.started.len(), told.finished.attempts, failed.retry_in_ms), (1, 1, None), "{what}");
    assert!(failed.message.contains(says), "{what}: {}", failed.message);
    assert!(failed.stderr_tail.contains(stderr) && failed.stderr_tail.len() <= 64 * 1024, "{what}");
    let error = told.error();
    assert!(error.message.contains(says), "{what}: {}", error.message);
    assert_eq!(error.details["error_class"], class.as_str(), "{what}");
    assert_eq!(error.details.get("stderr").map_or("", String::as_str), failed.stderr_tail, "{what}");
    assert!(!error.to_string().contains('/'), "{what}: no path of this machine in {error}");
}

/// An agent that is given more time than any test takes.
fn patient(behaviour: &[&str]) -> AgentSpec {
    AgentSpec { timeout: Duration::from_secs(600), ..agent(behaviour) }
}

#[tokio::test]
async fn an_agent_gets_the_request_and_its_answer_is_passed_on() {
    for mode in MODES {
        let told = run(AgentSpec { mode, ..patient(&["answer"]) }).await;
        let data = told.data();
        let request = &data["request"];
        assert_eq!(request["tool"], "test_agent");
        assert_eq!(request["action"], "chat");
        assert_eq!(request["context"], "a test");
        assert_eq!(request["payload"], json!({ "message": "hello" }));
        assert_eq!(request["_meta"]["attempt"], 1);
        assert_eq!(request["_meta"]["idempotency_key"], "the key");
        let deadline_ms = request["_meta"]["deadline_ms"].as_u64().unwrap();
        assert!((500_000..=600_000).contains(&deadline_ms), "{deadline_ms}");
        assert_eq!(told.started[0].worker, format!("pid {}", data["pid"]));
        assert!(told.failed.is_empty());
    }
}

#[tokio::test]
async fn what_is_nearly_right_is_accepted() {
    let oneshot = ["answer-without-newline", "keep-pipes-open", "flood-stderr"];
    let workers = ["keep-pipes-open", "flood-stderr"];
    for (mode, behaviours) in [(AgentMode::Oneshot, &oneshot[..]), (AgentMode::Workers, &workers)] {
        for behaviour in behaviours {
            let begun = Instant::now();
            let told = run(AgentSpec { mode, ..patient(&[behaviour]) }).await;
            assert_eq!(told.data()["request"]["action"], "chat", "{mode:?} {behaviour}");
            assert!(begun.elapsed() < Duration::from_secs(60), "{mode:?} {behaviour}");
        }
    }
}

#[tokio::test]
async fn programs_that_cannot_be_started_are_io_failures() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent");
    std::fs::write(&file, "no program").unwrap();
    let file = file.to_str().unwrap().to_owned();
    let with_command = |program: &str| AgentSpec { command: vec![program.into()], ..patient(&[]) };
    fails(with_command("no-such-program"), FailureClass::Io, "was not found", "").await;
    fails(with_command("/no/such/program"), FailureClass::Io, "was not found", "").await;
    fails(with_command(&file), FailureClass::Io, "may not be executed", "").await;
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
    fails(with_command(&file), FailureClass::Io, "could not be started", "").await;
}

#[tokio::test]
async fn whoever_does_not_exit_with_0_has_failed_whatever_it_wrote() {
    let backend = FailureClass::BackendFailure;
    fails_in(patient(&["exit", "3"]), backend, "exited with code 3", "boom").await;
    fails(patient(&["die-by-signal"]), backend, "ended by SIGABRT", "boom").await;
    fails(patient(&["flood-stderr-and-fail"]), backend, "exited with code 9", "the end").await;
    fails(patient(&["keep-pipes-open-and-fail"]), backend, "exited with code 4", "left a child").await;
}

#[tokio::test]
async fn output_that_is_not_one_answer_is_a_backend_failure() {
    for (behaviour, says) in [
        ("garbage", "not an action response"),
        ("half", "not an action response"),
        ("nothing", "exited without an answer"),
        ("flood-stdout", "line of more than 8 MiB"),
        ("wrong-id", "`request_id` is not the one"),
        ("two-lines", "more than one line"),
        ("not-utf8", "not UTF-8"),
    ] {
        fails(patient(&[behaviour]), FailureClass::BackendFailure, says, "").await;
    }
}

#[tokio::test]
async fn an_agent_that_never_reads_a_long_request_is_an_io_failure() {
    for mode in MODES {
        let sandbox = Sandbox::start(AgentSpec { mode, ..patient(&["close-stdin"]) }).await;
        let payload_json = json!({ "message": "x".repeat(1 << 20) }).to_string();
        let request = ExecuteTaskRequest { payload_json, ..sandbox.request() };
        let told = sandbox.run_request(request).await.unwrap();
        assert_eq!(told.failed[0].error_class, FailureClass::Io.as_str(), "{}", told.failed[0].message);
        assert_eq!(told.failed[0].stderr_tail, "not listening");
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn whoever_takes_too_long_is_killed() {
    let impatient = |behaviour| AgentSpec { timeout: Duration::from_millis(300), ..agent(behaviour) };
    let says = "did not answer within 300 ms";
    for behaviour in [&["hang"][..], &["ignore-sigterm"]] {
        fails(impatient(behaviour), FailureClass::Timeout, says, "").await;
    }
    fails_in(impatient(&["slow-start", "600000"]), FailureClass::Timeout, says, "").await;
    let spec = AgentSpec { timeout: Duration::from_secs(2), ..agent(&["hang-after-answer"]) };
    fails_in(spec, FailureClass::Timeout, "answered, but did not exit within 2 s", "").await;
}

#[tokio::test]
async fn an_agents_own_verdict_decides_class_and_code() {
    for (code, class, error_code) in [
        ("400", FailureClass::InvalidRequest, OrchestratorErrorCode::ValidationFailed),
        ("424", FailureClass::InvalidRequest, OrchestratorErrorCode::ExecutionFailed),
        ("429", FailureClass::InvalidRequest, OrchestratorErrorCode::Overloaded),
        ("501", FailureClass::ActionNotSupported, OrchestratorErrorCode::PlanningFailed),
        ("504", FailureClass::Timeout, OrchestratorErrorCode::Timeout),
        ("500", FailureClass::BackendFailure, OrchestratorErrorCode::ExecutionFailed),
    ] {
        for mode in MODES {
            let told = run(AgentSpec { mode, ..patient(&["refuse", code]) }).await;
            let error = told.error();
            assert_eq!((told.failed[0].error_class.as_str(), error.code), (class.as_str(), error_code));
            assert_eq!(error.message, "agent `test_agent` answered: that will not do");
            assert_eq!(error.details["response_code"], code);
        }
    }
}

#[tokio::test]
async fn agent_429_is_asked_once_and_keeps_its_retry_after() {
    for (millis, expected) in [("30000", Some(30_000)), ("null", None)] {
        let spec = AgentSpec { retry: quick_retries(), ..patient(&["refuse", "429", millis]) };
        let sandbox = Sandbox::start(spec).await;
        let told = sandbox.run().await;
        let error = told.error();
        assert_eq!((told.finished.attempts, error.code), (1, OrchestratorErrorCode::Overloaded));
        assert_eq!(error.retry_after, expected.map(Duration::from_millis), "{millis}");
        assert_eq!(sandbox.health.reports(), [(Outcome::Neutral, String::new())]);
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn the_environment_of_an_agent_is_what_it_lists_and_nothing_else() {
    let mut spec = patient(&["answer"]);
    spec.env.push("NOT_SET_ANYWHERE".into());
    let told = run(spec).await;
    let data = told.data();
    let names: Vec<_> = data["environment"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["PATH", "PHOENIX_EXECUTOR", "TEST_TAG"]);
}

#[tokio::test]
async fn model_settings_reach_only_agents_that_list_them() {
    for lists_them in [true, false] {
        let mut spec = patient(&["print-settings"]);
        if lists_them {
            spec.env.push("PHOENIX_LLM_SETTINGS".into());
        }
        let sandbox = Sandbox::start_with(spec, |config| {
            config.llm.openai.api_key = Some(KEY.to_owned().into());
            // A variable of this name in the executor's own environment is not what is meant.
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
    let mut spec = patient(&["refuse-with-settings"]);
    spec.env.push("PHOENIX_LLM_SETTINGS".into());
    let sandbox =
        Sandbox::start_with(spec, |config| config.llm.openai.api_key = Some(KEY.to_owned().into())).await;
    let error = sandbox.run().await.error();
    for said in [&error.message, &error.details["stderr"]] {
        assert!(said.contains("[redacted]") && !said.contains(KEY), "{said}");
    }
    sandbox.stop().await;
}

/// What an agent may write that strict readers reject, and what becomes of it.
#[tokio::test]
async fn liberal_json_of_an_agent_is_read_or_explained() {
    for (written, read) in [
        (r#""half a pair \ud83d""#, json!("half a pair \u{fffd}")),
        (r#"{"n":1234567}"#, json!({ "n": 1_234_567 })),
        (r#""ollama""#, json!("ollama")),
    ] {
        let sandbox = Sandbox::start_with(patient(&["write-data", written]), |config| {
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
    fails(patient(&["write-data", &deep]), FailureClass::BackendFailure, says, "").await;
    let nan = FailureClass::BackendFailure;
    fails(patient(&["write-data", "[1,NaN]"]), nan, "`NaN` is not JSON", "").await;
}
