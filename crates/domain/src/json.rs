//! JSON values that pass through Phoenix unchanged.
//!
//! `serde_json::Value` changes them: a number becomes 64 bits wide, and a member with one of serde's private names is replaced.
//! [`Json`] keeps the digits of numbers, every member under its name, and the order of members. Of two members with one name
//! the last counts, as in common parsers ([RFC 8259, section 4](https://www.rfc-editor.org/rfc/rfc8259#section-4)).
//!
//! Parsing does not recurse and rejects values that are nested too deep, so an existing value can be written, compared and
//! dropped with a bounded stack.

mod convert;
mod number;
mod parse;
mod serialize;
mod surrogates;

use indexmap::IndexMap;

pub use self::surrogates::replace_lone_surrogates;

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
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Self>),
    /// An object.
    Object(Object),
}

/// A number as text. Two numbers are equal when their texts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Number(Box<str>);

/// A JSON object. Members keep their order, which does not matter for equality.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Object(IndexMap<String, Json>);

/// An [`Object`] with these members: `object! { "role": "system", "content": text }`.
#[macro_export]
macro_rules! object {
    ($($name:literal: $value:expr),* $(,)?) => {
        <$crate::json::Object as ::core::iter::FromIterator<_>>::from_iter([
            $(($name.to_owned(), $crate::json::Json::from($value))),*
        ])
    };
}

/// Error of parsing JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// The text is not JSON.
    #[error("is not valid JSON at line {line} column {column}: {problem}")]
    Syntax {
        /// Problem.
        problem: String,
        /// Line, from 1.
        line: u64,
        /// Column, from 1.
        column: u64,
    },
    /// A string, or a name, has an escaped half of a surrogate pair: JSON, but no text.
    #[error("must not contain half of a surrogate pair, such as `\\ud83d` alone: it is no character")]
    LoneSurrogate,
    /// The value is nested too deep.
    #[error("is nested {found} levels deep; at most {limit} are allowed")]
    TooDeep {
        /// Depth of the value.
        found: usize,
        /// Allowed depth.
        limit: usize,
    },
    /// The value is not an object.
    #[error("must be a JSON object")]
    NotAnObject,
}

impl Json {
    /// Nesting depth of objects and arrays; 0 for a scalar.
    #[must_use]
    pub fn depth(&self) -> usize {
        match self {
            Self::Array(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            Self::Object(members) => members.depth(),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::String(_) => 0,
        }
    }

    /// Size of the value as compact JSON in bytes, computed without writing it.
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

    /// The text of a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// Sorts the members of every object by name, for a canonical form.
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

    /// Whether the value is `null`.
    #[must_use]
    pub const fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The value of a boolean.
    #[must_use]
    pub const fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(value) = self { Some(*value) } else { None }
    }

    /// The nearest float of a number.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        if let Self::Number(number) = self { Some(number.to_f64()) } else { None }
    }

    /// The number as an integer, if it is written as one of 64 bits without a sign.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        if let Self::Number(number) = self { number.as_str().parse().ok() } else { None }
    }

    /// The number as an integer, if it is written as one of 64 bits with a sign.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        if let Self::Number(number) = self { number.integer() } else { None }
    }

    /// The member `name` of an object.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Self> {
        self.as_object()?.get(name)
    }

    /// Whether the value is an object.
    #[must_use]
    pub const fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    /// The items of an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Self]> {
        if let Self::Array(items) = self { Some(items) } else { None }
    }

    /// The members of an object.
    #[must_use]
    pub const fn as_object(&self) -> Option<&Object> {
        if let Self::Object(members) = self { Some(members) } else { None }
    }

    /// The value for display: a string as it is, any other value as compact JSON.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// The value for libraries based on `serde_json`: numbers beyond 64 bits become the nearest float. Only for a look at the
    /// value: data that is passed on keeps its digits as a [`Json`].
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
    /// An empty object.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the member `name`.
    pub fn set(&mut self, name: &str, value: impl Into<Json>) {
        self.insert(name.to_owned(), value.into());
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

/// Size of `text` inside a JSON string in bytes, as `serde_json` escapes it.
pub(crate) fn escaped_len(text: &str) -> usize {
    let extra = |byte: &u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 1,
        0x00..=0x1f => 5,
        _ => 0,
    };
    text.len() + text.as_bytes().iter().map(extra).sum::<usize>()
}

#[cfg(test)]
mod tests;
