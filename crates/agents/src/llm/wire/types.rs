//! Requests and completions, independent of the provider.

use serde_json::Value;

use crate::llm::error_body::ErrorBody;

/// Input of a completion.
pub(in crate::llm) struct Prompt<'a> {
    /// Instructions and context; may be empty.
    pub(in crate::llm) system: &'a str,
    pub(in crate::llm) message: &'a str,
    pub(in crate::llm) max_tokens: u32,
}

impl Prompt<'_> {
    /// The messages of an API that takes the system text as one of them.
    pub(super) fn messages(&self) -> Vec<Value> {
        let message = |role: &str, content: &str| serde_json::json!({"role": role, "content": content});
        let system = (!self.system.is_empty()).then(|| message("system", self.system));
        system.into_iter().chain([message("user", self.message)]).collect()
    }
}

/// A request, ready to send. Without `Debug`, because its headers contain the key.
pub(in crate::llm) struct ProviderRequest {
    pub(in crate::llm) url: String,
    pub(in crate::llm) headers: Vec<(&'static str, String)>,
    pub(in crate::llm) body: Value,
}

/// Output of a completion.
#[derive(Debug, Default)]
pub(in crate::llm) struct Completion {
    pub(in crate::llm) text: String,
    pub(in crate::llm) model: Option<String>,
    pub(in crate::llm) finish_reason: Option<String>,
    pub(in crate::llm) input_tokens: Option<u64>,
    pub(in crate::llm) output_tokens: Option<u64>,
}

/// Reason why a 2xx response is no completion.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::llm) enum ResponseError {
    /// It does not match the provider's documentation.
    Malformed,
    /// It contains no text; with its finish reason.
    Empty(String),
    /// It contains no text because the token limit was reached before.
    CutOff,
    /// The provider or its model declines to answer the message; with the reason.
    Declined(String),
    /// It contains an error; with the status that the response should have had.
    Error { status: u16, body: ErrorBody },
}
