//! A body with any members, kept as they were sent.

use std::fmt;

use phoenix_domain::{
    OrchestratorError,
    json::{Json, Object},
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};

/// The members of a body. The APIs of models accept unknown ones, which differ between providers and change with every release
/// of a client.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct AnyMembers(Object);

impl<'de> Deserialize<'de> for AnyMembers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = AnyMembers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AnyMembers, A::Error> {
                let mut members = Object::new();
                while let Some((name, value)) = map.next_entry::<String, Json>()? {
                    members.insert(name, value);
                }
                Ok(AnyMembers(members))
            }
        }

        from.deserialize_map(Members)
    }
}

impl AnyMembers {
    /// A member; absent when it was not sent.
    pub(crate) fn get(&self, name: &str) -> Option<&Json> {
        self.0.get(name)
    }

    /// Takes a member out; null when it is absent.
    pub(crate) fn take(&mut self, name: &str) -> Json {
        self.0.shift_remove(name).unwrap_or_default()
    }

    /// Takes a boolean out; false when it is absent.
    ///
    /// # Errors
    /// `validation_failed` for another type.
    pub(crate) fn take_flag(&mut self, name: &str) -> Result<bool, OrchestratorError> {
        optional_flag(name, &self.take(name))
    }

    /// Takes the name of the model out.
    ///
    /// # Errors
    /// `validation_failed` when it is absent or no string.
    pub(crate) fn take_model(&mut self) -> Result<String, OrchestratorError> {
        match self.take("model") {
            Json::String(model) => Ok(model),
            Json::Null => Err(OrchestratorError::invalid("model", "is missing")),
            _ => Err(OrchestratorError::invalid("model", "must be a string")),
        }
    }

    /// Takes the messages out.
    ///
    /// # Errors
    /// `validation_failed` when they are absent.
    pub(crate) fn take_messages(&mut self) -> Result<Json, OrchestratorError> {
        match self.take("messages") {
            Json::Null => Err(OrchestratorError::invalid("messages", "is missing")),
            messages => Ok(messages),
        }
    }

    /// The members that were not taken out.
    pub(crate) fn rest(self) -> Object {
        self.0
    }
}

/// A boolean; false when it is null.
///
/// # Errors
/// `validation_failed` that names `field` for another type.
pub(crate) fn optional_flag(field: &str, value: &Json) -> Result<bool, OrchestratorError> {
    match value {
        Json::Null => Ok(false),
        value => value.as_bool().ok_or_else(|| OrchestratorError::invalid(field, "must be a boolean")),
    }
}
