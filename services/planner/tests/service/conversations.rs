//! Chats with messages, a model and options.

use phoenix_domain::{
    ActionSpec, AgentSpec, OrchestratorError, OrchestratorErrorCode as Code, action::ActionResult,
    json::Object, schema::InputSchema,
};
use phoenix_proto::planner::{PlanAndExecuteRequest, PlanAndExecuteResponse};
use serde_json::{Value, json};

use crate::support::{
    ALL_PEERS, FakeExecutor, FakeHealth, Script, TestPlanner, answers, graph, started, succeeded, task,
};

fn messages() -> Value {
    json!([
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "show me the git status"},
        {"role": "assistant", "content": "clean"},
        {"role": "user", "content": [{"type": "text", "text": "and my notes?"}]},
    ])
}

fn conversation(chat: &Value) -> PlanAndExecuteRequest {
    PlanAndExecuteRequest { chat_json: chat.to_string(), ..Default::default() }
}

async fn send(
    planner: &TestPlanner,
    request: PlanAndExecuteRequest,
) -> Result<PlanAndExecuteResponse, OrchestratorError> {
    let answer = planner.client.clone().plan_and_execute(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| phoenix_proto::error_from_status(&status))
}

#[tokio::test]
async fn conversation_is_routed_by_its_last_message() {
    let planner = TestPlanner::new().await;
    let chat = json!({"messages": messages(), "model": "ollama/a:b", "options": {"temperature": 0.10}});
    let answer = send(&planner, conversation(&chat)).await.unwrap();
    assert_eq!(answer.agent, "notes", "the last message is routed, not the first");
    let call = planner.executor.log.lock().unwrap().calls.remove(0);
    let payload: Value = serde_json::from_str(&call.payload_json).unwrap();
    assert_eq!(
        payload,
        json!({
            "message": "and my notes?", "messages": messages(), "model": "ollama/a:b", "options": {"temperature": 0.1},
        })
    );
    assert_eq!(call.context, "system: be brief\n\nuser: show me the git status\n\nassistant: clean");
}

#[tokio::test]
async fn agent_with_a_closed_schema_gets_only_the_message() {
    let schema =
        json!({"properties": {"message": {"type": "string"}, "model": {}}, "additionalProperties": false});
    let chat = ActionSpec { input_schema: Some(InputSchema::new(schema).unwrap()), ..ActionSpec::default() };
    let mut closed = AgentSpec::new("closed".parse().unwrap(), vec!["unused".into()]);
    closed.actions = [("chat".to_owned(), chat)].into();
    let planner = TestPlanner::with(FakeExecutor::offering([closed]), FakeHealth::default(), ALL_PEERS).await;
    let chat = json!({"messages": messages(), "model": "m", "options": {"stop": "x"}});
    send(&planner, PlanAndExecuteRequest { agent: Some("closed".into()), ..conversation(&chat) })
        .await
        .unwrap();
    let call = planner.executor.log.lock().unwrap().calls.remove(0);
    assert_eq!(call.payload_json, r#"{"message":"and my notes?","model":"m"}"#);
    assert!(call.context.starts_with("system: be brief"), "{}", call.context);
}

#[tokio::test]
async fn invalid_conversation_names_its_field_and_runs_nothing() {
    let planner = TestPlanner::new().await;
    let valid = json!({"messages": messages()});
    for (request, field) in [
        (conversation(&json!([])), "chat_json"),
        (conversation(&json!({"messages": messages(), "temperature": 1})), "chat_json"),
        (conversation(&json!({"messages": [{"role": "robot", "content": "x"}]})), "messages[0].role"),
        (conversation(&json!({"model": "m"})), "message"),
        (PlanAndExecuteRequest { message: "hi".into(), ..conversation(&valid) }, "message"),
        (PlanAndExecuteRequest { context: "hi".into(), ..conversation(&valid) }, "context"),
        (
            PlanAndExecuteRequest {
                chat_json: valid.to_string(),
                ..graph(vec![task("a", "model", "{}", &[])])
            },
            "tasks",
        ),
    ] {
        let error = send(&planner, request).await.unwrap_err();
        assert_eq!((error.code, error.details["field"].as_str()), (Code::ValidationFailed, field), "{error}");
    }
    assert!(planner.executor.log.lock().unwrap().calls.is_empty());
}

#[tokio::test]
async fn metadata_of_the_output_is_returned_and_replayed() {
    let planner = TestPlanner::new().await;
    let metadata = r#"{"model":"m","usage":{"input_tokens":3},"finish_reason":"length"}"#;
    let result = ActionResult { metadata: Object::parse(metadata).unwrap(), ..ActionResult::text("half") };
    planner.script("model", Script::Says(vec![started(1), succeeded(1, &result)]));
    let request =
        PlanAndExecuteRequest { message: "hello".into(), idempotency_key: "k".into(), ..Default::default() };
    let first = send(&planner, request.clone()).await.unwrap();
    let again = send(&planner, request).await.unwrap();
    for answer in [first, again] {
        assert_eq!(
            (answer.metadata_json.as_str(), answer.finish_reason.as_deref()),
            (metadata, Some("length"))
        );
    }
    planner.script("model", Script::Says(answers("plain")));
    assert_eq!(planner.chat("hello").await.unwrap().metadata_json, "");
}
