//! `POST /v1/messages`: an answer in one piece.

use phoenix_domain::{
    PlanId,
    conversation::arguments_object,
    json::{Json, Object},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::wire::answer::{Answer, Finish, Usage};

/// A message, as Anthropic's clients decode it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Message)]
pub(crate) struct Message {
    /// `msg_` and the plan.
    id: String,
    /// Always `message`.
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    kind: &'static str,
    /// Always `assistant`.
    #[schema(value_type = String)]
    role: &'static str,
    /// `provider/model`, or the agent that answered; the model of the request in a stream.
    model: String,
    /// Blocks with the types `thinking`, `redacted_thinking`, `text` and `tool_use`.
    #[schema(value_type = Vec<Object>)]
    content: Vec<Object>,
    /// `end_turn`, `max_tokens`, `stop_sequence`, `tool_use`, `pause_turn` or `refusal`; null at the start of a stream.
    #[schema(required)]
    stop_reason: Option<&'static str>,
    /// Always null: providers differ in whether they name it.
    #[schema(value_type = Option<String>, required)]
    stop_sequence: (),
    /// Tokens; zeros when the agent does not report them.
    usage: MessageUsage,
}

/// Tokens of a request and its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = MessageUsage)]
pub(crate) struct MessageUsage {
    /// Tokens of the request, without those that were read from a cache.
    input_tokens: u64,
    /// Always 0: tokens that were written to a cache are part of `input_tokens`.
    cache_creation_input_tokens: u64,
    /// Tokens of the request that were read from a cache.
    cache_read_input_tokens: u64,
    /// Tokens of the answer, thinking included.
    output_tokens: u64,
}

impl From<Answer> for Message {
    fn from(answer: Answer) -> Self {
        let mut content = thinking(&answer);
        if !answer.text.is_empty() {
            content.push(block("text", [("text", answer.text.as_str().into())]));
        }
        content.extend(answer.tool_calls().iter().map(tool_use));
        Self {
            content,
            stop_reason: Some(stop_reason(&answer.finish)),
            usage: answer.usage.as_ref().into(),
            ..Self::empty(answer.plan_id, answer.model)
        }
    }
}

impl Message {
    /// The message at the start of a stream.
    pub(super) fn empty(plan_id: PlanId, model: String) -> Self {
        Self {
            id: format!("msg_{plan_id}"),
            kind: "message",
            role: "assistant",
            model,
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: (),
            usage: MessageUsage::default(),
        }
    }
}

impl From<Option<&Usage>> for MessageUsage {
    fn from(usage: Option<&Usage>) -> Self {
        let Some(usage) = usage else { return Self::default() };
        let cached = usage.cached_tokens();
        Self {
            input_tokens: usage.prompt_tokens.saturating_sub(cached),
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: cached,
            output_tokens: usage.completion_tokens,
        }
    }
}

/// Why an answer ended, in Anthropic's words.
pub(super) fn stop_reason(finish: &Finish) -> &'static str {
    match (finish.reason, finish.of_provider.as_deref()) {
        ("tool_calls", _) => "tool_use",
        ("length", _) => "max_tokens",
        ("content_filter", _) => "refusal",
        (_, Some("stop_sequence")) => "stop_sequence",
        (_, Some("pause_turn")) => "pause_turn",
        _ => "end_turn",
    }
}

/// The thinking of an answer: with its signatures, where the provider signs it.
fn thinking(answer: &Answer) -> Vec<Object> {
    let blocks = answer.member("thinking_blocks").and_then(Json::as_array).unwrap_or_default();
    let blocks: Vec<Object> = blocks.iter().filter_map(Json::as_object).cloned().collect();
    match answer.member("reasoning_content").and_then(Json::as_str) {
        Some(reasoning) if blocks.is_empty() && !reasoning.is_empty() => {
            vec![block("thinking", [("thinking", reasoning.into()), ("signature", "".into())])]
        }
        _ => blocks,
    }
}

/// A call of a tool in OpenAI's shape as a block.
fn tool_use(call: &Json) -> Object {
    let function = &call["function"];
    let input = arguments_object(function["arguments"].as_str().unwrap_or_default());
    block(
        "tool_use",
        [("id", call["id"].clone()), ("name", function["name"].clone()), ("input", input.into())],
    )
}

/// A block of a message.
pub(super) fn block<const N: usize>(kind: &str, members: [(&str, Json); N]) -> Object {
    let kind = [("type".to_owned(), kind.into())];
    kind.into_iter().chain(members.map(|(name, value)| (name.to_owned(), value))).collect()
}

#[cfg(test)]
mod tests {
    use phoenix_domain::object;
    use phoenix_proto::planner::PlanAndExecuteResponse;
    use serde_json::{Value, json};

    use super::*;

    fn message(metadata: &Value, output: &str, finish_reason: Option<&str>) -> Value {
        let response = PlanAndExecuteResponse {
            output: output.into(),
            agent: "model".into(),
            finish_reason: finish_reason.map(str::to_owned),
            metadata_json: metadata.to_string(),
            ..Default::default()
        };
        let plan_id = "0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f".parse().unwrap();
        serde_json::to_value(Message::from(Answer::of(plan_id, response))).unwrap()
    }

    #[test]
    fn message_has_thinking_text_and_calls_in_this_order() {
        let call =
            json!({"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}});
        let signed = json!({"type": "thinking", "thinking": "hm", "signature": "s"});
        let metadata = json!({
            "usage": {"input_tokens": 5, "output_tokens": 7, "cached_input_tokens": 2},
            "message": {"tool_calls": [call], "reasoning_content": "hm", "thinking_blocks": [signed]},
        });
        assert_eq!(
            message(&metadata, "ok", None),
            json!({
                "id": "msg_0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f", "type": "message", "role": "assistant", "model": "model",
                "content": [
                    signed, {"type": "text", "text": "ok"}, {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
                ],
                "stop_reason": "tool_use", "stop_sequence": null,
                "usage": {
                    "input_tokens": 3, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 2, "output_tokens": 7,
                },
            })
        );
        let unsigned = message(&json!({"message": {"reasoning_content": "hm"}}), "", None);
        assert_eq!(unsigned["content"], json!([{"type": "thinking", "thinking": "hm", "signature": ""}]));
    }

    #[test]
    fn input_of_a_call_is_what_the_model_wrote() {
        for (arguments, input) in [
            (r#"{"n":123456789012345678901234567890,"m":1.10}"#, None),
            ("", Some("{}")),
            ("{\"n\":", Some(r#"{"INVALID_JSON":"{\"n\":"}"#)),
        ] {
            let function = object! {"name": "f", "arguments": arguments};
            let block = tool_use(&object! {"id": "a", "function": function}.into());
            assert_eq!(block["input"].to_string(), input.unwrap_or(arguments));
        }
    }

    #[test]
    fn stop_reason_is_one_of_anthropic() {
        for (reason, of_provider, expected) in [
            (None, None, "end_turn"),
            (None, Some("end_turn"), "end_turn"),
            (None, Some("stop_sequence"), "stop_sequence"),
            (Some("pause_turn"), Some("pause_turn"), "pause_turn"),
            (Some("length"), Some("max_tokens"), "max_tokens"),
            (Some("content_filter"), Some("refusal"), "refusal"),
            (Some("other"), Some("other"), "end_turn"),
        ] {
            let metadata = json!({ "finish_reason": of_provider });
            assert_eq!(
                message(&metadata, "hi", reason)["stop_reason"],
                expected,
                "{reason:?} {of_provider:?}"
            );
        }
    }
}
