//! Results of actions on the wire.

use phoenix_domain::{
    action::ActionResult,
    json::{Json, Object},
};
use serde_json::value::RawValue;

use crate::{InvalidField, common};

impl From<&ActionResult> for common::ActionOutput {
    fn from(ActionResult { output_type, data, metadata }: &ActionResult) -> Self {
        Self {
            output_type: output_type.clone(),
            data_json: data.to_string(),
            metadata_json: if metadata.is_empty() { String::new() } else { metadata.to_string() },
        }
    }
}

impl TryFrom<common::ActionOutput> for ActionResult {
    type Error = InvalidField;

    fn try_from(
        common::ActionOutput { output_type, data_json, metadata_json }: common::ActionOutput,
    ) -> Result<Self, InvalidField> {
        Ok(Self {
            output_type,
            data: Json::parse(&data_json).map_err(|problem| InvalidField::new("data_json", problem))?,
            metadata: json_object("metadata_json", &metadata_json)?,
        })
    }
}

impl common::ActionOutput {
    /// Finish reason of an incomplete result; `None` for a complete one, and without metadata.
    #[must_use]
    pub fn finish_reason(&self) -> Option<String> {
        let metadata = json_object("metadata_json", &self.metadata_json).ok()?;
        phoenix_domain::action::finish_reason(&metadata)
    }
}

/// Parses a JSON object that is sent as text; empty text is an empty object.
///
/// # Errors
/// When the text is not a JSON object.
pub fn json_object(field: &'static str, text: &str) -> Result<Object, InvalidField> {
    if text.is_empty() {
        return Ok(Object::new());
    }
    Object::parse(text).map_err(|problem| InvalidField::new(field, problem))
}

/// JSON that is sent as text, passed on unchanged; empty text is an empty object.
///
/// # Errors
/// When the text is not JSON.
pub fn raw_json(field: &'static str, text: String) -> Result<Box<RawValue>, InvalidField> {
    let text = if text.is_empty() { "{}".to_owned() } else { text };
    RawValue::from_string(text).map_err(|problem| InvalidField::new(field, problem))
}
