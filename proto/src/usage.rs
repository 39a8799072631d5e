//! Usage of models on the wire.

use phoenix_domain::usage::{ModelCall, Money, Tokens, Usage};

use crate::common;

impl From<Tokens> for common::Tokens {
    fn from(Tokens { input, output, cached_input, reasoning }: Tokens) -> Self {
        Self { input, output, cached_input, reasoning }
    }
}

impl From<common::Tokens> for Tokens {
    fn from(common::Tokens { input, output, cached_input, reasoning }: common::Tokens) -> Self {
        Self { input, output, cached_input, reasoning }
    }
}

impl From<ModelCall> for common::ModelCall {
    fn from(ModelCall { provider, model, tokens, cost }: ModelCall) -> Self {
        Self { provider, model, tokens: Some(tokens.into()), cost_nanos: cost.map(Money::nanos) }
    }
}

impl From<common::ModelCall> for ModelCall {
    fn from(common::ModelCall { provider, model, tokens, cost_nanos }: common::ModelCall) -> Self {
        Self {
            provider,
            model,
            tokens: tokens.unwrap_or_default().into(),
            cost: cost_nanos.map(Money::from_nanos),
        }
    }
}

/// The usage on the wire; absent when there were no calls.
#[must_use]
pub fn wire_usage(usage: Usage) -> Option<common::Usage> {
    let Usage { calls, tokens, cost, unpriced_calls } = usage;
    let cost_nanos = cost.map(Money::nanos);
    (calls > 0).then(|| common::Usage { calls, tokens: Some(tokens.into()), cost_nanos, unpriced_calls })
}
