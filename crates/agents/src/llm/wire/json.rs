//! Values that several providers encode alike.

use phoenix_domain::{
    json::{Json, replace_lone_surrogates},
    llm::Provider,
};

/// Parses a body. Invalid UTF-8 is replaced, and a leading byte-order mark is ignored. Nesting beyond the limit of requests is
/// read: beside the text it makes no answer unreadable.
pub(in crate::llm) fn parse(body: &[u8]) -> Option<Json> {
    let text = String::from_utf8_lossy(body);
    let text = replace_lone_surrogates(text.trim_start_matches('\u{feff}'));
    Json::parse_stored(&text).ok()
}

/// A text, or the text in a list of parts. Parts of another kind (thoughts, tools) do not belong to the answer. `None`
/// when it is neither.
pub(super) fn text_of(value: &Json) -> Option<String> {
    match value {
        Json::Null => Some(String::new()),
        Json::String(text) => Some(text.clone()),
        Json::Array(parts) => Some(parts.iter().filter_map(text_of_part).collect()),
        part => text_of_part(part),
    }
}

fn text_of_part(part: &Json) -> Option<String> {
    if let Json::String(text) = part {
        return Some(text.clone());
    }
    let is_text = matches!(part["type"].as_str(), None | Some("text" | "output_text"));
    let is_thought = part["thought"].as_bool() == Some(true);
    let text = part["text"].as_str().or_else(|| part["text"]["value"].as_str());
    text.filter(|_| is_text && !is_thought).map(str::to_owned)
}

/// A name or a reason, if the value is one.
pub(super) fn word(value: &Json) -> Option<String> {
    value.as_str().map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned)
}

/// A number of tokens, if the value is one.
pub(super) fn tokens(value: &Json) -> Option<u64> {
    value.as_u64()
}

/// `Authorization: Bearer …`, if there is a key.
pub(super) fn bearer(provider: Provider<'_>) -> Vec<(&'static str, String)> {
    provider.api_key.map(|key| ("authorization", format!("Bearer {}", key.expose()))).into_iter().collect()
}
