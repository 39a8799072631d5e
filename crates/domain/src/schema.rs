//! What an action takes as its input: a [JSON Schema](https://json-schema.org), and what of an input breaks it.
//!
//! A schema stands alone: nothing is fetched for it, neither from the network nor from a file. An input may be checked
//! before it is whole, with places that are still to be filled: then only what no filling can mend is a mismatch.

mod problem;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use jsonschema::{ValidationError, Validator, error::ValidationErrorKind as Kind};
use serde_json::Value;

use crate::json::Object;
use problem::{field_of, problem_of};

/// The most values of an input that is searched for more than its first mismatch. What is larger and has open places is
/// checked for the rest when it is filled.
const SEARCHED: usize = 10_000;

/// A schema for an input. Cheap to clone.
#[derive(Clone)]
pub struct InputSchema(Arc<Schema>);

struct Schema {
    source: Value,
    /// Made of `source` when it is first needed: most processes know every schema and check nothing.
    validator: OnceLock<Option<Validator>>,
}

/// Why a JSON value is no schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", if field.is_empty() { String::new() } else { format!("`{}` ", field.trim_start_matches('.')) })]
pub struct InvalidSchema {
    /// Where in the schema, as `.properties.title`; empty for the whole.
    pub field: String,
    /// What is wrong there.
    pub problem: String,
}

/// Why an input does not match a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Where in the input, as `.title` or `.paths[0]`; empty for the whole.
    pub field: String,
    /// What is wrong there. Repeats nothing of the input.
    pub problem: String,
}

impl InputSchema {
    /// The schema that `source` describes; draft 2020-12 unless its `$schema` names another.
    ///
    /// # Errors
    /// When it is no valid schema, or refers to anything outside of itself.
    pub fn new(source: Value) -> Result<Self, InvalidSchema> {
        let validator = build(&source).map_err(|error| InvalidSchema {
            field: field_of(&error),
            problem: problem_of(&error, &Value::Null),
        })?;
        Ok(Self(Arc::new(Schema { source, validator: OnceLock::from(Some(validator)) })))
    }

    /// A schema that is known to be one: a test has made it.
    pub(crate) fn known(source: Value) -> Self {
        Self(Arc::new(Schema { source, validator: OnceLock::new() }))
    }

    /// The schema as JSON.
    #[must_use]
    pub fn source(&self) -> &Value {
        &self.0.source
    }

    /// Checks a whole input.
    ///
    /// # Errors
    /// The first mismatch.
    pub fn check(&self, input: &Object) -> Result<(), Mismatch> {
        self.check_open(input, &[])
    }

    /// Checks an input of which some places (JSON pointers, each to a string) are still to be filled, with whatever it may
    /// be.
    ///
    /// # Errors
    /// The first mismatch that stays one, whatever the places are filled with.
    pub fn check_open(&self, input: &Object, places: &[String]) -> Result<(), Mismatch> {
        // A schema that is known to be one can be built.
        let validator = self.0.validator.get_or_init(|| build(&self.0.source).ok());
        let Some(validator) = validator else { return Ok(()) };
        let input = input.to_value();
        if validator.is_valid(&input) {
            return Ok(());
        }
        let is_small = is_small(&input);
        if !is_small && self.has_forms() {
            let problem = "does not match, and is too large to be searched for the place".into();
            let mismatch = Mismatch { field: String::new(), problem };
            return if places.is_empty() { Err(mismatch) } else { Ok(()) };
        }
        let certain = |error: &ValidationError<'_>| is_certain(error, places);
        let found = match validator.validate(&input).err() {
            Some(error) if is_small && !certain(&error) => validator.iter_errors(&input).find(certain),
            first => first.filter(certain),
        };
        match found {
            Some(error) => {
                Err(Mismatch { field: field_of(&error), problem: problem_of(&error, &self.0.source) })
            }
            None => Ok(()),
        }
    }

    /// Whether it says somewhere that a value may have one of several forms.
    fn has_forms(&self) -> bool {
        let source = self.0.source.to_string();
        ["\"anyOf\"", "\"oneOf\""].iter().any(|keyword| source.contains(keyword))
    }
}

fn build(source: &Value) -> Result<Validator, ValidationError<'static>> {
    jsonschema::options().offline().build(source)
}

/// Whether an input may be searched for every mismatch: a validator keeps them all, also those of each form that a value
/// may have, and of a list of a million wrong items there are a million.
fn is_small(input: &Value) -> bool {
    fn values(value: &Value, most: usize) -> usize {
        let parts: Box<dyn Iterator<Item = &Value>> = match value {
            Value::Array(items) => Box::new(items.iter()),
            Value::Object(entries) => Box::new(entries.values()),
            _ => return 1,
        };
        let mut count = 1;
        for part in parts {
            if count > most {
                break;
            }
            count += values(part, most - count);
        }
        count
    }
    values(input, SEARCHED) <= SEARCHED
}

/// Whether an error stays one whatever the open places are filled with.
fn is_certain(error: &ValidationError<'_>, open: &[String]) -> bool {
    if open.is_empty() {
        return true;
    }
    // Which branch holds may depend on an open place, wherever in the input that is.
    let branches = error.evaluation_path().as_str().split('/');
    if branches.into_iter().any(|segment| matches!(segment, "then" | "else")) {
        return false;
    }
    let at = error.instance_path().as_str();
    let below = |place: &String| place.strip_prefix(at).is_some_and(|rest| rest.starts_with('/'));
    if open.iter().any(|place| place == at) {
        return false;
    }
    !open.iter().any(below) || is_about_shape(error.kind())
}

/// Whether what an error says of an object or list is true whatever stands in its places.
const fn is_about_shape(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::AdditionalItems { .. }
            | Kind::AdditionalProperties { .. }
            | Kind::FalseSchema
            | Kind::MaxItems { .. }
            | Kind::MaxProperties { .. }
            | Kind::MinItems { .. }
            | Kind::MinProperties { .. }
            | Kind::PropertyNames { .. }
            | Kind::Required { .. }
            | Kind::Type { .. }
    )
}

impl fmt::Debug for InputSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InputSchema").field(self.source()).finish()
    }
}

impl PartialEq for InputSchema {
    fn eq(&self, other: &Self) -> bool {
        self.source() == other.source()
    }
}

#[cfg(test)]
mod tests;
