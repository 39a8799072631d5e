//! Error messages of a validator: the field, and the expected value.

use std::fmt::{Display, Write};

use jsonschema::{
    JsonType, ValidationError,
    error::{TypeKind, ValidationErrorKind as Kind},
    paths::LocationSegment,
};
use serde_json::Value;

/// Length limits, in characters, of a field name and of a list of allowed values.
const MAX_NAME_CHARS: usize = 64;
const MAX_LIST_CHARS: usize = 256;

/// The field of an error, such as `.title` or `.paths[0]`. A missing or unknown field is named itself.
pub(super) fn field_of(error: &ValidationError<'_>) -> String {
    let mut field = String::new();
    for segment in error.instance_path().segments() {
        match segment {
            LocationSegment::Property(name) => push_name(&mut field, &name),
            // Writing to a string does not fail.
            LocationSegment::Index(index) => drop(write!(field, "[{index}]")),
        }
    }
    match error.kind() {
        Kind::Required { property: Value::String(name) } => push_name(&mut field, name),
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            if let Some(name) = unexpected.first() {
                push_name(&mut field, name);
            }
        }
        _ => {}
    }
    field
}

/// The problem, to follow the name of the field. `schema` provides the known fields for an unknown one.
pub(super) fn problem_of(error: &ValidationError<'_>, schema: &Value) -> String {
    match error.kind() {
        Kind::Required { .. } => "is missing".into(),
        Kind::AdditionalProperties { .. } | Kind::UnevaluatedProperties { .. } => {
            let known = known_fields(error, schema);
            if known.is_empty() {
                "is unknown".into()
            } else {
                format!("is unknown; known fields: {}", listed(known.iter()))
            }
        }
        Kind::Type { kind: TypeKind::Single(one) } => format!("must be {}", type_name(*one)),
        Kind::Type { kind: TypeKind::Multiple(types) } => {
            let names: Vec<_> = types.iter().map(type_name).collect();
            format!("must be {}", names.join(" or "))
        }
        Kind::Enum { options } => match &**options {
            Value::Array(options) => format!("must be one of {}", listed(options.iter())),
            option => format!("must be {}", shortened(&option.to_string(), MAX_LIST_CHARS)),
        },
        Kind::Constant { expected_value } => {
            format!("must be {}", shortened(&expected_value.to_string(), MAX_LIST_CHARS))
        }
        Kind::MinLength { limit: 1 } => "must not be empty".into(),
        Kind::MinLength { limit } => format!("must be at least {limit} characters long"),
        Kind::MaxLength { limit } => format!("must be at most {limit} characters long"),
        Kind::MinItems { limit: 1 } => "must not be empty".into(),
        Kind::MinItems { limit } => format!("must hold at least {limit} items"),
        Kind::MaxItems { limit } => format!("must hold at most {limit} items"),
        Kind::AdditionalItems { limit } => format!("must hold at most {limit} items"),
        Kind::MinProperties { limit } => format!("must have at least {limit} fields"),
        Kind::MaxProperties { limit } => format!("must have at most {limit} fields"),
        Kind::UniqueItems => "must not hold an item twice".into(),
        Kind::Minimum { limit } => format!("must be at least {limit}"),
        Kind::Maximum { limit } => format!("must be at most {limit}"),
        Kind::ExclusiveMinimum { limit } => format!("must be more than {limit}"),
        Kind::ExclusiveMaximum { limit } => format!("must be less than {limit}"),
        Kind::MultipleOf { multiple_of } => format!("must be a multiple of {multiple_of}"),
        Kind::Pattern { pattern } => {
            format!("must match the pattern `{}`", shortened(pattern, MAX_LIST_CHARS))
        }
        Kind::Format { format } => format!("must have the format `{format}`"),
        Kind::FalseSchema => "is not allowed".into(),
        Kind::Referencing(_) => "holds a reference that leads nowhere, or out of the schema".into(),
        Kind::AnyOf { context } | Kind::OneOfNotValid { context } => {
            let reasons: Vec<_> = context.iter().filter_map(|errors| errors.first()).map(reason).collect();
            format!(
                "has none of the forms it may have: {}",
                shortened(&reasons.join("; or "), MAX_LIST_CHARS)
            )
        }
        Kind::OneOfMultipleValid { .. } => "has several forms at once of which it must have one".into(),
        _ => format!("does not match: {}", shortened(&error.masked().to_string(), MAX_LIST_CHARS)),
    }
}

/// The problem of one alternative.
fn reason(error: &ValidationError<'static>) -> String {
    let (field, problem) = (field_of(error), problem_of(error, &Value::Null));
    let field = field.trim_start_matches('.');
    if field.is_empty() { format!("it {problem}") } else { format!("`{field}` {problem}") }
}

/// The known fields of the object in which an unknown field was found.
fn known_fields<'s>(error: &ValidationError<'_>, schema: &'s Value) -> Vec<&'s String> {
    let path = error.schema_path().as_str();
    let object = path.rfind('/').and_then(|end| schema.pointer(&path[..end]));
    let fields = object.and_then(|object| object.get("properties")).and_then(Value::as_object);
    fields.map(|fields| fields.keys().collect()).unwrap_or_default()
}

const fn type_name(kind: JsonType) -> &'static str {
    match kind {
        JsonType::Null => "null",
        JsonType::Boolean => "true or false",
        JsonType::Integer => "a whole number",
        JsonType::Number => "a number",
        JsonType::String => "a string",
        JsonType::Array => "a list",
        JsonType::Object => "an object",
    }
}

fn listed(items: impl Iterator<Item = impl Display>) -> String {
    let items: Vec<_> = items.map(|item| item.to_string()).collect();
    shortened(&items.join(", "), MAX_LIST_CHARS)
}

fn push_name(field: &mut String, name: &str) {
    field.push('.');
    field.push_str(&shortened(name, MAX_NAME_CHARS));
}

fn shortened(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}
