//! Conversions from and to other types, indexing and comparisons.

use std::ops;

use indexmap::IndexMap;

use super::{Json, JsonError, Number, Object};

/// The member of an object, or null.
impl ops::Index<&str> for Json {
    type Output = Self;

    fn index(&self, name: &str) -> &Self {
        self.as_object().and_then(|members| members.get(name)).unwrap_or(&Self::Null)
    }
}

/// The item of an array, or null.
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

impl<T: Into<Self>> From<Vec<T>> for Json {
    fn from(items: Vec<T>) -> Self {
        Self::Array(items.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Self>, const N: usize> From<[T; N]> for Json {
    fn from(items: [T; N]) -> Self {
        Self::Array(items.into_iter().map(Into::into).collect())
    }
}

/// The shortest digits that mean this float. One that is not finite becomes null.
impl From<f64> for Json {
    fn from(float: f64) -> Self {
        serde_json::Number::from_f64(float)
            .map_or(Self::Null, |number| Self::Number(Number(number.to_string().into())))
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
