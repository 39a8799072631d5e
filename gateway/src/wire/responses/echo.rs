//! What a response repeats of its request.

use phoenix_domain::json::{Json, Object};

use super::options::is_function;
use crate::wire::members_body::AnyMembers;

/// Members that are repeated as they were sent, with what they are when they were not.
const REPEATED: [(&str, &str); 12] = [
    ("instructions", "null"),
    ("max_output_tokens", "null"),
    ("max_tool_calls", "null"),
    ("metadata", "{}"),
    ("parallel_tool_calls", "true"),
    ("reasoning", r#"{"effort":null,"summary":null}"#),
    ("store", "true"),
    ("temperature", "null"),
    ("text", r#"{"format":{"type":"text"}}"#),
    ("tool_choice", r#""auto""#),
    ("top_p", "null"),
    ("user", "null"),
];

/// The members of a request that its response repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Echo(Object);

impl Default for Echo {
    /// The members of a request without any.
    fn default() -> Self {
        Self::of(&AnyMembers::default())
    }
}

impl Echo {
    /// The members of a request.
    pub(super) fn of(request: &AnyMembers) -> Self {
        let sent = |name: &str| request.get(name).filter(|value| !value.is_null()).cloned();
        let repeated = REPEATED.iter().map(|(name, default)| {
            let value = sent(name).unwrap_or_else(|| Json::parse(default).unwrap_or_default());
            ((*name).to_owned(), value)
        });
        let tools = request.get("tools").and_then(Json::as_array).unwrap_or_default();
        // The tools that the answer may use.
        let tools = tools.iter().filter(|tool| is_function(tool)).cloned().collect();
        let fixed = [
            ("tools", Json::Array(tools)),
            ("previous_response_id", Json::Null),
            ("truncation", "disabled".into()),
        ];
        Self(repeated.chain(fixed.map(|(name, value)| (name.to_owned(), value))).collect())
    }

    /// The members.
    pub(super) fn members(&self) -> Object {
        self.0.clone()
    }
}
