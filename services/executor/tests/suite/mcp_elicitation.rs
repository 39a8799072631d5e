//! Questions that servers with a handshake ask in the middle of a call.

use std::path::Path;

use phoenix_domain::{
    AgentSpec, OrchestratorError, OrchestratorErrorCode as Code,
    json::Object,
    questions::{MEMBER, Questions},
};
use phoenix_proto::{executor::ExecuteTaskRequest, health_v1::Outcome};
use serde_json::{Value, json};

use crate::{
    mcp::{call, outcomes, request, server},
    sandbox::{Sandbox, TaskOutcome, until},
};

/// The call that follows a question, with its answer, as the planner sends it.
fn answered(
    sandbox: &Sandbox,
    input: &Value,
    error: &OrchestratorError,
    answer: Value,
) -> ExecuteTaskRequest {
    let mut questions = Questions::of_error(error).unwrap_or_else(|| panic!("a question: {error}"));
    questions.answers = Object::parse(&json!({"question": answer}).to_string()).ok();
    let mut input = input.clone();
    input[MEMBER] = questions.to_json().to_value();
    ExecuteTaskRequest {
        first_attempt: questions.attempts + 1,
        earlier_attempts: Some(questions.attempts),
        ..request(sandbox, "ask", &input)
    }
}

fn effects(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[tokio::test]
async fn question_ends_the_call_and_the_next_one_has_its_answer() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("effects");
    let sandbox = Sandbox::start(server(&[])).await;
    let input = json!({"repository": "r", "effects": file});
    let outcome = call(&sandbox, "ask", input.clone()).await;
    let error = outcome.error();
    assert_eq!((error.code, outcome.finished.attempts), (Code::PlanningFailed, 1));
    assert!(error.message.contains("asks for input: Which branch?"), "{error}");

    let run = async |error: &OrchestratorError, answer| {
        sandbox.run_request(answered(&sandbox, &input, error, answer)).await.unwrap()
    };
    let declined = run(&error, Value::Null).await.data().to_string();
    assert!(declined.contains("no branch") && declined.contains("decline"), "{declined}");
    let second = run(&error, json!({"name": "main"})).await.error();
    assert!(second.message.contains("asks for input: Push to main?"), "{second}");
    assert_eq!(effects(&file), "", "a dismissed question is no consent");
    assert_eq!(run(&second, json!({})).await.data(), "r: main accept");
    assert_eq!(effects(&file), "main\n");

    let received = call(&sandbox, "received", json!({})).await.data().to_string();
    assert_eq!(received.matches("notifications/cancelled").count(), 2, "{received}");
    assert!(!outcomes(&sandbox).contains(&Outcome::Failure));
    sandbox.stop().await;
}

#[tokio::test]
async fn question_of_one_of_several_calls_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let sandbox = Sandbox::start(server(&[])).await;
    let waiting = sandbox.start_running(request(&sandbox, "gate", &json!({"path": gate}))).await;
    let error = call(&sandbox, "ask", json!({})).await.error();
    assert_eq!(error.code, Code::ValidationFailed);
    assert!(error.message.contains("set max_concurrency = 1 for this server"), "{error}");
    std::fs::write(&gate, "").unwrap();
    assert_eq!(
        TaskOutcome::collect(waiting).await.unwrap().data(),
        "opened",
        "the other call is not disturbed"
    );
    sandbox.stop().await;

    // With that setting the calls wait for each other.
    let one = Sandbox::start(AgentSpec { max_concurrency: 1, ..server(&[]) }).await;
    let again = folder.path().join("again");
    let waiting = one.start_running(request(&one, "gate", &json!({"path": again}))).await;
    let context = phoenix_platform::RequestContext::new(phoenix_domain::CorrelationId::generate());
    let asks = one.start_task(&context, request(&one, "ask", &json!({})));
    std::fs::write(&again, "").unwrap();
    TaskOutcome::collect(waiting).await.unwrap();
    let error = TaskOutcome::collect(asks.await.unwrap()).await.unwrap().error();
    assert!(error.message.contains("Which branch?"), "{error}");
    until("nothing failed", || !outcomes(&one).contains(&Outcome::Failure)).await;
    one.stop().await;
}
