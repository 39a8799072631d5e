//! Messages as text, for agents that know only one message and a context.

use std::collections::VecDeque;

use crate::{json::Json, limits::MAX_CONTEXT_BYTES};

/// First line of a transcript whose beginning does not fit.
const CUT: &str = "[earlier messages are left out]\n\n";

const BETWEEN: &str = "\n\n";

/// The text of a message: its text parts, and the type of every other part in brackets.
pub(super) fn of(message: &Json) -> String {
    match &message["content"] {
        Json::String(text) => text.clone(),
        Json::Array(parts) => {
            let texts = parts.iter().map(|part| match part["type"].as_str() {
                Some("text") => part["text"].as_str().unwrap_or_default().to_owned(),
                Some("image_url") => "[image]".to_owned(),
                other => format!("[{}]", other.unwrap_or("part")),
            });
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// Messages with their roles, separated by empty lines: as many of the latest ones as fit into a context.
pub(super) fn transcript<'a>(messages: impl DoubleEndedIterator<Item = &'a Json>) -> String {
    let mut lines = VecDeque::new();
    let mut size = 0;
    for message in messages.rev() {
        let line = line_of(message);
        size += line.len() + BETWEEN.len();
        if size > MAX_CONTEXT_BYTES - CUT.len() {
            return format!("{CUT}{}", join(lines));
        }
        lines.push_front(line);
    }
    join(lines)
}

fn join(lines: VecDeque<String>) -> String {
    Vec::from(lines).join(BETWEEN)
}

fn line_of(message: &Json) -> String {
    let role = message["role"].as_str().unwrap_or_default();
    let mut parts = Vec::new();
    let text = of(message);
    if !text.is_empty() {
        parts.push(text);
    }
    for call in message["tool_calls"].as_array().unwrap_or_default() {
        let function = &call["function"];
        let name = function["name"].as_str().unwrap_or("a tool");
        parts.push(format!("[calls {name} with {}]", function["arguments"].to_text()));
    }
    format!("{role}: {}", parts.join("\n"))
}
