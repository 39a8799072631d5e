//! What calls of language models used, in bodies.

use phoenix_domain::{
    json::Json,
    usage::{ModelCall, Money, Tokens, Usage},
};
use phoenix_proto::{common, wire_usage};
use serde::Serialize;
use utoipa::ToSchema;

/// What calls of language models used.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsageV1 {
    /// Number of calls that reported something.
    model_calls: u32,
    /// Tokens of the input, with what a cache held.
    input_tokens: u64,
    /// Tokens of the output, with reasoning.
    output_tokens: u64,
    /// Part of the input that was read from a cache.
    cached_input_tokens: u64,
    /// Part of the output that is reasoning.
    reasoning_tokens: u64,
    /// Cost in US dollars of the calls whose cost is known; null when there are none.
    #[schema(value_type = Option<f64>, required)]
    cost_usd: Option<Json>,
    /// Number of calls whose cost is not known.
    unpriced_calls: u32,
}

impl UsageV1 {
    /// What the metadata of an output says; `None` when it says nothing.
    pub(crate) fn in_metadata(metadata_json: &str) -> Option<Self> {
        if metadata_json.is_empty() {
            return None;
        }
        let metadata = phoenix_domain::json::Object::parse(metadata_json).ok()?;
        wire_usage(Usage::of(&ModelCall::in_metadata(&metadata))).map(Self::from)
    }
}

impl From<common::Usage> for UsageV1 {
    fn from(common::Usage { calls, tokens, cost_nanos, unpriced_calls }: common::Usage) -> Self {
        let Tokens { input, output, cached_input, reasoning } = tokens.unwrap_or_default().into();
        Self {
            model_calls: calls,
            input_tokens: input,
            output_tokens: output,
            cached_input_tokens: cached_input,
            reasoning_tokens: reasoning,
            cost_usd: cost_nanos.map(|nanos| Money::from_nanos(nanos).to_json()),
            unpriced_calls,
        }
    }
}
