//! `[agents.NAME.actions.ACTION]`: the actions of an agent and their input schemas.

use std::path::Path;

use phoenix_domain::{
    agent::ActionSpec,
    json::{Json, Object},
    schema::InputSchema,
};
use serde::Deserialize;

use super::problems::Problems;

/// One `[agents.NAME.actions.ACTION]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ActionTable {
    description: String,
    /// A JSON schema as a table, or the path of a JSON file that holds one.
    input_schema: Option<toml::Value>,
}

impl ActionTable {
    /// The action. The path of a schema is relative to `folder`, the folder of the configuration file.
    pub(super) fn action(&self, at: &str, folder: &Path, problems: &mut Problems) -> ActionSpec {
        let Self { description, input_schema } = self;
        let input_schema = input_schema.as_ref().and_then(|source| {
            let at = format!("{at}.input_schema");
            let source = match source {
                toml::Value::String(path) => read(&folder.join(path)),
                inline => Ok(json(inline)),
            };
            let schema = source.and_then(|source| match InputSchema::new(source) {
                Ok(schema) => Ok(schema),
                Err(invalid) => Err(format!("is no JSON schema: {invalid}")),
            });
            schema.map_err(|problem| problems.add(at, problem)).ok()
        });
        ActionSpec { description: description.clone(), input_schema, ..ActionSpec::default() }
    }
}

fn read(path: &Path) -> Result<Json, String> {
    let cannot = |problem: &dyn std::fmt::Display| format!("{} cannot be read: {problem}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| cannot(&error))?;
    Json::parse_stored(&text).map_err(|error| cannot(&error))
}

/// TOML as JSON. Times become strings; infinity and NaN become null, which is not a valid schema.
fn json(value: &toml::Value) -> Json {
    match value {
        toml::Value::String(text) => text.as_str().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(value) => (*value).into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(items) => items.iter().map(json).collect::<Vec<_>>().into(),
        toml::Value::Table(entries) => {
            let entries = entries.iter().map(|(name, entry)| (name.clone(), json(entry)));
            entries.collect::<Object>().into()
        }
    }
}
