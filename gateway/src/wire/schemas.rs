//! Schemas of members and parameters: exactly the values that the server accepts.

use phoenix_domain::{
    FailureClass, OrchestratorErrorCode,
    conversation::ROLES,
    limits::{
        MAX_ACTION_BYTES, MAX_ACTOR_CHARS, MAX_CONVERSATION_MESSAGES, MAX_MESSAGE_BYTES, MAX_MODEL_BYTES,
        MAX_REASON_BYTES, MAX_SEARCH_CHARS,
    },
    plan::PlanStatus,
};
use serde_json::{Value, json};
use utoipa::openapi::{
    ArrayBuilder, ObjectBuilder, RefOr, Schema,
    schema::{AnyOfBuilder, KnownFormat, Object, SchemaFormat, SchemaType, Type},
};

/// Pattern of a task's key.
pub(super) const TASK_KEY: &str = "^[A-Za-z0-9_-]{1,64}$";

/// Pattern of an agent's name.
const AGENT_NAME: &str = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$";

/// Pattern of an event's id: a whole number, or empty for the beginning.
const POSITION: &str = "^[0-9]{0,18}$";

/// Pattern of a cursor into dead letters: time, plan, index of the task.
const DEAD_LETTER: &str = "^-?[0-9]{1,17}\\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\\.[0-9]{1,4}$";

/// Pattern of a text with at least one character that is not Unicode white space.
pub(super) const NOT_BLANK: &str = r"[^\t-\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]";

/// The names of a closed set.
pub(crate) fn states(description: &str, names: impl Iterator<Item = &'static str>) -> Object {
    text().enum_values(Some(names)).description(Some(description)).build()
}

/// Serializes a value as its `Display` text.
pub(crate) fn as_text<S: serde::Serializer>(
    value: &impl std::fmt::Display,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

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
        .description(Some("Key of the task, unique within its plan: 1 to 64 letters, digits, `_` or `-`."))
        .build()
}

pub(crate) fn task_keys() -> Schema {
    ArrayBuilder::new()
        .schema_type(SchemaType::Array(vec![Type::Array, Type::Null]))
        .items(text().pattern(Some(TASK_KEY)).min_length(Some(1)).max_length(Some(64)))
        .description(Some(
            "Keys of the tasks that this task depends on, beside those that its input refers to.",
        ))
        .into()
}

pub(crate) fn agent_name() -> Object {
    named_agent(text(), "Agent that runs the task.")
}

pub(crate) fn chat_agent() -> Object {
    named_agent(or_null(), "Agent that answers; the message decides when absent.")
}

pub(crate) fn filtered_agent() -> Object {
    named_agent(or_null(), "Tasks of this agent.")
}

/// New inputs by a task's key.
pub(crate) fn inputs() -> Object {
    let input = ObjectBuilder::new().schema_type(SchemaType::Array(vec![Type::Object, Type::Null]));
    ObjectBuilder::new()
        .schema_type(SchemaType::Array(vec![Type::Object, Type::Null]))
        .additional_properties(Some(input))
        .examples([json!({"summary": {"text": "{{tasks.report.output}}"}})])
        .description(Some(
            "New inputs by key of the task. Each replaces the whole input. Only tasks that run again take one; tasks that \
             have succeeded are kept as they are.",
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
        .description(Some("Action of the agent: at most 256 bytes; `chat` when absent."))
        .build()
}

pub(crate) fn message() -> Object {
    text()
        .pattern(Some(NOT_BLANK))
        .min_length(Some(1))
        .max_length(Some(MAX_MESSAGE_BYTES))
        .examples([json!("git status")])
        .description(Some("Message for the agent: 1 to 32 768 bytes of UTF-8, not blank."))
        .build()
}

pub(crate) fn optional_message() -> Object {
    or_null()
        .pattern(Some(NOT_BLANK))
        .min_length(Some(1))
        .max_length(Some(MAX_MESSAGE_BYTES))
        .examples([json!("git status")])
        .description(Some(
            "Message for the agent: 1 to 32 768 bytes of UTF-8, not blank. Either this or `messages`.",
        ))
        .build()
}

pub(crate) fn optional_messages() -> Schema {
    let description = "Messages in the shape of OpenAI's chat completions, the latest one last. Either this or `message`. An agent that knows \
         only `message` gets the last message of the user, and the others as context.";
    messages(SchemaType::Array(vec![Type::Array, Type::Null]), description)
}

/// Messages of a conversation: what Phoenix reads of them. Other members reach the agent as they are.
fn messages(schema_type: SchemaType, description: &str) -> Schema {
    let content = SchemaType::Array(vec![Type::String, Type::Array, Type::Null]);
    let content = ArrayBuilder::new()
        .schema_type(content)
        .items(ObjectBuilder::new().property("type", text()).required("type"))
        .description(Some(
            "Text, or parts: `{\"type\": \"text\", \"text\": …}`, `{\"type\": \"image_url\", \"image_url\": {\"url\": …}}`, or \
             another type that the model knows. Only an assistant's message may be without.",
        ));
    let message = ObjectBuilder::new()
        .property("role", text().enum_values(Some(ROLES)))
        .property("content", content)
        .required("role")
        .examples([json!({"role": "user", "content": "git status"})]);
    ArrayBuilder::new()
        .schema_type(schema_type)
        .items(message)
        .min_items(Some(1))
        .max_items(Some(MAX_CONVERSATION_MESSAGES))
        .description(Some(description))
        .into()
}

pub(crate) fn completion_messages() -> Schema {
    messages(SchemaType::Type(Type::Array), "Messages of the conversation, the latest one last.")
}

/// Messages of Anthropic's API: what Phoenix reads of them.
pub(crate) fn anthropic_messages() -> Schema {
    let content = SchemaType::Array(vec![Type::String, Type::Array]);
    let content = ArrayBuilder::new()
        .schema_type(content)
        .items(ObjectBuilder::new().property("type", text()).required("type"))
        .description(Some(
            "Text, or blocks: `text`, `image`, `document`, `tool_use`, `tool_result`, `thinking`, or another type that the model knows.",
        ));
    let message = ObjectBuilder::new()
        .property("role", text().enum_values(Some(["user", "assistant", "system"])))
        .property("content", content)
        .required("role")
        .required("content")
        .examples([json!({"role": "user", "content": "git status"})]);
    ArrayBuilder::new()
        .items(message)
        .min_items(Some(1))
        .max_items(Some(MAX_CONVERSATION_MESSAGES))
        .description(Some("Messages of the conversation, the latest one last."))
        .into()
}

/// The input of a response: what Phoenix reads of it.
pub(crate) fn response_input() -> Schema {
    let item = ObjectBuilder::new()
        .property("role", text().enum_values(Some(["user", "assistant", "system", "developer"])))
        .property("content", text())
        .required("role")
        .required("content")
        .examples([json!({"role": "user", "content": "git status"})]);
    ArrayBuilder::new()
        .schema_type(SchemaType::Array(vec![Type::String, Type::Array]))
        .items(item)
        .min_items(Some(1))
        .max_items(Some(MAX_CONVERSATION_MESSAGES))
        .description(Some(
            "Text, or items: messages, whose content may also be parts, `function_call`, `function_call_output` and `reasoning`.",
        ))
        .into()
}

pub(crate) fn max_tokens() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(1))
        .examples([json!(1024)])
        .description(Some("Most tokens of the answer; `llm.max_tokens` is the upper limit."))
        .build()
}

pub(crate) fn completion_model() -> Object {
    text()
        .min_length(Some(1))
        .max_length(Some(MAX_MODEL_BYTES))
        .examples([json!("phoenix")])
        .description(Some(
            "`phoenix` (the message decides on the agent), the name of an agent, `provider/model` (the language-model agent calls \
             that model), or the name of a model of a configured provider.",
        ))
        .build()
}

pub(crate) fn optional_flag(description: &str) -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::Array(vec![Type::Boolean, Type::Null]))
        .description(Some(description))
        .build()
}

pub(crate) fn one_choice() -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::Array(vec![Type::Integer, Type::Null]))
        .minimum(Some(1))
        .maximum(Some(1))
        .description(Some("Number of answers: 1."))
        .build()
}

pub(crate) fn optional_model() -> Object {
    or_null()
        .pattern(Some(NOT_BLANK))
        .min_length(Some(1))
        .max_length(Some(MAX_MODEL_BYTES))
        .examples([json!("anthropic/claude-sonnet-5-5")])
        .description(Some("Model for agents that call one, such as `provider/model`: at most 256 bytes."))
        .build()
}

pub(crate) fn decision_reason() -> Object {
    text()
        .pattern(Some(NOT_BLANK))
        .min_length(Some(1))
        .max_length(Some(MAX_REASON_BYTES))
        .description(Some(
            "Reason, shown with the agent and to callers whose tasks are rejected: at most 1024 bytes, not blank.",
        ))
        .build()
}

pub(crate) fn actor() -> Object {
    or_null()
        .pattern(Some(NOT_BLANK))
        .min_length(Some(1))
        .max_length(Some(MAX_ACTOR_CHARS))
        .examples([json!("alice")])
        .description(Some("Who decides: at most 128 characters, not blank; `api` when it is absent."))
        .build()
}

pub(crate) fn reason() -> Object {
    text()
        .pattern(Some(NOT_BLANK))
        .min_length(Some(1))
        .max_length(Some(MAX_REASON_BYTES))
        .description(Some(
            "Reason of the discard, kept with each dead letter: at most 1024 bytes, not blank.",
        ))
        .build()
}

pub(crate) fn api_version() -> Object {
    let names = [json!("v1"), Value::Null];
    or_null()
        .enum_values(Some(names))
        .default(Some(json!("v1")))
        .description(Some("Version of the API: `v1`, also the default."))
        .build()
}

pub(crate) fn optional_code() -> Object {
    optional_name(codes(), "Tasks that ended with this error code.")
}

pub(crate) fn optional_error_class() -> Object {
    optional_name(error_classes(), "Tasks whose last attempt has this failure class.")
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

/// Kind of a query parameter. An empty parameter counts as absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parameter {
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
    Flag,
    Window,
    Search,
    Order,
}

impl Parameter {
    pub(crate) fn schema(self) -> RefOr<Schema> {
        let names = |names: &[&str]| text().enum_values(Some(names.iter().copied().chain([""])));
        let schema = match self {
            Self::PlanStatus => {
                let states = PlanStatus::ALL.iter().map(|status| status.as_str());
                names(&states.chain(["unfinished"]).collect::<Vec<_>>())
            }
            Self::Window => names(&super::window::WINDOWS.map(|(name, _)| name)),
            Self::DeadLetterState => names(&["open", "redriven", "discarded"]),
            Self::Flag => names(&["true", "false"]),
            Self::Code => names(&codes()),
            Self::ErrorClass => names(&error_classes()),
            Self::Agent => return or_empty(text().pattern(Some(AGENT_NAME)).max_length(Some(64))),
            Self::Id => return or_empty(uuid()),
            Self::Time => {
                return or_empty(text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))));
            }
            Self::PageSize => return or_empty(whole(1, 500)),
            Self::DeadLetter => return or_empty(text().pattern(Some(DEAD_LETTER))),
            Self::Search => return or_empty(text().max_length(Some(MAX_SEARCH_CHARS))),
            Self::Order => names(&["newest", "oldest"]),
            Self::Position => text().pattern(Some(POSITION)).max_length(Some(18)),
        };
        Schema::from(schema).into()
    }
}

/// A UUID.
pub(crate) fn uuid() -> ObjectBuilder {
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
    fn pattern_of_blank_matches_unicode_white_space() {
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
