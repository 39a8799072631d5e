//! Schemas of members and parameters: exactly what the server takes, no more and no less.

use phoenix_domain::{
    FailureClass, OrchestratorErrorCode,
    limits::{MAX_ACTION_BYTES, MAX_MESSAGE_BYTES, MAX_REASON_BYTES},
    plan::PlanStatus,
};
use serde_json::{Value, json};
use utoipa::openapi::{
    ArrayBuilder, ObjectBuilder, RefOr, Schema,
    schema::{AnyOfBuilder, KnownFormat, Object, SchemaFormat, SchemaType, Type},
};

/// What names a task inside its plan.
const TASK_KEY: &str = "^[A-Za-z0-9_-]{1,64}$";

/// What names an agent.
const AGENT_NAME: &str = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$";

/// The id of an event: a whole number, and nothing for the beginning.
const POSITION: &str = "^[0-9]{0,18}$";

/// A place among dead letters: time, plan, place of the task.
const DEAD_LETTER: &str = "^-?[0-9]{1,17}\\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\\.[0-9]{1,4}$";

/// At least one character that is no white space of Unicode's.
const NOT_BLANK: &str = r"[^\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]";

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn or_null() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Array(vec![Type::String, Type::Null]))
}

pub(crate) fn task_key() -> Object {
    text()
        .pattern(Some(TASK_KEY))
        .min_length(Some(1))
        .max_length(Some(64))
        .examples([json!("status")])
        .description(Some("Its name inside the plan: 1 to 64 letters, digits, `_` or `-`."))
        .build()
}

pub(crate) fn task_keys() -> Schema {
    ArrayBuilder::new()
        .schema_type(SchemaType::Array(vec![Type::Array, Type::Null]))
        .items(text().pattern(Some(TASK_KEY)).min_length(Some(1)).max_length(Some(64)))
        .description(Some("Keys of the tasks it waits for, beside those that its input refers to."))
        .into()
}

pub(crate) fn agent_name() -> Object {
    named_agent(text(), "Who does it.")
}

pub(crate) fn chat_agent() -> Object {
    named_agent(or_null(), "The agent to use, instead of letting the message decide.")
}

pub(crate) fn filtered_agent() -> Object {
    named_agent(or_null(), "Tasks for this agent.")
}

/// New inputs by a task's key.
pub(crate) fn inputs() -> Object {
    let input = ObjectBuilder::new().schema_type(SchemaType::Array(vec![Type::Object, Type::Null]));
    ObjectBuilder::new()
        .schema_type(SchemaType::Array(vec![Type::Object, Type::Null]))
        .additional_properties(Some(input))
        .examples([json!({"summary": {"text": "{{tasks.report.output}}"}})])
        .description(Some(
            "By a task's key: its new input, in place of the old one as a whole. Only of tasks that run again; those that have \
             succeeded are kept as they are.",
        ))
        .build()
}

fn named_agent(schema: ObjectBuilder, description: &str) -> Object {
    schema
        .pattern(Some(AGENT_NAME))
        .min_length(Some(1))
        .max_length(Some(64))
        .examples([json!("git_agent")])
        .description(Some(description))
        .build()
}

pub(crate) fn action() -> Object {
    or_null()
        .pattern(Some(NOT_BLANK))
        .min_length(Some(1))
        .max_length(Some(MAX_ACTION_BYTES))
        .examples([json!("git_status")])
        .description(Some("What to do: at most 256 bytes; `chat` when absent."))
        .build()
}

pub(crate) fn message() -> Object {
    text()
        .pattern(Some(NOT_BLANK))
        .min_length(Some(1))
        .max_length(Some(MAX_MESSAGE_BYTES))
        .examples([json!("git status")])
        .description(Some("What you want: 1 to 32 768 bytes of UTF-8, not blank."))
        .build()
}

pub(crate) fn reason() -> Object {
    text()
        .pattern(Some(NOT_BLANK))
        .min_length(Some(1))
        .max_length(Some(MAX_REASON_BYTES))
        .description(Some("Why they can be done without: at most 1024 bytes, not blank."))
        .build()
}

pub(crate) fn api_version() -> Object {
    let names = [json!("v1"), Value::Null];
    or_null()
        .enum_values(Some(names))
        .default(Some(json!("v1")))
        .description(Some("`v1`, which is also the default."))
        .build()
}

pub(crate) fn optional_code() -> Object {
    optional_name(codes(), "Tasks that ended with this error code.")
}

pub(crate) fn optional_error_class() -> Object {
    optional_name(error_classes(), "Tasks whose last attempt failed in this way.")
}

fn optional_name(names: Vec<&'static str>, description: &str) -> Object {
    let names = names.into_iter().map(|name| json!(name)).chain([Value::Null]);
    or_null().enum_values(Some(names)).description(Some(description)).build()
}

fn codes() -> Vec<&'static str> {
    OrchestratorErrorCode::ALL.iter().map(|code| code.as_str()).collect()
}

fn error_classes() -> Vec<&'static str> {
    FailureClass::ALL.iter().map(|class| class.as_str()).collect()
}

/// What a parameter of a query string may be. One that is empty is as good as absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parameter {
    PlanStatus,
    DeadLetterState,
    Agent,
    Code,
    ErrorClass,
    Id,
    Time,
    DeadLetter,
    PageSize,
    Position,
}

impl Parameter {
    pub(super) fn schema(self) -> RefOr<Schema> {
        let names = |names: &[&str]| text().enum_values(Some(names.iter().copied().chain([""])));
        let schema = match self {
            Self::PlanStatus => {
                names(&PlanStatus::ALL.iter().map(|status| status.as_str()).collect::<Vec<_>>())
            }
            Self::DeadLetterState => names(&["open", "redriven", "discarded"]),
            Self::Code => names(&codes()),
            Self::ErrorClass => names(&error_classes()),
            Self::Agent => return or_empty(text().pattern(Some(AGENT_NAME)).max_length(Some(64))),
            Self::Id => return or_empty(uuid()),
            Self::Time => {
                return or_empty(text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))));
            }
            Self::PageSize => return or_empty(whole(1, 500)),
            Self::DeadLetter => return or_empty(text().pattern(Some(DEAD_LETTER))),
            Self::Position => text().pattern(Some(POSITION)).max_length(Some(18)),
        };
        Schema::from(schema).into()
    }
}

/// A UUID.
pub(super) fn uuid() -> ObjectBuilder {
    text().format(Some(SchemaFormat::KnownFormat(KnownFormat::Uuid)))
}

fn whole(least: u64, most: u64) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(least)).maximum(Some(most))
}

fn or_empty(schema: ObjectBuilder) -> RefOr<Schema> {
    Schema::from(AnyOfBuilder::new().item(schema).item(text().max_length(Some(0)))).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_is_what_the_pattern_says_it_is() {
        // The same class, in the syntax of this test: a character of it is no white space.
        let class = NOT_BLANK.trim_matches(['[', ']']).trim_start_matches('^');
        let blank: Vec<char> = ('\0'..=char::MAX).filter(|c| c.is_whitespace()).collect();
        let mut listed = Vec::new();
        let mut rest = class;
        let mut from: Option<char> = None;
        while let Some(c) = rest.chars().next() {
            let (c, length) = match rest.strip_prefix('\\') {
                None => (c, c.len_utf8()),
                Some(escaped) if escaped.starts_with('t') => ('\t', 2),
                Some(escaped) if escaped.starts_with('r') => ('\r', 2),
                Some(escaped) => {
                    (char::from_u32(u32::from_str_radix(&escaped[1..5], 16).unwrap()).unwrap(), 6)
                }
            };
            rest = &rest[length..];
            match from.take() {
                Some(first) => listed.extend(first..=c),
                None if rest.starts_with('-') => {
                    rest = &rest[1..];
                    from = Some(c);
                }
                None => listed.push(c),
            }
        }
        listed.sort_unstable();
        assert_eq!(listed, blank);
    }
}
