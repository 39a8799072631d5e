//! The answer of an action on the wire.

use phoenix_domain::action::ActionResult;
use serde_json::{Map, Value};

use crate::{InvalidField, common};

impl From<&ActionResult> for common::ActionOutput {
    fn from(ActionResult { output_type, data, metadata }: &ActionResult) -> Self {
        Self {
            output_type: output_type.clone(),
            data_json: data.to_string(),
            metadata_json: if metadata.is_empty() { String::new() } else { json_text(metadata) },
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
            data: serde_json::from_str(&data_json).map_err(|e| InvalidField::new("data_json", e))?,
            metadata: json_object("metadata_json", &metadata_json)?,
        })
    }
}

/// A JSON object that travels as text; empty text is an empty object.
///
/// # Errors
/// When the text is anything else.
pub fn json_object(field: &'static str, text: &str) -> Result<Map<String, Value>, InvalidField> {
    if text.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(text).map_err(|e| InvalidField::new(field, format!("must be a JSON object: {e}")))
}

/// A JSON object as text.
#[must_use]
pub fn json_text(object: &Map<String, Value>) -> String {
    // A map with string keys has no value that can't be written.
    serde_json::to_string(object).unwrap_or_default()
}
