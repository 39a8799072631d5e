//! Parsing without recursion.

use std::borrow::Cow;

use json_event_parser::{JsonEvent, JsonSyntaxError, LowLevelJsonParser};

use super::{Json, JsonError, Number, Object, replace_lone_surrogates};
use crate::limits::{MAX_DEPTH, MAX_STORED_DEPTH};

impl Json {
    /// Parses one JSON value, at most [`MAX_DEPTH`] levels deep.
    ///
    /// # Errors
    /// When `text` is not one JSON value, or nested too deep.
    pub fn parse(text: &str) -> Result<Self, JsonError> {
        Self::parse_to(text, MAX_DEPTH)
    }

    /// As [`parse`](Self::parse), for values of a journal that may be older than the limit.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_stored(text: &str) -> Result<Self, JsonError> {
        Self::parse_to(text, MAX_STORED_DEPTH)
    }

    fn parse_to(text: &str, limit: usize) -> Result<Self, JsonError> {
        let parsed = Self::parse_text(text, limit);
        if let (Err(JsonError::Syntax { .. }), Cow::Owned(repaired)) =
            (&parsed, replace_lone_surrogates(text))
            && !matches!(Self::parse_text(&repaired, limit), Err(JsonError::Syntax { .. }))
        {
            return Err(JsonError::LoneSurrogate);
        }
        parsed
    }

    fn parse_text(text: &str, limit: usize) -> Result<Self, JsonError> {
        let mut parser = LowLevelJsonParser::new().with_max_stack_size(text.len());
        let mut rest = text.as_bytes();
        let mut builder = Builder::default();
        let mut deepest = 0;
        loop {
            let parsed = parser.parse_next(rest, true);
            rest = &rest[parsed.consumed_bytes..];
            // The text is complete, so every event is available.
            let Some(event) = parsed.event.transpose()? else { continue };
            match event {
                JsonEvent::Eof => break,
                JsonEvent::StartArray | JsonEvent::StartObject => {
                    builder.depth += 1;
                    deepest = deepest.max(builder.depth);
                }
                JsonEvent::EndArray | JsonEvent::EndObject => builder.depth -= 1,
                _ => {}
            }
            // A value that is too deep is parsed for its depth, and not kept.
            if deepest <= limit {
                builder.add(event);
            }
        }
        if deepest > limit {
            return Err(JsonError::TooDeep { found: deepest, limit });
        }
        Ok(builder.value)
    }
}

impl Object {
    /// Parses one JSON object, at most [`MAX_DEPTH`] levels deep.
    ///
    /// # Errors
    /// When `text` is not one JSON object, or nested too deep.
    pub fn parse(text: &str) -> Result<Self, JsonError> {
        Json::parse(text)?.try_into()
    }

    /// As [`parse`](Self::parse), for values of a journal that may be older than the limit.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_stored(text: &str) -> Result<Self, JsonError> {
        Json::parse_stored(text)?.try_into()
    }
}

/// A value under construction: open containers, and the last complete value.
#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    value: Json,
    depth: usize,
}

enum Open {
    Array(Vec<Json>),
    Object(Object, String),
}

impl Builder {
    fn add(&mut self, event: JsonEvent<'_>) {
        let value = match event {
            JsonEvent::Null => Json::Null,
            JsonEvent::Boolean(value) => Json::Bool(value),
            JsonEvent::Number(text) => Json::Number(Number(text.into())),
            JsonEvent::String(text) => Json::String(text.into_owned()),
            JsonEvent::StartArray => return self.open.push(Open::Array(Vec::new())),
            JsonEvent::StartObject => return self.open.push(Open::Object(Object::new(), String::new())),
            JsonEvent::ObjectKey(key) => {
                if let Some(Open::Object(_, name)) = self.open.last_mut() {
                    *name = key.into_owned();
                }
                return;
            }
            JsonEvent::EndArray | JsonEvent::EndObject => match self.open.pop() {
                Some(Open::Array(items)) => Json::Array(items),
                Some(Open::Object(members, _)) => Json::Object(members),
                None => return,
            },
            JsonEvent::Eof => return,
        };
        match self.open.last_mut() {
            Some(Open::Array(items)) => items.push(value),
            Some(Open::Object(members, name)) => drop(members.insert(std::mem::take(name), value)),
            None => self.value = value,
        }
    }
}

impl From<JsonSyntaxError> for JsonError {
    fn from(error: JsonSyntaxError) -> Self {
        let start = error.location().start;
        Self::Syntax { problem: error.message().to_owned(), line: start.line + 1, column: start.column + 1 }
    }
}
