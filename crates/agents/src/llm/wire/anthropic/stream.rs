//! Events of a streamed answer. <https://docs.anthropic.com/en/docs/build-with-claude/streaming>

use phoenix_domain::{json::Json, object};

use super::{
    super::{json::word, types::Step},
    answer::{ANSWER_TOOL, usage},
};

/// Length from which a signature is not extended: real ones have a few kilobytes.
const MAX_SIGNATURE_BYTES: usize = 1024 * 1024;

/// The blocks that a stream has begun.
#[derive(Debug, Default)]
pub(in crate::llm) struct Stream {
    /// Number of tool calls so far.
    calls: usize,
    /// Whether the present block is the tool whose input is the answer.
    is_answer: bool,
    /// Whether there was such a block.
    had_answer: bool,
    /// Input of the present block, as its beginning has it. Real servers send the input in the events that follow, and none for an
    /// empty one.
    input: Option<String>,
    /// Thinking of the present block, which is returned as a whole, with its signature.
    thinking: String,
    signature: String,
}

impl Stream {
    /// `None` for data that is no event of this API.
    pub(in crate::llm::wire) fn step(&mut self, data: &Json) -> Option<Step> {
        let mut step = Step::default();
        match data["type"].as_str()? {
            "message_start" => {
                step.model = word(&data["message"]["model"]);
                step.usage = usage(&data["message"]["usage"]);
            }
            "content_block_start" => self.start(&data["content_block"], &mut step),
            "content_block_delta" => self.delta(&data["delta"], &mut step),
            "content_block_stop" => self.stop(&mut step),
            "message_delta" => {
                let reason = word(&data["delta"]["stop_reason"]);
                let is_answer = self.had_answer && self.calls == 0;
                step.finish_reason = reason.map(|reason| match reason.as_str() {
                    "tool_use" if is_answer => "end_turn".into(),
                    _ => reason,
                });
                step.usage = usage(&data["usage"]);
            }
            "message_stop" => step.is_last = true,
            // Pings, and events of the future, which the documentation says to ignore.
            _ => {}
        }
        Some(step)
    }

    fn start(&mut self, block: &Json, step: &mut Step) {
        self.is_answer = false;
        let is_tool = block["type"] == "tool_use";
        self.input = is_tool
            .then(|| if block["input"].is_object() { block["input"].to_string() } else { "{}".into() });
        match block["type"].as_str() {
            Some("tool_use") if block["name"] == ANSWER_TOOL => {
                self.is_answer = true;
                self.had_answer = true;
            }
            Some("tool_use") => {
                let function = object! {"name": block["name"].clone(), "arguments": ""};
                let index = self.calls;
                self.calls += 1;
                let id = block["id"].clone();
                let call = object! {"index": index, "id": id, "type": "function", "function": function};
                step.delta.set("tool_calls", [call]);
            }
            Some("redacted_thinking") => {
                step.delta.set("thinking_blocks", [block.clone()]);
            }
            _ => step.text = block["text"].as_str().unwrap_or_default().to_owned(),
        }
    }

    fn delta(&mut self, delta: &Json, step: &mut Step) {
        let text = |name: &str| delta[name].as_str().unwrap_or_default().to_owned();
        match delta["type"].as_str() {
            Some("text_delta") => step.text = text("text"),
            Some("input_json_delta") => {
                let part = text("partial_json");
                if !part.is_empty() {
                    self.input = None;
                    self.add_input(part, step);
                }
            }
            Some("thinking_delta") => {
                let thinking = text("thinking");
                self.thinking.push_str(&thinking);
                if !thinking.is_empty() {
                    step.delta.set("reasoning_content", thinking);
                }
            }
            Some("signature_delta") if self.signature.len() <= MAX_SIGNATURE_BYTES => {
                self.signature.push_str(&text("signature"));
            }
            _ => {}
        }
    }

    /// Adds a part of the input of the present tool.
    fn add_input(&self, part: String, step: &mut Step) {
        if self.is_answer {
            step.text = part;
            return;
        }
        let function = object! {"arguments": part};
        let index = self.calls.saturating_sub(1);
        step.delta.set("tool_calls", [object! {"index": index, "function": function}]);
    }

    fn stop(&mut self, step: &mut Step) {
        if let Some(input) = self.input.take() {
            self.add_input(input, step);
        }
        self.is_answer = false;
        let (thinking, signature) = (std::mem::take(&mut self.thinking), std::mem::take(&mut self.signature));
        if !signature.is_empty() {
            let block = object! {"type": "thinking", "thinking": thinking, "signature": signature};
            step.delta = object! {"thinking_blocks": [block]};
        }
    }
}
