//! The agent that answers with its input, for smoke tests and load tests.

use phoenix_domain::{
    action::{ActionRequest, ActionResult, CHAT_ACTION},
    json::{Json, Object},
};

use crate::{
    payload::Payload,
    protocol::{ActionError, Agent},
};

/// Answers a chat with its message, and every other action with its payload.
#[derive(Debug, Clone, Copy, Default)]
pub struct EchoAgent;

impl Agent for EchoAgent {
    fn handle(&mut self, request: &ActionRequest) -> Result<ActionResult, ActionError> {
        if request.action == CHAT_ACTION {
            return Ok(ActionResult::text(Payload::of(request).text("message")?));
        }
        Ok(ActionResult {
            output_type: "json".into(),
            data: Json::Object(request.payload.clone()),
            metadata: Object::new(),
        })
    }
}
