//! Templates in a task's input: `{{tasks.KEY.output}}` is the output of an earlier task, or a part of it.
//!
//! A string that consists of one reference becomes the referenced JSON value of any type. A reference inside a longer string
//! becomes text: a string as it is, any other value as JSON. `{{tasks.KEY.output.items.0.name}}` selects object members by
//! name and array items by index. A path leads into an output that is text if the text is a JSON object or array, as answers of
//! language models are. Double braces that do not start with `tasks.` are unchanged, so that inputs may contain
//! templates of other systems.
//!
//! A backslash directly before a reference escapes it and is removed: `\{{tasks.KEY.output}}` is the text
//! `{{tasks.KEY.output}}`. Two backslashes stand for one: `\\{{tasks.KEY.output}}` is a backslash and the output. Backslashes
//! elsewhere are unchanged.

mod reference;
mod target;

use std::collections::HashMap;

pub use self::reference::{Reference, Referent, TemplateError};
use self::target::{ParsedTexts, follow};
use crate::{
    json::{Json, Object, escaped_len},
    limits::{MAX_DEPTH, MAX_FILLED_INPUT_BYTES},
};

/// The references in `payload`.
///
/// # Errors
/// The first malformed reference.
pub fn references(payload: &Object) -> Result<Vec<Reference>, TemplateError> {
    let mut found = Vec::new();
    for value in payload.values() {
        collect(value, &mut found)?;
    }
    Ok(found)
}

/// JSON pointers (RFC 6901) to the strings of `payload` with references. Malformed references are ignored.
#[must_use]
pub fn pointers(payload: &Object) -> Vec<String> {
    let mut found = Vec::new();
    let mut pointer = String::new();
    for (name, value) in payload {
        find_pointers(value, name, &mut pointer, &mut found);
    }
    found
}

/// Searches the member `name` of the value at `pointer`.
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

/// Renders `payload`: replaces every reference by its target. `output` returns the output of a task.
///
/// The result is measured before it is built, so memory is bounded by [`MAX_FILLED_INPUT_BYTES`], however often an output is
/// referenced.
///
/// # Errors
/// When a reference has no target, or the rendered input is too large or too deep.
pub fn render<'a>(payload: &Object, output: &impl Fn(&str) -> Referent<'a>) -> Result<Object, TemplateError> {
    let parsed = ParsedTexts::of(&references(payload)?, output);
    let targets = Targets { output, parsed: &parsed };
    let mut measure = Measure { targets, known: HashMap::new() };
    let Size { bytes, depth } = measure.object(payload)?;
    if bytes > MAX_FILLED_INPUT_BYTES {
        return Err(TemplateError::TooLarge { found: bytes, limit: MAX_FILLED_INPUT_BYTES });
    }
    if depth > MAX_DEPTH {
        return Err(TemplateError::TooDeep { found: depth, limit: MAX_DEPTH });
    }
    targets.render_object(payload)
}

/// What references may lead to.
#[derive(Debug)]
struct Targets<'p, F> {
    output: &'p F,
    parsed: &'p ParsedTexts,
}

impl<F> Clone for Targets<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Targets<'_, F> {}

/// Size of a value: bytes as compact JSON or inside a string, and depth.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    bytes: usize,
    depth: usize,
}

/// Measures a rendered input. Each reference is resolved once.
struct Measure<'p, F> {
    targets: Targets<'p, F>,
    /// By reference: the size as a value, and the bytes inside a string.
    known: HashMap<Reference, (Size, usize)>,
}

impl<'p, 'a: 'p, F: Fn(&str) -> Referent<'a>> Measure<'p, F> {
    fn object(&mut self, members: &Object) -> Result<Size, TemplateError> {
        let mut size = Size { bytes: 2 + members.len().saturating_sub(1), depth: 1 };
        for (name, value) in members {
            size.bytes = size.bytes.saturating_add(3 + escaped_len(name));
            size.add(self.value(value)?);
        }
        Ok(size)
    }

    fn value(&mut self, value: &Json) -> Result<Size, TemplateError> {
        match value {
            Json::String(text) => self.text(text),
            Json::Array(items) => {
                let mut size = Size { bytes: 2 + items.len().saturating_sub(1), depth: 1 };
                for item in items {
                    size.add(self.value(item)?);
                }
                Ok(size)
            }
            Json::Object(members) => self.object(members),
            plain => Ok(Size { bytes: plain.text_len(), depth: 0 }),
        }
    }

    fn text(&mut self, text: &str) -> Result<Size, TemplateError> {
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
        Ok(Size { bytes, depth: 0 })
    }

    fn referent(&mut self, reference: &Reference) -> Result<(Size, usize), TemplateError> {
        if let Some(known) = self.known.get(reference) {
            return Ok(*known);
        }
        let found = self.targets.follow(reference)?;
        let size = Size { bytes: found.text_len(), depth: found.depth() };
        let inside = match found {
            Json::String(_) => size.bytes - 2,
            Json::Array(_) | Json::Object(_) => escaped_len(&found.to_string()),
            Json::Null | Json::Bool(_) | Json::Number(_) => size.bytes,
        };
        self.known.insert(reference.clone(), (size, inside));
        Ok((size, inside))
    }
}

impl Size {
    /// Adds the size of a part.
    fn add(&mut self, part: Self) {
        self.bytes = self.bytes.saturating_add(part.bytes);
        self.depth = self.depth.max(1 + part.depth);
    }
}

impl<'p, 'a: 'p, F: Fn(&str) -> Referent<'a>> Targets<'p, F> {
    fn follow(self, reference: &Reference) -> Result<&'p Json, TemplateError> {
        follow(reference, self.output, self.parsed)
    }

    fn render_object(self, payload: &Object) -> Result<Object, TemplateError> {
        payload.iter().map(|(name, value)| Ok((name.clone(), self.render_value(value)?))).collect()
    }

    fn render_value(self, value: &Json) -> Result<Json, TemplateError> {
        Ok(match value {
            Json::String(text) => self.render_text(text)?,
            Json::Array(items) => {
                Json::Array(items.iter().map(|item| self.render_value(item)).collect::<Result<_, _>>()?)
            }
            Json::Object(members) => Json::Object(self.render_object(members)?),
            plain => plain.clone(),
        })
    }

    fn render_text(self, text: &str) -> Result<Json, TemplateError> {
        let parts = parse(text)?;
        if let [Part::Reference(reference)] = &parts[..] {
            return self.follow(reference).cloned();
        }
        let mut rendered = String::with_capacity(text.len());
        for part in parts {
            match part {
                Part::Text(text) => rendered.push_str(text),
                Part::Reference(reference) => match self.follow(&reference)? {
                    Json::String(text) => rendered.push_str(text),
                    other => rendered.push_str(&other.to_string()),
                },
            }
        }
        Ok(Json::String(rendered))
    }
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
            // With a third brace, a reference may begin one byte later.
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
