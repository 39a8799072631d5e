//! JSON that passes through Phoenix without being changed.
//!
//! `serde_json::Value` cannot carry it: a number becomes 64 bits wide, and a member whose name is one of serde's private
//! names becomes something else. [`Json`] keeps a number as the digits that were sent, every member under its name, and
//! members in their order. Two members of one name count as the last of them, as in every common parser
//! ([RFC 8259, section 4](https://www.rfc-editor.org/rfc/rfc8259#section-4)).
//!
//! Text is parsed without recursion and refused when it is nested too deep, so a value that exists can be written, compared
//! and dropped with a bounded stack.

use std::{borrow::Cow, fmt, ops};

use indexmap::IndexMap;
use json_event_parser::{JsonEvent, JsonSyntaxError, LowLevelJsonParser};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, Unexpected},
    ser::{Error as _, SerializeMap, SerializeSeq},
};
use serde_json::value::RawValue;

use crate::limits::{MAX_DEPTH, MAX_STORED_DEPTH};

/// A JSON value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Json {
    /// `null`.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number of any length.
    Number(Number),
    /// Text.
    String(String),
    /// A list.
    Array(Vec<Self>),
    /// Members by name.
    Object(Object),
}

/// A number, as the text that was sent. Two numbers are equal when their texts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Number(Box<str>);

/// A JSON object. Its members keep their order; equality does not depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Object(IndexMap<String, Json>);

/// Text that is no JSON value, or one that is nested too deep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// It is not JSON.
    #[error("is not valid JSON at line {line} column {column}: {problem}")]
    Syntax {
        /// What is wrong.
        problem: String,
        /// From 1.
        line: u64,
        /// From 1.
        column: u64,
    },
    /// It is nested deeper than allowed.
    #[error("is nested {found} levels deep; at most {limit} are allowed")]
    TooDeep {
        /// Levels found.
        found: usize,
        /// Levels allowed.
        limit: usize,
    },
    /// It is JSON of another kind.
    #[error("must be a JSON object")]
    NotAnObject,
}

impl Json {
    /// The value that `text` holds, at most [`MAX_DEPTH`] levels deep.
    ///
    /// # Errors
    /// When it is not one JSON value, or nested too deep.
    pub fn parse(text: &str) -> Result<Self, JsonError> {
        Self::parse_to(text, MAX_DEPTH)
    }

    /// The same for what a journal holds, which may be older than the limit.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_stored(text: &str) -> Result<Self, JsonError> {
        Self::parse_to(text, MAX_STORED_DEPTH)
    }

    fn parse_to(text: &str, limit: usize) -> Result<Self, JsonError> {
        let mut parser = LowLevelJsonParser::new().with_max_stack_size(text.len());
        let mut rest = text.as_bytes();
        let mut builder = Builder::default();
        let mut deepest = 0;
        loop {
            let parsed = parser.parse_next(rest, true);
            rest = &rest[parsed.consumed_bytes..];
            // All of the text is there, so no event is held back for more of it.
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
            // What is too deep is read to its end, to tell how deep it is, and not kept.
            if deepest <= limit {
                builder.add(event);
            }
        }
        if deepest > limit {
            return Err(JsonError::TooDeep { found: deepest, limit });
        }
        Ok(builder.value)
    }

    /// Levels of objects and arrays inside each other; 0 for a plain value.
    #[must_use]
    pub fn depth(&self) -> usize {
        match self {
            Self::Array(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            Self::Object(members) => members.depth(),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::String(_) => 0,
        }
    }

    /// Bytes of the value as compact JSON, without writing it.
    #[must_use]
    pub fn text_len(&self) -> usize {
        match self {
            Self::Null => 4,
            Self::Bool(true) => 4,
            Self::Bool(false) => 5,
            Self::Number(Number(text)) => text.len(),
            Self::String(text) => 2 + escaped_len(text),
            Self::Array(items) => {
                2 + items.len().saturating_sub(1) + items.iter().map(Self::text_len).sum::<usize>()
            }
            Self::Object(members) => members.text_len(),
        }
    }

    /// The text, of a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// Puts the members of every object into the order of their names, for a canonical form.
    pub fn sort_members(&mut self) {
        match self {
            Self::Array(items) => items.iter_mut().for_each(Self::sort_members),
            Self::Object(members) => {
                members.sort_unstable_keys();
                members.values_mut().for_each(Self::sort_members);
            }
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::String(_) => {}
        }
    }

    /// Whether it is `null`.
    #[must_use]
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The value, of `true` or `false`.
    #[must_use]
    pub const fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(value) = self { Some(*value) } else { None }
    }

    /// The nearest float, of a number.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        if let Self::Number(number) = self { Some(number.to_f64()) } else { None }
    }

    /// The items, of a list.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Self]> {
        if let Self::Array(items) = self { Some(items) } else { None }
    }

    /// The members, of an object.
    #[must_use]
    pub const fn as_object(&self) -> Option<&Object> {
        if let Self::Object(members) = self { Some(members) } else { None }
    }

    /// What a reader sees: text as it is, anything else as compact JSON.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// The value for a library that knows only `serde_json`: numbers beyond 64 bits become the nearest float.
    #[must_use]
    pub fn to_value(&self) -> serde_json::Value {
        use serde_json::Value;
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(number) => Value::Number(number.nearest()),
            Self::String(text) => Value::String(text.clone()),
            Self::Array(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Self::Object(members) => members.to_value(),
        }
    }
}

impl Object {
    /// An object without members.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The object that `text` holds, at most [`MAX_DEPTH`] levels deep.
    ///
    /// # Errors
    /// When it is not one JSON object, or nested too deep.
    pub fn parse(text: &str) -> Result<Self, JsonError> {
        Json::parse(text)?.try_into()
    }

    /// The same for what a journal holds, which may be older than the limit.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_stored(text: &str) -> Result<Self, JsonError> {
        Json::parse_stored(text)?.try_into()
    }

    /// As [`Json::depth`].
    #[must_use]
    pub fn depth(&self) -> usize {
        1 + self.values().map(Json::depth).max().unwrap_or(0)
    }

    /// As [`Json::text_len`].
    #[must_use]
    pub fn text_len(&self) -> usize {
        let members = self.iter().map(|(name, value)| 3 + escaped_len(name) + value.text_len());
        2 + self.len().saturating_sub(1) + members.sum::<usize>()
    }

    /// As [`Json::to_value`].
    #[must_use]
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::Value::Object(self.iter().map(|(name, value)| (name.clone(), value.to_value())).collect())
    }
}

/// Bytes of `text` inside a JSON string, as `serde_json` escapes it.
pub(crate) fn escaped_len(text: &str) -> usize {
    let extra = |byte: &u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 1,
        0x00..=0x1f => 5,
        _ => 0,
    };
    text.len() + text.as_bytes().iter().map(extra).sum::<usize>()
}

/// A value in the making: what is open, and what was last completed.
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

impl Number {
    /// The number as it was sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As an integer, if it is written as one of 64 bits. `-0` is not: its sign would be lost.
    fn integer(&self) -> Option<i64> {
        self.0.parse().ok().filter(|integer| *integer != 0 || &*self.0 == "0")
    }

    /// The nearest number of `serde_json`.
    fn nearest(&self) -> serde_json::Number {
        if let Some(integer) = self.integer() {
            return integer.into();
        }
        if let Ok(unsigned) = self.0.parse::<u64>() {
            return unsigned.into();
        }
        serde_json::Number::from_f64(self.to_f64()).unwrap_or_else(|| 0.into())
    }

    /// The nearest float. A number that is too large for one is the largest there is.
    #[must_use]
    pub fn to_f64(&self) -> f64 {
        self.0.parse::<f64>().unwrap_or_default().clamp(f64::MIN, f64::MAX)
    }
}

/// The member of an object; null where there is none.
impl ops::Index<&str> for Json {
    type Output = Self;

    fn index(&self, name: &str) -> &Self {
        self.as_object().and_then(|members| members.get(name)).unwrap_or(&Self::Null)
    }
}

/// The item of a list; null where there is none.
impl ops::Index<usize> for Json {
    type Output = Self;

    fn index(&self, index: usize) -> &Self {
        self.as_array().and_then(|items| items.get(index)).unwrap_or(&Self::Null)
    }
}

impl PartialEq<serde_json::Value> for Json {
    fn eq(&self, other: &serde_json::Value) -> bool {
        let other = Self::from(other.clone());
        *self == other
    }
}

impl PartialEq<bool> for Json {
    fn eq(&self, other: &bool) -> bool {
        self.as_bool() == Some(*other)
    }
}

impl PartialEq<str> for Json {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == Some(other)
    }
}

impl PartialEq<&str> for Json {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

impl ops::Deref for Object {
    type Target = IndexMap<String, Json>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl ops::DerefMut for Object {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl FromIterator<(String, Json)> for Object {
    fn from_iter<I: IntoIterator<Item = (String, Json)>>(members: I) -> Self {
        Self(members.into_iter().collect())
    }
}

impl IntoIterator for Object {
    type Item = (String, Json);
    type IntoIter = indexmap::map::IntoIter<String, Json>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Object {
    type Item = (&'a String, &'a Json);
    type IntoIter = indexmap::map::Iter<'a, String, Json>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl TryFrom<Json> for Object {
    type Error = JsonError;

    fn try_from(value: Json) -> Result<Self, JsonError> {
        if let Json::Object(members) = value { Ok(members) } else { Err(JsonError::NotAnObject) }
    }
}

impl From<serde_json::Value> for Json {
    fn from(value: serde_json::Value) -> Self {
        use serde_json::Value;
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(value),
            Value::Number(number) => Self::Number(Number(number.to_string().into())),
            Value::String(text) => Self::String(text),
            Value::Array(items) => Self::Array(items.into_iter().map(Self::from).collect()),
            Value::Object(members) => Self::Object(members.into()),
        }
    }
}

impl From<serde_json::Map<String, serde_json::Value>> for Object {
    fn from(members: serde_json::Map<String, serde_json::Value>) -> Self {
        members.into_iter().map(|(name, value)| (name, value.into())).collect()
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<Object> for Json {
    fn from(members: Object) -> Self {
        Self::Object(members)
    }
}

macro_rules! integers {
    ($($integer:ty),+) => { $(
        impl From<$integer> for Json {
            fn from(number: $integer) -> Self {
                Self::Number(Number(number.to_string().into()))
            }
        }
    )+ };
}

impl PartialEq<i32> for Json {
    fn eq(&self, other: &i32) -> bool {
        matches!(self, Self::Number(number) if number.integer() == Some(i64::from(*other)))
    }
}

integers!(i32, i64, u32, u64, usize);

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_json(self, f)
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_json(self, f)
    }
}

fn write_json(value: &impl Serialize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    // Names are strings and numbers are JSON, so there is nothing that cannot be written.
    f.write_str(&serde_json::to_string(value).map_err(|_| fmt::Error)?)
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => to.serialize_unit(),
            Self::Bool(value) => to.serialize_bool(*value),
            Self::Number(number) => match number.integer() {
                Some(integer) => to.serialize_i64(integer),
                // Raw text is what a serializer of `serde_json` writes digit for digit.
                None => RawValue::from_string(number.0.to_string()).map_err(S::Error::custom)?.serialize(to),
            },
            Self::String(text) => to.serialize_str(text),
            Self::Array(items) => {
                let mut list = to.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| list.serialize_element(item))?;
                list.end()
            }
            Self::Object(members) => members.serialize(to),
        }
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.len()))?;
        self.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
        map.end()
    }
}

/// From the text of a `serde_json` deserializer; others have lost what is to be kept.
impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(from)?;
        Self::parse(raw.get()).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Json::deserialize(from)? {
            Json::Object(members) => Ok(members),
            Json::Null => Err(D::Error::invalid_type(Unexpected::Unit, &"an object")),
            Json::Bool(value) => Err(D::Error::invalid_type(Unexpected::Bool(value), &"an object")),
            Json::Number(_) => Err(D::Error::invalid_type(Unexpected::Other("a number"), &"an object")),
            Json::String(_) => Err(D::Error::invalid_type(Unexpected::Other("a string"), &"an object")),
            Json::Array(_) => Err(D::Error::invalid_type(Unexpected::Seq, &"an object")),
        }
    }
}

/// `text` with every escaped half of a surrogate pair that has no other half replaced by the escaped replacement character
/// U+FFFD. UTF-8 cannot hold such a half, and programs that cut text in the middle of a character write them.
#[must_use]
pub fn replace_lone_surrogates(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut replaced: Option<String> = None;
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = bytes[at..].iter().position(|byte| *byte == b'\\') {
        let escape = at + found;
        at = match code_unit(&bytes[escape..]) {
            Some(0xd800..=0xdbff) if matches!(code_unit(&bytes[escape + 6..]), Some(0xdc00..=0xdfff)) => {
                escape + 12
            }
            Some(0xd800..=0xdfff) => {
                let text_so_far = replaced.get_or_insert_with(|| String::with_capacity(text.len()));
                text_so_far.push_str(&text[copied..escape]);
                text_so_far.push_str("\\ufffd");
                copied = escape + 6;
                copied
            }
            Some(_) => escape + 6,
            // The byte after the backslash belongs to the escape, whatever it is.
            None => (escape + 2).min(bytes.len()),
        };
    }
    match replaced {
        Some(mut replaced) => {
            replaced.push_str(&text[copied..]);
            Cow::Owned(replaced)
        }
        None => Cow::Borrowed(text),
    }
}

/// The UTF-16 code unit that `bytes` begin with as `\uXXXX`.
fn code_unit(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    let digits =
        std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests;
