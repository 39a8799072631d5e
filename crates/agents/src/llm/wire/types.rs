//! Requests and completions, independent of the provider.

use phoenix_domain::{
    json::{Json, Object},
    object,
};

use crate::llm::error_body::ErrorBody;

/// Input of a completion.
pub(in crate::llm) struct Prompt<'a> {
    /// Instructions and context; may be empty.
    pub(in crate::llm) system: &'a str,
    /// Messages in OpenAI's shape; at least one.
    pub(in crate::llm) messages: &'a [Json],
    /// Options in OpenAI's shape, without those that Phoenix sets itself.
    pub(in crate::llm) options: &'a Object,
    /// Limit of tokens of the answer.
    pub(in crate::llm) max_tokens: u32,
    /// Whether the answer is to be sent in pieces.
    pub(in crate::llm) is_streamed: bool,
}

impl Prompt<'_> {
    /// The messages of an API that takes the system text as one of them.
    pub(super) fn messages(&self) -> Vec<Json> {
        let system = || object! {"role": "system", "content": self.system}.into();
        let system = (!self.system.is_empty()).then(system);
        system.into_iter().chain(self.messages.iter().cloned()).collect()
    }
}

/// A conversation that a provider's API cannot express; with the place and what to do instead.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::llm) struct Unsupported(pub(in crate::llm) String);

/// A request, ready to send. Without `Debug`, because its headers contain the key.
pub(in crate::llm) struct ProviderRequest {
    pub(in crate::llm) url: String,
    pub(in crate::llm) headers: Vec<(&'static str, String)>,
    pub(in crate::llm) body: Object,
}

/// Output of a completion.
#[derive(Debug, Default, PartialEq)]
pub(in crate::llm) struct Completion {
    pub(in crate::llm) text: String,
    /// Members of the assistant's message beyond its text, in OpenAI's shape: `tool_calls`, `reasoning_content`, `refusal`.
    pub(in crate::llm) extra: Object,
    pub(in crate::llm) model: Option<String>,
    pub(in crate::llm) finish_reason: Option<String>,
    pub(in crate::llm) usage: Usage,
}

impl Completion {
    /// Whether it has text or calls a tool.
    pub(in crate::llm) fn has_content(&self) -> bool {
        !self.text.trim().is_empty() || self.calls_tools()
    }

    pub(in crate::llm) fn calls_tools(&self) -> bool {
        self.extra.get("tool_calls").and_then(Json::as_array).is_some_and(|calls| !calls.is_empty())
    }
}

/// Tokens of a completion, as far as the provider reports them. Providers count differently; here the input includes what
/// came from or went to a cache, and the output includes reasoning.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(in crate::llm) struct Usage {
    pub(in crate::llm) input: Option<u64>,
    pub(in crate::llm) output: Option<u64>,
    /// Part of the input that was read from a cache.
    pub(in crate::llm) cached_input: Option<u64>,
    /// Part of the input that was written to a cache.
    pub(in crate::llm) cache_write: Option<u64>,
    /// Part of the output that is reasoning.
    pub(in crate::llm) reasoning: Option<u64>,
    /// Cost in US dollars, when the provider reports it.
    pub(in crate::llm) cost_usd: Option<f64>,
}

impl Usage {
    /// Takes over what `later` reports: the counts of a stream are cumulative.
    pub(in crate::llm) fn update(&mut self, later: Self) {
        let Self { input, output, cached_input, cache_write, reasoning, cost_usd } = later;
        self.input = input.or(self.input);
        self.output = output.or(self.output);
        self.cached_input = cached_input.or(self.cached_input);
        self.cache_write = cache_write.or(self.cache_write);
        self.reasoning = reasoning.or(self.reasoning);
        self.cost_usd = cost_usd.or(self.cost_usd);
    }
}

/// What one event of a streamed answer says.
#[derive(Debug, Default, PartialEq)]
pub(in crate::llm) struct Step {
    /// Text of the answer.
    pub(in crate::llm) text: String,
    /// Members of OpenAI's `choices[].delta` beyond the text.
    pub(in crate::llm) delta: Object,
    pub(in crate::llm) model: Option<String>,
    pub(in crate::llm) finish_reason: Option<String>,
    pub(in crate::llm) usage: Usage,
    /// Whether nothing follows.
    pub(in crate::llm) is_last: bool,
}

/// A 2xx response that is no completion, with what it used all the same.
#[derive(Debug, PartialEq)]
pub(in crate::llm) struct Rejected {
    pub(in crate::llm) error: ResponseError,
    pub(in crate::llm) model: Option<String>,
    pub(in crate::llm) usage: Usage,
}

impl From<ResponseError> for Rejected {
    fn from(error: ResponseError) -> Self {
        Self { error, model: None, usage: Usage::default() }
    }
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
    /// A stream ended without a finish reason.
    Unfinished,
    /// An event or the whole answer of a stream exceeds the limit.
    TooLarge,
}
