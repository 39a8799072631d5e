//! Input schemas of actions ([JSON Schema](https://json-schema.org)), and validation of inputs.
//!
//! A schema is self-contained: no reference is fetched from the network or a file. An input may be validated before its
//! references are rendered: then only mismatches that no rendering can repair count.
//!
//! A schema is passed on with every number as it is written. The validator compares numbers beyond 64 bits by their nearest floats.

mod problem;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use jsonschema::{ValidationError, Validator, error::ValidationErrorKind as Kind};
use serde_json::Value;

use crate::json::{Json, Object};
use problem::{field_of, problem_of};

/// Limit of the values in an input that is searched for every mismatch. A larger input with references is validated completely
/// after rendering.
const MAX_SEARCHED_VALUES: usize = 10_000;

/// Schema of an input. Cheap to clone.
#[derive(Clone)]
pub struct InputSchema(Arc<Schema>);

struct Schema {
    source: Json,
    /// Built from `source` on first use: most processes hold every schema and validate nothing.
    validator: OnceLock<Option<Validator>>,
}

/// Error of an invalid schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{problem}", if field.is_empty() { String::new() } else { format!("`{}` ", field.trim_start_matches('.')) })]
pub struct InvalidSchema {
    /// Position in the schema, such as `.properties.title`; empty for the root.
    pub field: String,
    /// Problem.
    pub problem: String,
}

/// Error of an input that does not match its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// Position in the input, such as `.title` or `.paths[0]`; empty for the root.
    pub field: String,
    /// Problem, without values of the input.
    pub problem: String,
}

impl InputSchema {
    /// Builds a schema from `source`; draft 2020-12 unless its `$schema` names another.
    ///
    /// # Errors
    /// When the schema is not valid, or has external references.
    pub fn new(source: impl Into<Json>) -> Result<Self, InvalidSchema> {
        let source = source.into();
        let validator = build(&source).map_err(|error| InvalidSchema {
            field: field_of(&error),
            problem: problem_of(&error, &Value::Null),
        })?;
        Ok(Self(Arc::new(Schema { source, validator: OnceLock::from(Some(validator)) })))
    }

    /// A schema that was validated before: by a test, or by the executor that publishes it. It is built on first use; one that
    /// is not valid accepts every input.
    #[must_use]
    pub fn trusted(source: impl Into<Json>) -> Self {
        Self(Arc::new(Schema { source: source.into(), validator: OnceLock::new() }))
    }

    /// The schema as JSON.
    #[must_use]
    pub fn source(&self) -> &Json {
        &self.0.source
    }

    /// Whether an input may have a member of this name: the schema lists it, or does not exclude other members than those it
    /// lists.
    #[must_use]
    pub fn admits(&self, member: &str) -> bool {
        let source = self.source();
        source["additionalProperties"] != false || source["properties"].get(member).is_some()
    }

    /// Validates a complete input.
    ///
    /// # Errors
    /// The first mismatch.
    pub fn check(&self, input: &Object) -> Result<(), Mismatch> {
        self.check_partial(input, &[])
    }

    /// Validates an input in which the strings at some JSON pointers will be replaced by any value.
    ///
    /// # Errors
    /// The first mismatch that no replacement can repair.
    pub fn check_partial(&self, input: &Object, pointers: &[String]) -> Result<(), Mismatch> {
        // A trusted schema can be built.
        let validator = self.0.validator.get_or_init(|| build(&self.0.source).ok());
        let Some(validator) = validator else { return Ok(()) };
        let input = input.to_value();
        if validator.is_valid(&input) {
            return Ok(());
        }
        let is_small = is_small(&input);
        if !is_small && self.has_alternatives() {
            let problem = "does not match, and is too large to be searched for the place".into();
            let mismatch = Mismatch { field: String::new(), problem };
            return if pointers.is_empty() { Err(mismatch) } else { Ok(()) };
        }
        let certain = |error: &ValidationError<'_>| is_certain(error, pointers);
        let found = match validator.validate(&input).err() {
            Some(error) if is_small && !certain(&error) => validator.iter_errors(&input).find(certain),
            first => first.filter(certain),
        };
        match found {
            Some(error) => Err(Mismatch {
                field: field_of(&error),
                problem: problem_of(&error, &self.0.source.to_value()),
            }),
            None => Ok(()),
        }
    }

    /// Whether the schema has alternatives.
    fn has_alternatives(&self) -> bool {
        let source = self.0.source.to_string();
        ["\"anyOf\"", "\"oneOf\""].iter().any(|keyword| source.contains(keyword))
    }
}

fn build(source: &Json) -> Result<Validator, ValidationError<'static>> {
    jsonschema::options().offline().build(&source.to_value())
}

/// Whether an input may be searched for every mismatch: a validator collects all of them, including those of each alternative,
/// and a list of a million wrong items has a million.
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
    values(input, MAX_SEARCHED_VALUES) <= MAX_SEARCHED_VALUES
}

/// Whether no replacement at the open pointers can repair an error.
fn is_certain(error: &ValidationError<'_>, open: &[String]) -> bool {
    if open.is_empty() {
        return true;
    }
    // The branch may depend on an open pointer anywhere in the input.
    let branches = error.evaluation_path().as_str().split('/');
    if branches.into_iter().any(|segment| matches!(segment, "then" | "else")) {
        return false;
    }
    let at = error.instance_path().as_str();
    let below = |pointer: &String| pointer.strip_prefix(at).is_some_and(|rest| rest.starts_with('/'));
    if open.iter().any(|pointer| pointer == at) {
        return false;
    }
    !open.iter().any(below) || is_about_shape(error.kind())
}

/// Whether an error about an object or array is independent of the values in it.
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
