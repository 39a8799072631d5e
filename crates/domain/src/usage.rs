//! What calls of language models used: tokens, and money in whole billionths of a US dollar.

mod money;

use std::ops::AddAssign;

pub use self::money::Money;
use self::money::fixed_point;
use crate::{
    json::{Json, Object},
    object,
};

/// Member of a result's metadata with the calls that failed and used tokens all the same.
pub const FAILED_CALLS: &str = "failed_calls";

/// Most calls that are read from the metadata of one attempt; further ones are ignored.
pub const MAX_CALLS: usize = 16;

/// Length limit of the name of a provider or a model.
const MAX_NAME_CHARS: usize = 128;

/// Upper bound of a count of tokens of one call: sums of any number of calls stay within 63 bits.
const MAX_TOKENS: u64 = 1_000_000_000_000;

/// Tokens of one or several calls, as providers report them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Input, with what a cache held.
    pub input: u64,
    /// Output, with reasoning.
    pub output: u64,
    /// Part of the input that was read from a cache.
    pub cached_input: u64,
    /// Part of the output that is reasoning.
    pub reasoning: u64,
}

/// One call of a model that reported what it used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCall {
    /// Provider, such as `anthropic`; empty when the agent does not name it.
    pub provider: String,
    /// Model as the provider names it; empty when the agent does not name it.
    pub model: String,
    /// Tokens.
    pub tokens: Tokens,
    /// Cost, if the provider reports it or the price is known.
    pub cost: Option<Money>,
}

/// Sum of calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of calls.
    pub calls: u32,
    /// Tokens.
    pub tokens: Tokens,
    /// Cost of the calls whose cost is known; `None` when there is none.
    pub cost: Option<Money>,
    /// Number of calls whose cost is not known.
    pub unpriced_calls: u32,
}

impl Tokens {
    /// Input and output.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.input.saturating_add(self.output)
    }
}

impl ModelCall {
    /// The calls that the metadata of a result or of an error response describes: the one that answered, and those in
    /// [`FAILED_CALLS`].
    #[must_use]
    pub fn in_metadata(metadata: &Object) -> Vec<Self> {
        let failed = metadata.get(FAILED_CALLS).and_then(Json::as_array).unwrap_or_default();
        let failed = failed.iter().filter_map(|call| Self::of(call.as_object()?));
        Self::of(metadata).into_iter().chain(failed).take(MAX_CALLS).collect()
    }

    /// The call that an object describes; `None` when it reports neither tokens nor cost.
    fn of(members: &Object) -> Option<Self> {
        let usage = members.get("usage").and_then(Json::as_object);
        let cost = members.get("cost_usd").and_then(Money::of_json);
        if usage.is_none() && cost.is_none() {
            return None;
        }
        let count = |name: &str| match usage.and_then(|usage| usage.get(name)) {
            Some(Json::Number(number)) => fixed_point(number.as_str(), 0).unwrap_or(0).min(MAX_TOKENS),
            _ => 0,
        };
        let name = |name: &str| {
            let name = members.get(name).and_then(Json::as_str).unwrap_or_default().trim();
            name.chars().take(MAX_NAME_CHARS).collect()
        };
        Some(Self {
            provider: name("provider"),
            model: name("model"),
            tokens: Tokens {
                input: count("input_tokens"),
                output: count("output_tokens"),
                cached_input: count("cached_input_tokens"),
                reasoning: count("reasoning_tokens"),
            },
            cost,
        })
    }

    /// The call as an item of [`FAILED_CALLS`].
    #[must_use]
    pub fn to_json(&self) -> Json {
        let Self { provider, model, tokens: Tokens { input, output, cached_input, reasoning }, cost } = self;
        let usage = object! {
            "input_tokens": *input,
            "output_tokens": *output,
            "cached_input_tokens": *cached_input,
            "reasoning_tokens": *reasoning,
        };
        let mut call = object! {"provider": &**provider, "model": &**model, "usage": usage};
        if let Some(cost) = cost {
            call.set("cost_usd", cost.to_json());
        }
        call.into()
    }
}

impl Usage {
    /// The sum of `calls`.
    #[must_use]
    pub fn of(calls: &[ModelCall]) -> Self {
        let mut sum = Self::default();
        calls.iter().for_each(|call| sum.add_call(call));
        sum
    }

    fn add_call(&mut self, call: &ModelCall) {
        let ModelCall { provider: _, model: _, tokens, cost } = call;
        let unpriced_calls = u32::from(cost.is_none());
        *self += Self { calls: 1, tokens: *tokens, cost: *cost, unpriced_calls };
    }
}

impl AddAssign for Tokens {
    fn add_assign(&mut self, other: Self) {
        let Self { input, output, cached_input, reasoning } = other;
        self.input = self.input.saturating_add(input);
        self.output = self.output.saturating_add(output);
        self.cached_input = self.cached_input.saturating_add(cached_input);
        self.reasoning = self.reasoning.saturating_add(reasoning);
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        let Self { calls, tokens, cost, unpriced_calls } = other;
        self.calls = self.calls.saturating_add(calls);
        self.tokens += tokens;
        self.cost = match (self.cost, cost) {
            (Some(own), Some(more)) => Some(own.plus(more)),
            (own, more) => own.or(more),
        };
        self.unpriced_calls = self.unpriced_calls.saturating_add(unpriced_calls);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(text: &str) -> Object {
        Object::parse(text).unwrap()
    }

    #[test]
    fn metadata_describes_the_answer_and_failed_calls() {
        let calls = ModelCall::in_metadata(&metadata(
            r#"{"provider": "openai", "model": "gpt-6", "cost_usd": 0.0015,
                "usage": {"input_tokens": 10, "output_tokens": 5, "reasoning_tokens": 2},
                "failed_calls": [{"provider": "anthropic", "usage": {"input_tokens": 7.0}}, 3, {"model": "x"}]}"#,
        ));
        let [answer, failed] = &calls[..] else { panic!("{calls:?}") };
        assert_eq!((&*answer.provider, answer.cost), ("openai", Some(Money::from_nanos(1_500_000))));
        assert_eq!(answer.tokens, Tokens { input: 10, output: 5, cached_input: 0, reasoning: 2 });
        assert_eq!((&*failed.provider, failed.tokens.input, failed.cost), ("anthropic", 7, None));
        let sum = Usage::of(&calls);
        assert_eq!((sum.calls, sum.tokens.total(), sum.unpriced_calls), (2, 22, 1));
        assert_eq!(sum.cost, answer.cost);
        for call in &calls {
            assert_eq!(ModelCall::of(call.to_json().as_object().unwrap()).as_ref(), Some(call));
        }
    }

    #[test]
    fn metadata_without_usage_has_no_calls() {
        for text in ["{}", r#"{"provider": "openai"}"#, r#"{"usage": 7}"#, r#"{"cost_usd": null}"#] {
            assert_eq!(ModelCall::in_metadata(&metadata(text)), [], "{text}");
        }
    }

    #[test]
    fn hostile_metadata_is_bounded() {
        let item = format!(r#"{{"provider": "{}", "usage": {{"input_tokens": 1e99}}}}"#, "p".repeat(9999));
        let text = format!(r#"{{"failed_calls": [{}]}}"#, vec![item; 100].join(","));
        let calls = ModelCall::in_metadata(&metadata(&text));
        assert_eq!((calls.len(), calls[0].provider.len()), (MAX_CALLS, MAX_NAME_CHARS));
        assert_eq!(Usage::of(&calls).tokens.total(), MAX_TOKENS * MAX_CALLS as u64);
        let negative = metadata(r#"{"usage": {"input_tokens": -3, "output_tokens": "4"}, "cost_usd": -1}"#);
        let calls = ModelCall::in_metadata(&negative);
        assert_eq!((calls[0].tokens.total(), calls[0].cost), (0, None));
    }
}
