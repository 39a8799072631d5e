//! `POST /v1/chat/completions` with `stream`: the chunks of an answer.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use phoenix_domain::{
    CorrelationId, OrchestratorError, PlanId,
    json::{Json, Object},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::error::OpenAiError;
use crate::wire::{
    answer::{Answer, Finish, Usage, created},
    answer_writer::{AnswerWriter, Frame},
};

/// Identifier of the completion of a plan.
pub(super) fn completion_id(plan_id: PlanId) -> String {
    format!("chatcmpl-{plan_id}")
}

/// Data of the event that ends a stream.
pub(crate) const DONE: &str = "[DONE]";

/// A chunk of a completion.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatCompletionChunk)]
pub(crate) struct Chunk {
    /// `chatcmpl-` and the plan.
    id: String,
    /// Always `chat.completion.chunk`.
    object: &'static str,
    /// When the plan was accepted, in seconds since 1970.
    created: u64,
    /// The model of the request.
    model: String,
    /// One choice; none in the chunk with the usage.
    choices: Vec<ChunkChoice>,
    /// Tokens, in the chunk after the answer, with `stream_options.include_usage`. Null in the chunks before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>, required = false)]
    usage: Option<Option<Usage>>,
}

/// A part of the answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatCompletionChunkChoice)]
pub(crate) struct ChunkChoice {
    /// Always 0.
    index: u32,
    /// What the chunk adds to the message: `role`, `content`, `tool_calls`, `refusal`, `reasoning_content`.
    #[schema(value_type = Object)]
    delta: Object,
    /// Always null.
    #[schema(value_type = Option<Object>, required)]
    logprobs: (),
    /// Null up to the last chunk of the answer.
    #[schema(value_type = Option<String>, required)]
    finish_reason: Option<&'static str>,
    /// The agent's own word for any other reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    native_finish_reason: Option<String>,
}

/// Writes the chunks of one answer.
#[derive(Debug)]
pub(crate) struct ChunkWriter {
    id: String,
    created: u64,
    /// The model of the request: the same in every chunk, since the agent's own is known only at the end.
    model: String,
    include_usage: bool,
    /// Members of the message that were written; none before the first chunk.
    written: Option<BTreeSet<String>>,
}

impl ChunkWriter {
    /// A writer for the answer of a plan.
    pub(crate) fn new(plan_id: PlanId, model: String, include_usage: bool) -> Self {
        Self { id: completion_id(plan_id), created: created(plan_id), model, include_usage, written: None }
    }

    /// The first chunk, with the role, unless it was written.
    fn start(&mut self) -> Vec<Frame> {
        if self.has_started() {
            return Vec::new();
        }
        self.written = Some(BTreeSet::new());
        let role = [("role".to_owned(), "assistant".into()), ("content".to_owned(), "".into())];
        vec![self.chunk(Object::from_iter(role))]
    }

    /// The chunks that follow the parts of an answer.
    fn end(&self, answer: &Answer) -> Vec<Frame> {
        let last = self.choice(Object::new(), Some(&answer.finish));
        let mut chunks = vec![self.write(vec![last], None)];
        if let Some(usage) = answer.usage.as_ref().filter(|_| self.include_usage) {
            chunks.push(self.write(Vec::new(), Some(usage)));
        }
        chunks.push(Frame::plain(DONE.to_owned()));
        chunks
    }

    fn chunk(&self, delta: Object) -> Frame {
        self.write(vec![self.choice(delta, None)], None)
    }

    fn choice(&self, delta: Object, finish: Option<&Finish>) -> ChunkChoice {
        ChunkChoice {
            index: 0,
            delta,
            logprobs: (),
            finish_reason: finish.map(|finish| finish.reason),
            native_finish_reason: finish.and_then(|finish| finish.native.clone()),
        }
    }

    fn write(&self, choices: Vec<ChunkChoice>, usage: Option<&Usage>) -> Frame {
        let chunk = Chunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: self.created,
            model: self.model.clone(),
            choices,
            usage: self.include_usage.then(|| usage.cloned()),
        };
        // Strings, numbers and JSON can always be written.
        Frame::plain(serde_json::to_string(&chunk).unwrap_or_default())
    }
}

impl AnswerWriter for ChunkWriter {
    fn has_started(&self) -> bool {
        self.written.is_some()
    }

    fn part(&mut self, text: &str, delta: Option<&str>) -> Result<Vec<Frame>, OrchestratorError> {
        let delta = delta.and_then(|delta| Object::parse(delta).ok());
        let mut delta = delta.unwrap_or_default();
        // The first chunk has the role.
        delta.shift_remove("role");
        if !text.is_empty() && !delta.contains_key("content") {
            delta.insert("content".to_owned(), text.into());
        }
        delta.retain(|_, value| !value.is_null());
        if delta.is_empty() {
            return Ok(Vec::new());
        }
        let mut chunks = self.start();
        self.written.get_or_insert_default().extend(delta.keys().cloned());
        chunks.push(self.chunk(delta));
        Ok(chunks)
    }

    fn finish(&mut self, answer: &Answer) -> Vec<Frame> {
        let mut chunks = self.start();
        let is_new = |name: &str| self.written.as_ref().is_none_or(|written| !written.contains(name));
        // A model thinks before it speaks, and speaks before it calls.
        let (before, after): (Vec<_>, Vec<_>) = answer
            .members
            .iter()
            .filter(|(name, _)| is_new(name))
            .partition(|(name, _)| name.starts_with("reasoning") || *name == "thinking_blocks");
        let has_text = !answer.text.is_empty() && is_new("content");
        let text = has_text.then(|| one("content", answer.text.as_str().into()));
        let deltas = before.into_iter().map(delta_of).chain(text).chain(after.into_iter().map(delta_of));
        chunks.extend(deltas.map(|delta| self.chunk(delta)));
        chunks.extend(self.end(answer));
        chunks
    }

    fn fail(&mut self, status: StatusCode, error: OrchestratorError, _id: CorrelationId) -> Vec<Frame> {
        let body = OpenAiError::new(status, error);
        vec![Frame::plain(serde_json::to_string(&body).unwrap_or_default())]
    }
}

/// A member of the message as a delta. Tool calls of a delta are numbered.
fn delta_of((name, value): (&String, &Json)) -> Object {
    let value = match value {
        Json::Array(calls) if name == "tool_calls" => {
            Json::Array(calls.iter().enumerate().map(|(index, call)| numbered(index, call)).collect())
        }
        value => value.clone(),
    };
    one(name, value)
}

fn numbered(index: usize, call: &Json) -> Json {
    let Json::Object(members) = call else { return call.clone() };
    let mut numbered = one("index", index.into());
    numbered.extend(members.iter().map(|(name, value)| (name.clone(), value.clone())));
    numbered.into()
}

fn one(name: &str, value: Json) -> Object {
    Object::from_iter([(name.to_owned(), value)])
}

#[cfg(test)]
mod tests {
    use phoenix_proto::planner::PlanAndExecuteResponse;
    use serde_json::{Value, json};

    use super::*;

    const PLAN: &str = "0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f";

    fn chunks(metadata: &Value, output: &str, include_usage: bool) -> Vec<Value> {
        let plan_id: PlanId = PLAN.parse().unwrap();
        let response = PlanAndExecuteResponse {
            output: output.into(),
            metadata_json: metadata.to_string(),
            ..Default::default()
        };
        let answer = Answer::of(plan_id, response);
        let mut chunks = ChunkWriter::new(plan_id, "phoenix".into(), include_usage).finish(&answer);
        assert_eq!(chunks.pop(), Some(Frame::plain(DONE.to_owned())));
        chunks.iter().map(|chunk| serde_json::from_str(&chunk.data).unwrap()).collect()
    }

    #[test]
    fn finish_reason_is_null_up_to_the_last_chunk() {
        let chunks = chunks(&json!({}), "hi", false);
        let choices: Vec<_> = chunks.iter().map(|chunk| chunk["choices"][0].clone()).collect();
        let choice = |delta: Value, finish: Option<&str>| json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish});
        assert_eq!(
            choices,
            [
                choice(json!({"role": "assistant", "content": ""}), None),
                choice(json!({"content": "hi"}), None),
                choice(json!({}), Some("stop")),
            ]
        );
        for chunk in &chunks {
            assert_eq!(
                (&chunk["id"], &chunk["model"]),
                (&json!(format!("chatcmpl-{PLAN}")), &json!("phoenix"))
            );
            assert!(chunk.get("usage").is_none(), "{chunk}");
        }
    }

    #[test]
    fn usage_follows_the_answer_where_it_is_asked_for() {
        let metadata = json!({"usage": {"input_tokens": 1, "output_tokens": 2}});
        let mut chunks = chunks(&metadata, "hi", true);
        let last = chunks.pop().unwrap();
        assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &json!(3)));
        assert!(chunks.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some()));
    }

    #[test]
    fn tool_calls_are_numbered_and_follow_reasoning_and_text() {
        let calls = json!([{"id": "a", "type": "function"}, {"id": "b", "type": "function"}]);
        let message = json!({"tool_calls": calls, "reasoning_content": "hm"});
        let chunks = chunks(&json!({"message": message}), "hi", false);
        let deltas: Vec<_> = chunks[1..].iter().map(|chunk| chunk["choices"][0]["delta"].clone()).collect();
        let numbered =
            json!([{"index": 0, "id": "a", "type": "function"}, {"index": 1, "id": "b", "type": "function"}]);
        assert_eq!(
            deltas,
            [
                json!({"reasoning_content": "hm"}),
                json!({"content": "hi"}),
                json!({"tool_calls": numbered}),
                json!({})
            ]
        );
        assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    }

    #[test]
    fn part_is_written_once_and_the_rest_of_the_answer_follows() {
        let plan_id: PlanId = PLAN.parse().unwrap();
        let mut writer = ChunkWriter::new(plan_id, "phoenix".into(), false);
        let deltas = |chunks: Vec<Frame>| {
            let deltas = chunks.iter().filter_map(|chunk| serde_json::from_str::<Value>(&chunk.data).ok());
            deltas.map(|chunk| chunk["choices"][0]["delta"].clone()).collect::<Vec<_>>()
        };
        let mut part = |text: &str, delta| deltas(writer.part(text, delta).unwrap());
        assert_eq!(part("", Some(r#"{"role":"assistant","content":null}"#)), [Value::Null; 0]);
        let first = part("", Some(r#"{"reasoning_content":"hm"}"#));
        assert_eq!(first, [json!({"role": "assistant", "content": ""}), json!({"reasoning_content": "hm"})]);
        assert_eq!(part("h", None), [json!({"content": "h"})]);
        assert_eq!(part("i", Some(r#"{"content":"i","x":1}"#)), [json!({"content": "i", "x": 1})]);
        let metadata = json!({"message": {"reasoning_content": "hm", "tool_calls": [{"id": "a"}]}});
        let response = PlanAndExecuteResponse {
            output: "hi".into(),
            metadata_json: metadata.to_string(),
            ..Default::default()
        };
        let rest = deltas(writer.finish(&Answer::of(plan_id, response)));
        assert_eq!(rest, [json!({"tool_calls": [{"index": 0, "id": "a"}]}), json!({})]);
    }
}
