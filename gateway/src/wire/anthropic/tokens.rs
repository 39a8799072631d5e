//! `POST /v1/messages/count_tokens`: an estimate.
//!
//! Providers count with vocabularies that they do not publish. The estimate is meant to be too high rather than too low: English
//! text has about four bytes per token, other scripts about three.

use phoenix_domain::{
    OrchestratorError,
    conversation::Conversation,
    json::{Json, Object},
};
use serde::Serialize;
use utoipa::ToSchema;

/// Bytes of text per token.
const BYTES_PER_TOKEN: usize = 3;

/// Tokens of an image: the most that Anthropic counts for one.
const IMAGE_TOKENS: usize = 1_600;

/// Tokens by which a message is framed.
const MESSAGE_TOKENS: usize = 4;

/// Tokens of the instructions that a provider adds to a request with tools.
const TOOL_TOKENS: usize = 350;

/// The number of tokens of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = TokenCount)]
pub(crate) struct TokenCount {
    /// An estimate.
    input_tokens: usize,
}

impl TokenCount {
    /// The estimate for `conversation`.
    ///
    /// # Errors
    /// `validation_failed` for a document, of which a size in bytes says nothing about its tokens.
    pub(crate) fn of(conversation: Conversation) -> Result<Self, OrchestratorError> {
        let members = conversation.into_members();
        let list = |value: Option<&Json>| value.and_then(Json::as_array).unwrap_or_default().to_vec();
        let options = members.get("options").and_then(Json::as_object);
        let tools = list(options.and_then(|options| options.get("tools")));
        let mut input_tokens = if tools.is_empty() { 0 } else { TOOL_TOKENS };
        input_tokens += tools.iter().map(|tool| text_tokens(tool["function"].text_len())).sum::<usize>();
        for message in list(members.get("messages")) {
            input_tokens += MESSAGE_TOKENS + message.as_object().map_or(Ok(0), of_message)?;
        }
        Ok(Self { input_tokens })
    }
}

fn of_message(message: &Object) -> Result<usize, OrchestratorError> {
    let mut tokens = 0;
    for (name, value) in message {
        tokens += match (name.as_str(), value) {
            ("role" | "is_error", _) => 0,
            ("content", Json::Array(parts)) => parts.iter().map(of_part).sum::<Result<usize, _>>()?,
            (_, Json::String(text)) => text_tokens(text.len()),
            (_, value) => text_tokens(value.text_len()),
        };
    }
    Ok(tokens)
}

fn of_part(part: &Json) -> Result<usize, OrchestratorError> {
    match part["type"].as_str() {
        Some("text") => Ok(text_tokens(part["text"].as_str().map_or(0, str::len))),
        Some("image_url") => Ok(IMAGE_TOKENS),
        Some("file") => {
            let problem = "has a document, whose tokens cannot be estimated; count without it";
            Err(OrchestratorError::invalid("messages", problem))
        }
        _ => Ok(text_tokens(part.text_len())),
    }
}

const fn text_tokens(bytes: usize) -> usize {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(messages: &str, options: &str) -> Result<usize, OrchestratorError> {
        let [messages, options] = [messages, options].map(|text| Json::parse(text).unwrap());
        let conversation = Conversation::new(messages, Json::Null, options)?;
        TokenCount::of(conversation).map(|count| count.input_tokens)
    }

    #[test]
    fn estimate_counts_texts_images_calls_and_tools() {
        let hi = r#"[{"role":"user","content":"123456789"}]"#;
        assert_eq!(count(hi, "null"), Ok(4 + 3));
        let image = r#"[{"role":"user","content":[{"type":"text","text":"12"},{"type":"image_url","image_url":{"url":"x"}}]}]"#;
        assert_eq!(count(image, "null"), Ok(4 + 1 + 1_600));
        let tool = r#"{"tools":[{"type":"function","function":{"name":"f"}}]}"#;
        assert_eq!(count(hi, tool), Ok(4 + 3 + 350 + 4));
        let file = r#"[{"role":"user","content":[{"type":"file","file":{}}]}]"#;
        assert_eq!(count(file, "null").unwrap_err().details["field"], "messages");
    }
}
