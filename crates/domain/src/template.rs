//! `{{tasks.KEY.output}}` in a task's input: the answer of an earlier task, or a part of it.
//!
//! A string that is nothing but one reference becomes the referenced JSON value, whatever its type. A reference inside a
//! longer string becomes text: strings as they are, anything else as JSON. `{{tasks.KEY.output.items.0.name}}` goes into
//! objects by name and into arrays by index. Double braces that do not start with `tasks.` are left alone, so that inputs
//! may hold templates of other systems.
//!
//! A backslash directly before a reference makes it literal and is removed: `\{{tasks.KEY.output}}` is the text
//! `{{tasks.KEY.output}}`. As everywhere with backslashes, two of them stand for one: `\\{{tasks.KEY.output}}` is a backslash
//! and the answer. Backslashes elsewhere are what they are.

use std::collections::HashMap;

use crate::{
    json::{Json, Object, escaped_len},
    limits::{MAX_DEPTH, MAX_FILLED_INPUT_BYTES},
};

/// One reference in an input.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// The task whose answer is meant.
    pub key: String,
    /// The path into its answer; empty for all of it.
    pub path: Vec<String>,
}

/// What a reference to a task's answer finds.
#[derive(Debug, Clone, Copy)]
pub enum Referent<'a> {
    /// The answer.
    Answer(&'a Json),
    /// The task failed and its plan went on: every path into its answer is null.
    Failed,
}

/// A reference that cannot be read or followed, or an input that is too large once it is filled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It is not `tasks.KEY.output` with an optional path.
    #[error("`{{{{{0}}}}}` must look like {{{{tasks.KEY.output}}}} or {{{{tasks.KEY.output.path}}}}")]
    Malformed(String),
    /// The braces do not close.
    #[error("`{{{{tasks.` is never closed by `}}}}`")]
    Unclosed,
    /// The answer has no such path.
    #[error("task `{key}` has no `{path}` in its output")]
    NoSuchPath {
        /// The task.
        key: String,
        /// The path that leads nowhere.
        path: String,
    },
    /// The filled input has too many bytes.
    #[error("is {found} bytes long once its references are filled; at most {limit} are allowed")]
    TooLarge {
        /// Bytes found, as compact JSON.
        found: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The filled input is nested too deep.
    #[error("is nested {found} levels deep once its references are filled; at most {limit} are allowed")]
    TooDeep {
        /// Levels found.
        found: usize,
        /// Levels allowed.
        limit: usize,
    },
}

/// Every reference in `payload`.
///
/// # Errors
/// The first that cannot be read.
pub fn references(payload: &Object) -> Result<Vec<Reference>, TemplateError> {
    let mut found = Vec::new();
    for value in payload.values() {
        collect(value, &mut found)?;
    }
    Ok(found)
}

/// JSON pointers (RFC 6901) to the strings of `payload` that hold references. What cannot be read as a reference is none.
#[must_use]
pub fn pointers(payload: &Object) -> Vec<String> {
    let mut found = Vec::new();
    let mut pointer = String::new();
    for (name, value) in payload {
        find_pointers(value, name, &mut pointer, &mut found);
    }
    found
}

/// Searches the member called `name` of the value at `pointer`.
fn find_pointers(value: &Json, name: &str, pointer: &mut String, found: &mut Vec<String>) {
    let parent = pointer.len();
    pointer.push('/');
    for c in name.chars() {
        match c {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            c => pointer.push(c),
        }
    }
    match value {
        Json::String(text) => {
            let is_reference = |part: &Part<'_>| matches!(part, Part::Reference(_));
            if parse(text).is_ok_and(|parts| parts.iter().any(is_reference)) {
                found.push(pointer.clone());
            }
        }
        Json::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                find_pointers(item, &index.to_string(), pointer, found);
            }
        }
        Json::Object(members) => {
            for (name, member) in members {
                find_pointers(member, name, pointer, found);
            }
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
    pointer.truncate(parent);
}

fn collect(value: &Json, found: &mut Vec<Reference>) -> Result<(), TemplateError> {
    match value {
        Json::String(text) => {
            for part in parse(text)? {
                if let Part::Reference(reference) = part {
                    found.push(reference);
                }
            }
        }
        Json::Array(items) => items.iter().try_for_each(|item| collect(item, found))?,
        Json::Object(members) => members.values().try_for_each(|member| collect(member, found))?,
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
    Ok(())
}

/// `payload` with every reference replaced. `output` gives what a task answered.
///
/// The result is measured before any of it is written, so memory is bounded by [`MAX_FILLED_INPUT_BYTES`] however often an
/// answer is referred to.
///
/// # Errors
/// When a reference leads nowhere, or the filled input is larger or deeper than allowed.
pub fn render<'a>(payload: &Object, output: &impl Fn(&str) -> Referent<'a>) -> Result<Object, TemplateError> {
    let mut measure = Measure { output, known: HashMap::new() };
    let Extent { bytes, depth } = measure.object(payload)?;
    if bytes > MAX_FILLED_INPUT_BYTES {
        return Err(TemplateError::TooLarge { found: bytes, limit: MAX_FILLED_INPUT_BYTES });
    }
    if depth > MAX_DEPTH {
        return Err(TemplateError::TooDeep { found: depth, limit: MAX_DEPTH });
    }
    render_object(payload, output)
}

/// How large a value is: bytes as compact JSON, or inside a string; levels.
#[derive(Debug, Clone, Copy, Default)]
struct Extent {
    bytes: usize,
    depth: usize,
}

/// Measures an input as it will be, each reference once.
struct Measure<'o, F> {
    output: &'o F,
    /// By reference: as a value, and the bytes it takes inside a string.
    known: HashMap<Reference, (Extent, usize)>,
}

impl<'a, F: Fn(&str) -> Referent<'a>> Measure<'_, F> {
    fn object(&mut self, members: &Object) -> Result<Extent, TemplateError> {
        let mut whole = Extent { bytes: 2 + members.len().saturating_sub(1), depth: 1 };
        for (name, value) in members {
            whole.bytes = whole.bytes.saturating_add(3 + escaped_len(name));
            whole.add(self.value(value)?);
        }
        Ok(whole)
    }

    fn value(&mut self, value: &Json) -> Result<Extent, TemplateError> {
        match value {
            Json::String(text) => self.text(text),
            Json::Array(items) => {
                let mut whole = Extent { bytes: 2 + items.len().saturating_sub(1), depth: 1 };
                for item in items {
                    whole.add(self.value(item)?);
                }
                Ok(whole)
            }
            Json::Object(members) => self.object(members),
            plain => Ok(Extent { bytes: plain.text_len(), depth: 0 }),
        }
    }

    fn text(&mut self, text: &str) -> Result<Extent, TemplateError> {
        let parts = parse(text)?;
        if let [Part::Reference(reference)] = &parts[..] {
            return Ok(self.referent(reference)?.0);
        }
        let mut bytes: usize = 2;
        for part in &parts {
            let more = match part {
                Part::Text(text) => escaped_len(text),
                Part::Reference(reference) => self.referent(reference)?.1,
            };
            bytes = bytes.saturating_add(more);
        }
        Ok(Extent { bytes, depth: 0 })
    }

    fn referent(&mut self, reference: &Reference) -> Result<(Extent, usize), TemplateError> {
        if let Some(known) = self.known.get(reference) {
            return Ok(*known);
        }
        let found = follow(reference, self.output)?;
        let extent = Extent { bytes: found.text_len(), depth: found.depth() };
        let inside = match found {
            Json::String(_) => extent.bytes - 2,
            Json::Array(_) | Json::Object(_) => escaped_len(&found.to_string()),
            Json::Null | Json::Bool(_) | Json::Number(_) => extent.bytes,
        };
        self.known.insert(reference.clone(), (extent, inside));
        Ok((extent, inside))
    }
}

impl Extent {
    /// Takes in a part of what this is the extent of.
    fn add(&mut self, part: Self) {
        self.bytes = self.bytes.saturating_add(part.bytes);
        self.depth = self.depth.max(1 + part.depth);
    }
}

fn render_object<'a>(
    payload: &Object,
    output: &impl Fn(&str) -> Referent<'a>,
) -> Result<Object, TemplateError> {
    payload.iter().map(|(name, value)| Ok((name.clone(), render_value(value, output)?))).collect()
}

fn render_value<'a>(value: &Json, output: &impl Fn(&str) -> Referent<'a>) -> Result<Json, TemplateError> {
    Ok(match value {
        Json::String(text) => render_text(text, output)?,
        Json::Array(items) => {
            Json::Array(items.iter().map(|item| render_value(item, output)).collect::<Result<_, _>>()?)
        }
        Json::Object(members) => Json::Object(render_object(members, output)?),
        plain => plain.clone(),
    })
}

fn render_text<'a>(text: &str, output: &impl Fn(&str) -> Referent<'a>) -> Result<Json, TemplateError> {
    let parts = parse(text)?;
    if let [Part::Reference(reference)] = &parts[..] {
        return follow(reference, output).cloned();
    }
    let mut rendered = String::with_capacity(text.len());
    for part in parts {
        match part {
            Part::Text(text) => rendered.push_str(text),
            Part::Reference(reference) => match follow(&reference, output)? {
                Json::String(text) => rendered.push_str(text),
                other => rendered.push_str(&other.to_string()),
            },
        }
    }
    Ok(Json::String(rendered))
}

fn follow<'a>(
    reference: &Reference,
    output: &impl Fn(&str) -> Referent<'a>,
) -> Result<&'a Json, TemplateError> {
    let Referent::Answer(mut found) = output(&reference.key) else { return Ok(&Json::Null) };
    for step in &reference.path {
        let next = match found {
            Json::Array(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
            Json::Object(members) => members.get(step),
            _ => None,
        };
        found = next.ok_or_else(|| TemplateError::NoSuchPath {
            key: reference.key.clone(),
            path: reference.path.join("."),
        })?;
    }
    Ok(found)
}

enum Part<'a> {
    Text(&'a str),
    Reference(Reference),
}

fn parse(text: &str) -> Result<Vec<Part<'_>>, TemplateError> {
    let mut parts = Vec::new();
    let (mut literal, mut search) = (0, 0);
    while let Some(open) = text[search..].find("{{").map(|at| search + at) {
        let inside = &text[open + 2..];
        if !inside.trim_start().starts_with("tasks.") {
            // A third brace may begin a reference one byte later.
            search = open + 1;
            continue;
        }
        let backslashes = text[literal..open].bytes().rev().take_while(|byte| *byte == b'\\').count();
        push_text(&mut parts, &text[literal..open - backslashes.div_ceil(2)]);
        if backslashes % 2 == 1 {
            (literal, search) = (open, open + 2);
            continue;
        }
        let close = inside.find("}}").ok_or(TemplateError::Unclosed)?;
        parts.push(Part::Reference(reference(inside[..close].trim())?));
        search = open + 2 + close + 2;
        literal = search;
    }
    push_text(&mut parts, &text[literal..]);
    if parts.is_empty() {
        parts.push(Part::Text(""));
    }
    Ok(parts)
}

fn push_text<'a>(parts: &mut Vec<Part<'a>>, text: &'a str) {
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
}

fn reference(text: &str) -> Result<Reference, TemplateError> {
    let mut words = text.split('.');
    match (words.next(), words.next(), words.next()) {
        (Some("tasks"), Some(key), Some("output")) if !key.is_empty() => {
            let path: Vec<String> = words.map(str::to_owned).collect();
            if path.iter().any(String::is_empty) {
                return Err(TemplateError::Malformed(text.into()));
            }
            Ok(Reference { key: key.into(), path })
        }
        _ => Err(TemplateError::Malformed(text.into())),
    }
}

#[cfg(test)]
mod tests;
