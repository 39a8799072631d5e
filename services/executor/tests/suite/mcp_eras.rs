//! Servers of both eras of the protocol, as processes: what they answer to the probe, and how they are called then.

use std::{path::Path, time::Duration};

use phoenix_domain::{
    AgentSpec, OrchestratorErrorCode as Code,
    json::Object,
    mcp::McpSettings,
    questions::{DETAIL, MEMBER, Questions},
};
use phoenix_proto::{executor::ExecuteTaskRequest, health_v1::Outcome};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    mcp::{call, outcomes, published, request, server, starts, watch},
    sandbox::{Sandbox, TaskOutcome, until},
};

/// A server of one era, and what it has received.
struct Scripted {
    folder: TempDir,
    spec: AgentSpec,
}

impl Scripted {
    fn new(era: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let (log, starts) = (path("log"), path("starts"));
        let options = [&["--era", era, "--log", &log, "--starts", &starts], more].concat();
        let spec = server(&options);
        Self { spec, folder }
    }

    fn speaking(mut self, protocol: &str) -> Self {
        self.spec.mcp = Some(McpSettings { protocol: Some(protocol.into()), ..McpSettings::default() });
        self
    }

    fn received(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    fn count(&self, method: &str) -> usize {
        self.received().iter().filter(|received| *received == method).count()
    }

    fn starts(&self) -> usize {
        starts(Path::new(&self.folder.path().join("starts")))
    }
}

async fn meta_of(sandbox: &Sandbox) -> Value {
    serde_json::from_str(call(sandbox, "meta", json!({})).await.data().as_str().unwrap()).unwrap()
}

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";

#[tokio::test]
async fn modern_server_gets_everything_in_each_request() {
    let scripted = Scripted::new("modern", &[]);
    let sandbox = Sandbox::start(scripted.spec.clone()).await;
    let mut catalogs = watch(&sandbox).await;
    let agent = published(&mut catalogs, |agent| !agent.actions.is_empty()).await;
    assert!(agent.actions.contains_key("echo"));
    let meta = meta_of(&sandbox).await;
    assert_eq!((&meta[VERSION], &meta["phoenix/idempotency_key"]), (&json!("2026-07-28"), &json!("the key")));
    assert_eq!(meta["io.modelcontextprotocol/clientInfo"]["name"], "phoenix");
    assert!(meta["io.modelcontextprotocol/clientCapabilities"].is_object());
    let expected = ["server/discover", "tools/list", "tools/list", "subscriptions/listen", "tools/call"];
    assert_eq!(scripted.received(), expected);

    assert_eq!(call(&sandbox, "drop_echo", json!({})).await.data(), "dropped");
    published(&mut catalogs, |agent| !agent.actions.contains_key("echo")).await;

    let late = request(&sandbox, "late", &json!({}));
    let events = sandbox.start_running(late.clone()).await;
    sandbox.cancel(&late.task_id).await.unwrap();
    assert_eq!(TaskOutcome::collect(events).await.unwrap().error().code, Code::Cancelled);
    until("the server gets the cancel notification", || scripted.count("notifications/cancelled") == 1).await;

    call(&sandbox, "die", json!({})).await;
    assert_eq!(meta_of(&sandbox).await[VERSION], "2026-07-28", "the next process, too");
    assert_eq!((scripted.starts(), scripted.count("initialize")), (2, 0));
    sandbox.stop().await;
}

#[tokio::test]
async fn question_ends_the_attempt_and_its_answer_is_no_repetition() {
    let scripted = Scripted::new("modern", &[]);
    let sandbox = Sandbox::start(scripted.spec.clone()).await;
    let outcome = call(&sandbox, "ask", json!({"repository": "r"})).await;
    let error = outcome.error();
    assert_eq!((error.code, outcome.finished.attempts), (Code::PlanningFailed, 1));
    assert!(error.message.contains("asks for input: Which branch?"), "{error}");
    let mut questions = Questions::of_error(&error).unwrap();
    assert_eq!((questions.attempts, questions.state.as_deref()), (1, Some("first")));

    // As the planner sends it when the question is answered, and again when that dispatch was lost after its attempt had started.
    questions.answers = Some(Object::parse(r#"{"branch": null}"#).unwrap());
    let input = json!({"repository": "r", MEMBER: questions.to_json().to_value()});
    let answered = |attempts: u32| ExecuteTaskRequest {
        first_attempt: attempts + 1,
        earlier_attempts: Some(attempts),
        ..request(&sandbox, "ask", &input)
    };
    assert_eq!(sandbox.run_request(answered(1)).await.unwrap().data(), "r: decline");
    let error = sandbox.run_request(answered(2)).await.unwrap().error();
    assert!(error.message.contains("may have had an effect"), "{error}");
    assert!(!outcomes(&sandbox).contains(&Outcome::Failure));
    sandbox.stop().await;
}

#[tokio::test]
async fn what_is_no_question_for_a_person_is_refused_or_repeated() {
    let scripted = Scripted::new("modern", &[]);
    let sandbox = Sandbox::start(scripted.spec.clone()).await;
    let error = call(&sandbox, "sample", json!({})).await.error();
    assert_eq!((error.code, error.details.contains_key(DETAIL)), (Code::PlanningFailed, false));
    assert!(error.message.contains("`sampling/createMessage`, which is not supported"), "{error}");
    let outcome = call(&sandbox, "again", json!({"times": 3})).await;
    assert_eq!((outcome.data(), outcome.finished.attempts), (json!("xxx"), 1));
    let error = call(&sandbox, "again", json!({"times": 100})).await.error();
    assert!(error.message.contains("answered 9 times that the call is to be made again"), "{error}");
    sandbox.stop().await;
}

#[tokio::test]
async fn modern_server_that_answers_nothing_is_restarted() {
    let scripted = Scripted::new("modern", &[]);
    let spec = AgentSpec { timeout: Duration::from_millis(800), ..scripted.spec.clone() };
    let sandbox = Sandbox::start(spec).await;
    published(&mut watch(&sandbox).await, |agent| !agent.actions.is_empty()).await;
    assert_eq!(call(&sandbox, "late", json!({})).await.error().code, Code::Timeout);
    until("it is asked again", || scripted.count("server/discover") >= 2).await;
    assert_eq!((scripted.starts(), scripted.count("ping")), (1, 0), "a request takes the place of the ping");
    sandbox.stop().await;
}

#[tokio::test]
async fn list_of_tools_is_read_again_when_it_is_no_longer_valid() {
    let scripted = Scripted::new("modern", &["--ttl", "1000"]);
    let sandbox = Sandbox::start(scripted.spec.clone()).await;
    let mut catalogs = watch(&sandbox).await;
    published(&mut catalogs, |agent| agent.actions.contains_key("echo")).await;
    call(&sandbox, "drop_echo", json!({})).await;
    published(&mut catalogs, |agent| !agent.actions.contains_key("echo")).await;
    assert_eq!(scripted.count("subscriptions/listen"), 0, "it does not say when they change");
    sandbox.stop().await;
}

#[tokio::test]
async fn older_server_gets_a_handshake_whatever_the_probe_shows() {
    for (era, starts, probes) in [("old", 1, 1), ("silent", 1, 1), ("exits", 2, 1)] {
        let scripted = Scripted::new(era, &[]);
        let sandbox = Sandbox::start(scripted.spec.clone()).await;
        let outcome = call(&sandbox, "echo", json!({"text": "hello"})).await;
        assert_eq!((outcome.data(), outcome.finished.attempts), (json!("hello"), 1), "{era}");
        assert_eq!((scripted.starts(), scripted.count("server/discover")), (starts, probes), "{era}");
        assert_eq!(
            (scripted.count("initialize"), scripted.count("notifications/cancelled")),
            (1, 0),
            "{era}"
        );
        let meta = meta_of(&sandbox).await;
        assert!(meta[VERSION].is_null(), "{era}: {meta}");
        call(&sandbox, "die", json!({})).await;
        assert_eq!(call(&sandbox, "echo", json!({"text": "again"})).await.data(), "again", "{era}");
        assert_eq!(scripted.count("server/discover"), probes, "{era}: it is remembered");
        let failures = outcomes(&sandbox).into_iter().filter(|outcome| *outcome == Outcome::Failure);
        assert_eq!(failures.count(), 1, "{era}: only the death counts");
        sandbox.stop().await;
    }
}

#[tokio::test]
async fn server_that_starts_slowly_is_found_out_all_the_same() {
    // The probe is given up after 3 s.
    let found_out = async |era: &str, version: Value, starts: usize| {
        let scripted = Scripted::new(era, &["--slow", "4"]);
        let sandbox = Sandbox::start(scripted.spec.clone()).await;
        assert_eq!(meta_of(&sandbox).await[VERSION], version, "{era}");
        assert_eq!((scripted.starts(), scripted.count("initialize")), (starts, 1), "{era}");
        assert!(!outcomes(&sandbox).contains(&Outcome::Failure), "{era}");
        sandbox.stop().await;
    };
    tokio::join!(
        found_out("modern", json!("2026-07-28"), 1),
        found_out("both", Value::Null, 1),
        found_out("old", Value::Null, 1),
        found_out("exits", Value::Null, 2),
    );
}

#[tokio::test]
async fn version_of_the_configuration_is_spoken_and_no_other() {
    let scripted = Scripted::new("both", &[]).speaking("2025-03-26");
    let sandbox = Sandbox::start(scripted.spec.clone()).await;
    assert_eq!(call(&sandbox, "echo", json!({"text": "hello"})).await.data(), "hello");
    assert_eq!((scripted.count("server/discover"), scripted.count("initialize")), (0, 1));
    sandbox.stop().await;

    let scripted = Scripted::new("old", &[]).speaking("2026-07-28");
    let sandbox = Sandbox::start(scripted.spec.clone()).await;
    let error = call(&sandbox, "echo", json!({"text": "hello"})).await.error();
    assert!(
        error.message.contains("does not speak version 2026-07-28, which `mcp.protocol` asks for"),
        "{error}"
    );
    assert_eq!(scripted.count("initialize"), 0);
    sandbox.stop().await;
}

#[tokio::test]
async fn server_of_another_era_is_named_with_its_versions() {
    let scripted = Scripted::new("future", &[]);
    let sandbox = Sandbox::start(scripted.spec.clone()).await;
    let error = call(&sandbox, "echo", json!({"text": "hello"})).await.error();
    assert_eq!(error.code, Code::ExecutionFailed);
    assert!(error.message.contains("speaks only the versions 2031-01-01 of the protocol"), "{error}");
    sandbox.stop().await;
}
