//! MCP servers as agents, scripted in `tests/mcp/server.py`, and their faults.

use std::{path::Path, time::Duration};

use phoenix_domain::{
    AgentMode, AgentSpec, CorrelationId, OrchestratorErrorCode as Code,
    mcp::{McpSettings, ToolRule},
    retry::RetryPolicy,
};
use phoenix_platform::RequestContext;
use phoenix_proto::{
    executor::{Agent, Catalog, ExecuteTaskRequest, WatchCatalogRequest, execute_task_response::Event},
    health_v1::Outcome,
};
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::Streaming;

use crate::sandbox::{Sandbox, TIMEOUT, TaskOutcome, agent, quick_retries, until};

pub fn server(options: &[&str]) -> AgentSpec {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mcp/server.py");
    let command = ["python3", script].iter().chain(options).map(|part| (*part).to_owned()).collect();
    AgentSpec {
        command,
        mode: AgentMode::Mcp,
        mcp: Some(McpSettings::default()),
        retry: quick_retries(),
        timeout: TIMEOUT,
        ..agent(&[])
    }
}

pub fn request(sandbox: &Sandbox, action: &str, input: &Value) -> ExecuteTaskRequest {
    ExecuteTaskRequest { action: action.into(), payload_json: input.to_string(), ..sandbox.request() }
}

pub async fn call(sandbox: &Sandbox, action: &str, input: Value) -> TaskOutcome {
    sandbox.run_request(request(sandbox, action, &input)).await.unwrap()
}

pub async fn watch(sandbox: &Sandbox) -> Streaming<Catalog> {
    let request = WatchCatalogRequest { with_load: false };
    sandbox.client.clone().watch_catalog(request).await.unwrap().into_inner()
}

/// The first published agent with `condition`.
pub async fn published(catalogs: &mut Streaming<Catalog>, condition: impl Fn(&Agent) -> bool) -> Agent {
    loop {
        let catalog = timeout(TIMEOUT, catalogs.message()).await.expect("a message").unwrap().unwrap();
        let agents = catalog.agents.map(|list| list.agents).unwrap_or_default();
        if let Some(agent) = agents.into_iter().find(|agent| condition(agent)) {
            return agent;
        }
    }
}

pub fn outcomes(sandbox: &Sandbox) -> Vec<Outcome> {
    sandbox.health.reports().into_iter().map(|(outcome, _)| outcome).collect()
}

pub fn starts(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap_or_default().lines().count()
}

#[tokio::test]
async fn tools_are_published_and_called() {
    let variables = [("OWN_KEY".to_owned(), "of the configuration".to_owned().into())];
    let mcp = Some(McpSettings { variables: variables.into(), ..McpSettings::default() });
    let sandbox = Sandbox::start(AgentSpec { mcp, ..server(&[]) }).await;
    let agent = published(&mut watch(&sandbox).await, |agent| !agent.actions.is_empty()).await;
    let echo = &agent.actions["echo"];
    assert_eq!(echo.description, "Answers with its text");
    assert!(echo.input_schema_json.contains("\"required\":[\"text\"]"));
    assert!(agent.actions["broken_schema"].input_schema_json.is_empty(), "an invalid schema is left out");
    assert_eq!(AgentSpec::try_from(agent).unwrap().mode, AgentMode::Mcp);

    let outcome = call(&sandbox, "echo", json!({"text": "grüß dich"})).await;
    assert_eq!((outcome.data(), outcome.started.len()), (json!("grüß dich"), 1));
    assert!(outcome.started[0].worker.starts_with("pid "));
    assert_eq!(call(&sandbox, "structured", json!({})).await.data(), json!({"items": [1, 2.5, "ü"]}));
    assert_eq!(call(&sandbox, "broken_schema", json!({"a": 1})).await.data(), "{\"a\": 1}");
    let meta: Value =
        serde_json::from_str(call(&sandbox, "meta", json!({})).await.data().as_str().unwrap()).unwrap();
    assert!(meta["traceparent"].as_str().unwrap().starts_with("00-") && meta["progressToken"].is_u64());
    assert_eq!(meta["phoenix/idempotency_key"], "the key");
    let env = call(&sandbox, "env", json!({})).await.data().to_string();
    assert!(env.contains("of the configuration") && !env.contains("SECRET_OF_THE_EXECUTOR"), "{env}");
    assert!(outcomes(&sandbox).iter().all(|outcome| *outcome == Outcome::Success));
    sandbox.stop().await;
}

#[tokio::test]
async fn calls_to_one_process_are_not_serialised() {
    let folder = tempfile::tempdir().unwrap();
    let (gate, starts_file) = (folder.path().join("gate"), folder.path().join("starts"));
    let sandbox = Sandbox::start(server(&["--starts", starts_file.to_str().unwrap()])).await;
    let waiting = request(&sandbox, "gate", &json!({"path": gate}));
    let mut running = Vec::new();
    for _ in 0..8 {
        let task_id = sandbox.request().task_id;
        running.push(sandbox.start_running(ExecuteTaskRequest { task_id, ..waiting.clone() }).await);
    }
    assert_eq!(call(&sandbox, "echo", json!({"text": "overtakes"})).await.data(), "overtakes");
    std::fs::write(&gate, "").unwrap();
    for events in running {
        assert_eq!(TaskOutcome::collect(events).await.unwrap().data(), "opened");
    }
    assert_eq!(starts(&starts_file), 1);
    sandbox.stop().await;
}

#[tokio::test]
async fn refused_calls_do_not_count_against_the_agent() {
    let sandbox = Sandbox::start(server(&[])).await;
    for (action, input, code, says) in [
        ("refuse", json!({}), Code::ValidationFailed, "answered: there is no such file"),
        ("refuse_call", json!({}), Code::ValidationFailed, "answered: this does not work"),
        (
            "echo",
            json!({"text": 7}),
            Code::ValidationFailed,
            "rejects the input of `echo`: `text` must be a string",
        ),
        ("knit", json!({}), Code::PlanningFailed, "has no tool `knit`; there are again,"),
        ("chat", json!({"message": "hello"}), Code::PlanningFailed, "send a plan with a tool as the action"),
    ] {
        let outcome = call(&sandbox, action, input).await;
        let error = outcome.error();
        assert_eq!((error.code, outcome.finished.attempts), (code, 1), "{action}");
        assert!(error.message.contains(says), "{action}: {error}");
    }
    assert!(outcomes(&sandbox).iter().all(|outcome| *outcome == Outcome::Neutral));
    sandbox.stop().await;
}

#[tokio::test]
async fn chat_goes_to_the_only_tool() {
    let sandbox = Sandbox::start(server(&["--only", "echo"])).await;
    assert_eq!(call(&sandbox, "chat", json!({"message": "hello", "messages": []})).await.data(), "hello");
    sandbox.stop().await;
    let mcp = Some(McpSettings { tools: vec!["ec*".into()], ..McpSettings::default() });
    let sandbox = Sandbox::start(AgentSpec { mcp, ..server(&[]) }).await;
    assert_eq!(call(&sandbox, "chat", json!({"message": "filtered"})).await.data(), "filtered");
    assert_eq!(call(&sandbox, "refuse", json!({})).await.error().code, Code::PlanningFailed);
    sandbox.stop().await;
}

#[tokio::test]
async fn progress_of_a_call_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let sandbox = Sandbox::start(server(&[])).await;
    let mut events = sandbox.start_running(request(&sandbox, "progress", &json!({"path": gate}))).await;
    loop {
        let event = timeout(TIMEOUT, events.message()).await.unwrap().unwrap().unwrap().event.unwrap();
        let Event::Progress(report) = event else { panic!("{event:?}") };
        if report.message == "step 2" {
            assert_eq!((report.progress, report.total), (Some(2.0), Some(2.0)));
            break;
        }
    }
    std::fs::write(&gate, "").unwrap();
    assert_eq!(TaskOutcome::collect(events).await.unwrap().data(), "done");
    sandbox.stop().await;
}

#[tokio::test]
async fn cancelled_call_is_cancelled_at_the_server_too() {
    let sandbox = Sandbox::start(server(&[])).await;
    let late = request(&sandbox, "late", &json!({}));
    let events = sandbox.start_running(late.clone()).await;
    sandbox.cancel(&late.task_id).await.unwrap();
    assert_eq!(TaskOutcome::collect(events).await.unwrap().error().code, Code::Cancelled);
    let context = RequestContext::new(CorrelationId::generate())
        .with_deadline(std::time::Instant::now() + Duration::from_millis(1500));
    let outcome = sandbox.run_in(&context, request(&sandbox, "late", &json!({}))).await.unwrap();
    assert_eq!(outcome.error().code, Code::Timeout);
    let received = call(&sandbox, "received", json!({})).await.data().to_string();
    assert_eq!(received.matches("notifications/cancelled").count(), 2, "{received}");
    assert_eq!(call(&sandbox, "echo", json!({"text": "next"})).await.data(), "next");
    assert!(!outcomes(&sandbox).contains(&Outcome::Failure), "the deadline was the caller's");
    sandbox.stop().await;
}

#[tokio::test]
async fn only_repeatable_tools_are_called_again() {
    let folder = tempfile::tempdir().unwrap();
    let starts_file = folder.path().join("starts");
    let sandbox = Sandbox::start(server(&["--starts", starts_file.to_str().unwrap()])).await;
    let outcome = call(&sandbox, "die", json!({})).await;
    let error = outcome.error();
    assert_eq!((error.code, outcome.finished.attempts), (Code::ExecutionFailed, 1));
    assert!(
        error.message.contains("exited with code 3; the call of `die` may have had an effect"),
        "{error}"
    );
    assert_eq!(error.details["stderr"], "about to die");
    assert_eq!(outcomes(&sandbox), [Outcome::Failure]);
    let outcome = call(&sandbox, "read_die", json!({})).await;
    assert_eq!((outcome.finished.attempts, outcome.failed.len()), (3, 3), "{:?}", outcome.error());
    assert_eq!(call(&sandbox, "fail_call", json!({})).await.finished.attempts, 1);
    assert_eq!(call(&sandbox, "echo", json!({"text": "again"})).await.data(), "again");
    assert_eq!(starts(&starts_file), 5);
    sandbox.stop().await;
}

fn with_rules(spec: AgentSpec, rules: Vec<ToolRule>) -> AgentSpec {
    AgentSpec { mcp: Some(McpSettings { rules, ..McpSettings::default() }), ..spec }
}

fn rule(tool: &str) -> ToolRule {
    ToolRule { tools: vec![tool.into()], ..ToolRule::default() }
}

#[tokio::test]
async fn tool_that_stalls_ends_at_its_own_time_and_disturbs_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let starts_file = folder.path().join("starts");
    let retry = Some(RetryPolicy { max_attempts: 2, ..quick_retries() });
    let quick = ToolRule { timeout: Some(Duration::from_millis(300)), retry, ..rule("ga*") };
    let spec = with_rules(server(&["--starts", starts_file.to_str().unwrap()]), vec![quick]);
    let sandbox = Sandbox::start(spec).await;
    let agent = published(&mut watch(&sandbox).await, |agent| !agent.actions.is_empty()).await;
    let gate = &agent.actions["gate"];
    assert_eq!((gate.timeout_ms, gate.retry.as_ref().unwrap().max_attempts), (Some(300), 2));
    assert_eq!((agent.actions["echo"].timeout_ms, agent.actions["echo"].retry), (None, None));

    let stalled = sandbox.start_running(request(&sandbox, "gate", &json!({"path": "/none"}))).await;
    assert_eq!(call(&sandbox, "echo", json!({"text": "beside it"})).await.data(), "beside it");
    let outcome = TaskOutcome::collect(stalled).await.unwrap();
    assert_eq!((outcome.error().code, outcome.finished.attempts), (Code::Timeout, 2));
    assert!(outcome.error().message.contains("300 ms"), "{}", outcome.error());
    let failures = outcomes(&sandbox).into_iter().filter(|outcome| *outcome == Outcome::Failure);
    assert_eq!(failures.count(), 2, "the time of the tool is the agent's own");
    assert_eq!(call(&sandbox, "echo", json!({"text": "after it"})).await.data(), "after it");
    assert_eq!(starts(&starts_file), 1, "it answers pings");
    sandbox.stop().await;
}

#[tokio::test]
async fn slow_tool_has_more_time_than_its_agent() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let patient = ToolRule { timeout: Some(TIMEOUT), ..rule("gate") };
    let spec = AgentSpec { timeout: Duration::from_secs(1), ..with_rules(server(&[]), vec![patient]) };
    let sandbox = Sandbox::start(spec).await;
    published(&mut watch(&sandbox).await, |agent| !agent.actions.is_empty()).await;
    let patient = sandbox.start_running(request(&sandbox, "gate", &json!({"path": gate}))).await;
    let hurried = call(&sandbox, "late", json!({})).await;
    assert_eq!((hurried.error().code, hurried.finished.attempts), (Code::Timeout, 3));
    std::fs::write(&gate, "").unwrap();
    let outcome = TaskOutcome::collect(patient).await.unwrap();
    assert_eq!((outcome.data(), outcome.finished.attempts), (json!("opened"), 1));
    sandbox.stop().await;
}

#[tokio::test]
async fn rule_says_whether_a_tool_may_be_called_again() {
    let rules = vec![
        ToolRule { idempotent: Some(true), ..rule("die") },
        ToolRule { idempotent: Some(false), ..rule("read_*") },
    ];
    let sandbox = Sandbox::start(with_rules(server(&[]), rules)).await;
    assert_eq!(call(&sandbox, "die", json!({})).await.finished.attempts, 3);
    assert_eq!(call(&sandbox, "read_die", json!({})).await.finished.attempts, 1);
    sandbox.stop().await;
}

#[tokio::test]
async fn lost_task_is_repeated_only_if_its_tool_is_repeatable() {
    let sandbox = Sandbox::start(server(&[])).await;
    let again = |action: &str, input: Value| ExecuteTaskRequest {
        first_attempt: 4,
        earlier_attempts: Some(1),
        ..request(&sandbox, action, &input)
    };
    let outcome = sandbox.run_request(again("broken_schema", json!({}))).await.unwrap();
    let error = outcome.error();
    assert_eq!((error.code, outcome.started.len(), outcome.failed.len()), (Code::ExecutionFailed, 1, 1));
    assert!(error.message.contains("the call of `broken_schema` may have had an effect"), "{error}");
    assert_eq!(sandbox.run_request(again("echo", json!({"text": "again"}))).await.unwrap().data(), "again");
    assert_eq!(outcomes(&sandbox), [Outcome::Neutral, Outcome::Success]);
    sandbox.stop().await;
}

#[tokio::test]
async fn death_of_the_server_fails_each_call_under_way() {
    let sandbox = Sandbox::start(server(&[])).await;
    let once =
        ExecuteTaskRequest { reserved_attempts: 1, ..request(&sandbox, "gate", &json!({"path": "/none"})) };
    let waiting = sandbox.start_running(once).await;
    call(&sandbox, "die", json!({})).await;
    let error = TaskOutcome::collect(waiting).await.unwrap().error();
    assert!(error.message.contains("exited with code 3"), "{error}");
    sandbox.stop().await;
}

#[tokio::test]
async fn server_that_answers_nothing_is_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let starts_file = folder.path().join("starts");
    let spec = server(&["--starts", starts_file.to_str().unwrap()]);
    let sandbox = Sandbox::start(AgentSpec { timeout: Duration::from_millis(800), ..spec }).await;
    until("the server has started", || starts(&starts_file) == 1).await;
    published(&mut watch(&sandbox).await, |agent| !agent.actions.is_empty()).await;
    let outcome = call(&sandbox, "hang", json!({})).await;
    assert_eq!((outcome.error().code, outcome.finished.attempts), (Code::Timeout, 1));
    assert_eq!(outcomes(&sandbox), [Outcome::Failure], "the agent's own time is over");
    until("the server was restarted", || starts(&starts_file) == 2).await;
    sandbox.stop().await;
}

#[tokio::test]
async fn output_beyond_the_limits_fails_its_own_call() {
    let sandbox = Sandbox::start(AgentSpec { timeout: TIMEOUT * 20, ..server(&[]) }).await;
    assert_eq!(call(&sandbox, "noise", json!({})).await.data(), "after the noise");
    assert_eq!(call(&sandbox, "twice", json!({})).await.data(), "first");
    let once = ExecuteTaskRequest { reserved_attempts: 1, ..request(&sandbox, "big", &json!({})) };
    let error = sandbox.run_request(once).await.unwrap().error();
    assert!(error.message.contains("wrote a line of more than 8 MiB"), "{error}");
    assert_eq!(call(&sandbox, "twice", json!({})).await.data(), "first", "the process lives");
    let error = call(&sandbox, "flood", json!({})).await.error();
    assert!(error.message.contains("wrote 64 MiB to its output that are no messages"), "{error}");
    assert_eq!(call(&sandbox, "echo", json!({"text": "new"})).await.data(), "new");
    let (failure, success) = (Outcome::Failure, Outcome::Success);
    assert_eq!(outcomes(&sandbox), [success, success, failure, success, failure, success]);
    sandbox.stop().await;
}

#[tokio::test]
async fn renamed_tool_is_an_action_of_its_new_name() {
    let renames = [("echo".to_owned(), "say".to_owned()), ("die".to_owned(), "echo".to_owned())];
    let rules = vec![ToolRule { timeout: Some(Duration::from_secs(7)), ..rule("echo") }];
    let mcp = Some(McpSettings { renames: renames.into(), rules, ..McpSettings::default() });
    let sandbox = Sandbox::start(AgentSpec { mcp, ..server(&[]) }).await;
    let agent = published(&mut watch(&sandbox).await, |agent| !agent.actions.is_empty()).await;
    assert_eq!((agent.actions["say"].timeout_ms, agent.actions.contains_key("die")), (Some(7000), false));
    assert_eq!(call(&sandbox, "say", json!({"text": "hello"})).await.data(), "hello");
    let error = call(&sandbox, "echo", json!({})).await.error();
    assert!(error.message.contains("the call of `echo` may have had an effect"), "{error}");
    assert_eq!(call(&sandbox, "die", json!({})).await.error().code, Code::PlanningFailed);
    sandbox.stop().await;
}

#[tokio::test]
async fn changed_schema_of_a_tool_is_published_and_checked() {
    let sandbox = Sandbox::start(server(&[])).await;
    let mut catalogs = watch(&sandbox).await;
    published(&mut catalogs, |agent| agent.actions.contains_key("echo")).await;
    assert_eq!(call(&sandbox, "change_echo", json!({})).await.data(), "changed");
    published(&mut catalogs, |agent| agent.actions["echo"].input_schema_json.contains("words")).await;
    let error = call(&sandbox, "echo", json!({"text": "a"})).await.error();
    assert_eq!(error.code, Code::ValidationFailed, "{error}");
    assert!(!outcomes(&sandbox).contains(&Outcome::Failure));
    sandbox.stop().await;
}

#[tokio::test]
async fn dropped_tool_leaves_the_catalog_and_is_refused() {
    let sandbox = Sandbox::start(server(&[])).await;
    let mut catalogs = watch(&sandbox).await;
    published(&mut catalogs, |agent| agent.actions.contains_key("echo")).await;
    assert_eq!(call(&sandbox, "drop_echo", json!({})).await.data(), "dropped");
    let agent = published(&mut catalogs, |agent| !agent.actions.contains_key("echo")).await;
    assert!(agent.actions.contains_key("drop_echo"));
    let error = call(&sandbox, "echo", json!({"text": "a"})).await.error();
    assert_eq!(error.code, Code::PlanningFailed, "{error}");
    assert!(!outcomes(&sandbox).contains(&Outcome::Failure));
    sandbox.stop().await;
}

#[tokio::test]
async fn task_waits_for_a_server_that_starts_slowly() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let sandbox = Sandbox::start(server(&["--wait-for", gate.to_str().unwrap()])).await;
    let agent = published(&mut watch(&sandbox).await, |_| true).await;
    assert!(agent.actions.is_empty(), "it is in the catalog without its tools");
    let context = RequestContext::new(CorrelationId::generate());
    let hurried = context.clone().with_deadline(std::time::Instant::now() + Duration::from_millis(1500));
    let echo = request(&sandbox, "echo", &json!({"text": "patient"}));
    let error = sandbox.run_in(&hurried, echo.clone()).await.unwrap().error();
    assert!(error.message.contains("it is still starting"), "{error}");
    let patient =
        sandbox.start_task(&context, ExecuteTaskRequest { task_id: sandbox.request().task_id, ..echo });
    let events = patient.await.unwrap();
    std::fs::write(&gate, "").unwrap();
    let outcome = TaskOutcome::collect(events).await.unwrap();
    assert_eq!((outcome.data(), outcome.finished.attempts), (json!("patient"), 1));
    assert!(!outcomes(&sandbox).contains(&Outcome::Failure));
    sandbox.stop().await;
}

#[tokio::test]
async fn server_that_cannot_start_fails_its_tasks_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let starts_file = folder.path().join("starts");
    let sandbox = Sandbox::start(server(&["--exit", "7", "--starts", starts_file.to_str().unwrap()])).await;
    let error = call(&sandbox, "echo", json!({"text": "a"})).await.error();
    assert_eq!((error.code, error.details["stderr"].as_str()), (Code::ExecutionFailed, "no licence"));
    assert!(error.message.contains("exited with code 7"), "{error}");
    assert!(outcomes(&sandbox).contains(&Outcome::Failure));
    until("it is started again", || starts(&starts_file) >= 3).await;
    sandbox.stop().await;

    let missing = AgentSpec { command: vec!["no-such-program-anywhere".into()], ..server(&[]) };
    let sandbox = Sandbox::start(missing).await;
    let error = call(&sandbox, "echo", json!({"text": "a"})).await.error();
    assert!(error.message.contains("its program, or the interpreter of it, was not found"), "{error}");
    sandbox.stop().await;

    let gate = folder.path().join("gate");
    let spec = server(&["--wait-for", gate.to_str().unwrap()]);
    let sandbox = Sandbox::start(AgentSpec { start_timeout: Duration::from_millis(300), ..spec }).await;
    let error = call(&sandbox, "echo", json!({"text": "a"})).await.error();
    assert!(error.message.contains("did not start within 300 ms"), "{error}");
    sandbox.stop().await;
}

#[tokio::test]
async fn server_that_does_not_read_is_bounded_by_the_start_timeout() {
    let spec = AgentSpec { start_timeout: Duration::from_millis(500), ..server(&["--deaf"]) };
    let sandbox = Sandbox::start(AgentSpec { retry: agent(&[]).retry, ..spec }).await;
    let error = call(&sandbox, "echo", json!({"text": "a"})).await.error();
    assert!(error.message.contains("did not start within 500 ms"), "{error}");
    sandbox.stop().await;
}
