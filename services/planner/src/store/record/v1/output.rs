//! Stored output of running tasks.

use phoenix_domain::json::Object;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::store::{
    entry::OutputPart,
    record::{unusable::Unusable, v1::value::raw},
};

/// A part of what an agent says before it ends.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PartV1 {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    delta: Option<Box<RawValue>>,
}

impl From<&OutputPart> for PartV1 {
    fn from(OutputPart { text, delta }: &OutputPart) -> Self {
        Self { text: text.clone(), delta: delta.as_ref().map(raw) }
    }
}

impl TryFrom<PartV1> for OutputPart {
    type Error = Unusable;

    fn try_from(PartV1 { text, delta }: PartV1) -> Result<Self, Unusable> {
        let delta = delta.map(|delta| Object::parse_stored(delta.get())).transpose()?;
        Ok(Self { text, delta })
    }
}
