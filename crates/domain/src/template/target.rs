//! Targets of references: the part of an output that a path selects.

use std::collections::HashMap;

use super::reference::{Reference, Referent, TemplateError};
use crate::json::{Json, JsonError};

/// Members of an object that an error names.
const MAX_NAMED_MEMBERS: usize = 8;

/// Characters of the name of a member in an error.
const MAX_NAME_CHARS: usize = 32;

/// Outputs that are JSON text, parsed once each: a language model answers with text, even when it was asked for JSON.
#[derive(Debug, Default)]
pub(super) struct ParsedTexts(HashMap<String, Result<Json, JsonError>>);

impl ParsedTexts {
    /// Parses the outputs into which `references` navigate.
    pub(super) fn of<'a>(references: &[Reference], output: &impl Fn(&str) -> Referent<'a>) -> Self {
        let mut parsed = HashMap::new();
        for Reference { key, path } in references {
            if path.is_empty() || parsed.contains_key(key) {
                continue;
            }
            if let Referent::Answer(Json::String(text)) = output(key) {
                parsed.insert(key.clone(), Json::parse(text));
            }
        }
        Self(parsed)
    }
}

/// The target of `reference`.
///
/// # Errors
/// When the output has no such path.
pub(super) fn follow<'p, 'a: 'p>(
    reference: &Reference,
    output: &impl Fn(&str) -> Referent<'a>,
    parsed: &'p ParsedTexts,
) -> Result<&'p Json, TemplateError> {
    let Reference { key, path } = reference;
    let Referent::Answer(output) = output(key) else { return Ok(&Json::Null) };
    let failed = |found: String| TemplateError::NoSuchPath { key: key.clone(), path: path.join("."), found };
    let mut found = match parsed.0.get(key).filter(|_| !path.is_empty()) {
        Some(Ok(json @ (Json::Object(_) | Json::Array(_)))) => json,
        Some(Ok(other)) => return Err(failed(format!("the output is text that holds {}", kind(other)))),
        Some(Err(error)) => return Err(failed(format!("the output is text that is not JSON: {error}"))),
        None => output,
    };
    for (depth, step) in path.iter().enumerate() {
        let next = match found {
            Json::Array(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
            Json::Object(members) => members.get(step),
            _ => None,
        };
        found = next.ok_or_else(|| {
            let place = match depth {
                0 => "the output".to_owned(),
                _ => format!("`{}`", path[..depth].join(".")),
            };
            failed(format!("{place} is {}", kind(found)))
        })?;
    }
    Ok(found)
}

/// What a value is, for an error.
fn kind(value: &Json) -> String {
    match value {
        Json::Null => "null".into(),
        Json::Bool(_) => "a boolean".into(),
        Json::Number(_) => "a number".into(),
        Json::String(_) => "text".into(),
        Json::Array(items) if items.len() == 1 => "an array of 1 element".into(),
        Json::Array(items) => format!("an array of {} elements", items.len()),
        Json::Object(members) if members.is_empty() => "an object without members".into(),
        Json::Object(members) => {
            let short =
                |name: &String| format!("`{}`", name.chars().take(MAX_NAME_CHARS).collect::<String>());
            let named: Vec<_> = members.keys().take(MAX_NAMED_MEMBERS).map(short).collect();
            let more = match members.len() - named.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("an object with {}{more}", named.join(", "))
        }
    }
}
