//! Serialization: text, and `serde`.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, Unexpected},
    ser::{Error as _, SerializeMap, SerializeSeq},
};
use serde_json::value::RawValue;

use super::{Json, Object};

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
    // Cannot fail: names are strings, and numbers are valid JSON.
    f.write_str(&serde_json::to_string(value).map_err(|_| fmt::Error)?)
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => to.serialize_unit(),
            Self::Bool(value) => to.serialize_bool(*value),
            Self::Number(number) => match number.integer() {
                Some(integer) => to.serialize_i64(integer),
                // A serializer of `serde_json` writes raw text unchanged.
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

/// Works with deserializers of `serde_json` text only; others do not keep the digits.
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
