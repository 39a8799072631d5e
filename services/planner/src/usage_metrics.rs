//! Metrics of calls of language models. The labels are closed sets: what agents write freely is no label.

use metrics::counter;
use phoenix_domain::{
    llm::ProviderKind,
    usage::{ModelCall, Money, Tokens},
};

use crate::metrics::{MODEL_CALLS, MODEL_COST, MODEL_TOKENS};

/// Label of providers under names of one's own.
const OTHER: &str = "other";

/// Counts the calls of one attempt.
pub(crate) fn record_calls(calls: &[ModelCall]) {
    for ModelCall { provider, model: _, tokens, cost } in calls {
        let known = ProviderKind::ALL.iter().map(|kind| kind.as_str()).find(|name| *name == provider);
        let provider = known.unwrap_or(OTHER);
        let is_known = if cost.is_some() { "known" } else { "unknown" };
        counter!(MODEL_CALLS.name, "provider" => provider, "cost" => is_known).increment(1);
        counter!(MODEL_COST.name, "provider" => provider).increment(cost.map_or(0, Money::nanos));
        let Tokens { input, output, cached_input, reasoning } = *tokens;
        for (kind, count) in
            [("input", input), ("output", output), ("cached_input", cached_input), ("reasoning", reasoning)]
        {
            counter!(MODEL_TOKENS.name, "provider" => provider, "kind" => kind).increment(count);
        }
    }
}
