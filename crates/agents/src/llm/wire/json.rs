//! Values that several providers encode alike.

use phoenix_domain::{
    json::{Json, replace_lone_surrogates},
    llm::Provider,
};
use serde_json::Value;

/// Parses a body. Invalid UTF-8 is replaced, and a leading byte-order mark is ignored. A number beyond the range of a float
/// becomes the largest one, and nesting beyond the limit of `serde_json` is read: neither makes an answer unreadable.
pub(in crate::llm) fn parse(body: &[u8]) -> Option<Value> {
    let text = String::from_utf8_lossy(body);
    let text = replace_lone_surrogates(text.trim_start_matches('\u{feff}'));
    serde_json::from_str(&text).ok().or_else(|| Some(Json::parse_stored(&text).ok()?.to_value()))
}

/// A text, or the text in a list of parts. Parts of another kind (thoughts, tools) do not belong to the answer. `None`
/// when it is neither.
pub(super) fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => Some(parts.iter().filter_map(text_of_part).collect()),
        part => text_of_part(part),
    }
}

fn text_of_part(part: &Value) -> Option<String> {
    if let Value::String(text) = part {
        return Some(text.clone());
    }
    let is_text = matches!(part["type"].as_str(), None | Some("text" | "output_text"));
    let is_thought = part["thought"].as_bool() == Some(true);
    let text = part["text"].as_str().or_else(|| part["text"]["value"].as_str());
    text.filter(|_| is_text && !is_thought).map(str::to_owned)
}

/// A name or a reason, if the value is one.
pub(super) fn word(value: &Value) -> Option<String> {
    value.as_str().map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned)
}

/// A number of tokens, if the value is one.
pub(super) fn tokens(value: &Value) -> Option<u64> {
    value.as_u64()
}

/// `Authorization: Bearer …`, if there is a key.
pub(super) fn bearer(provider: Provider<'_>) -> Vec<(&'static str, String)> {
    provider.api_key.map(|key| ("authorization", format!("Bearer {}", key.expose()))).into_iter().collect()
}
