//! The built-in agents from outside: requests in, answers out, against real repositories, directories and HTTP servers.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod actions;
mod git;
mod git_add;
mod git_configuration;
mod git_deadlines;
mod llm_answers;
mod llm_chain;
mod llm_connections;
mod llm_conversations;
mod llm_dialects;
mod llm_exact;
mod llm_failures;
mod llm_faults;
mod llm_streams;
mod obsidian;
mod obsidian_names;
mod protocol;
mod provider;

use phoenix_agents::{ActionError, ActionRequest, ActionResult, Agent};
use phoenix_domain::{CorrelationId, PlanId, TaskId, action::ActionMeta};
use serde_json::Value;
use uuid::Uuid;

/// A first attempt with a long deadline.
fn request(action: &str, payload: Value) -> ActionRequest {
    let Value::Object(payload) = payload else { panic!("a payload is an object") };
    ActionRequest {
        request_id: Uuid::new_v4(),
        api_version: "v1".into(),
        tool: "test_agent".parse().unwrap(),
        action: action.into(),
        context: String::new(),
        plan_id: PlanId::generate(),
        task_id: TaskId::generate(),
        correlation_id: CorrelationId::generate(),
        payload: payload.into(),
        meta: ActionMeta {
            traceparent: None,
            attempt: 1,
            deadline_ms: 60_000,
            idempotency_key: "key".into(),
            stream: false,
        },
    }
}

fn call(agent: &mut impl Agent, action: &str, payload: Value) -> Result<ActionResult, ActionError> {
    agent.handle(&request(action, payload))
}

/// The result as text.
fn text(agent: &mut impl Agent, action: &str, payload: Value) -> String {
    call(agent, action, payload).unwrap().to_text()
}

/// The code of an error.
fn code(agent: &mut impl Agent, action: &str, payload: Value) -> u16 {
    call(agent, action, payload).unwrap_err().code
}
