//! Cost of a completion, from a price table with the date of its release. A model without an entry has no cost, rather than one
//! of 0.

use std::{sync::Once, thread};

use genai_prices::{Calculator, PriceRequest, UsageKey};
use phoenix_domain::{
    llm::{Provider, ProviderKind},
    usage::{ModelCall, Money, Tokens},
};

use super::wire::types::Usage;

/// Name of a provider in the table. Local models and servers of one's own have no price.
const fn provider_id(kind: ProviderKind) -> Option<&'static str> {
    match kind {
        ProviderKind::OpenAi => Some("openai"),
        ProviderKind::Anthropic => Some("anthropic"),
        ProviderKind::Gemini => Some("google"),
        ProviderKind::Grok => Some("x-ai"),
        ProviderKind::OpenRouter => Some("openrouter"),
        ProviderKind::Ollama | ProviderKind::LmStudio => None,
    }
}

/// Reads the table in the background, while the provider works: it takes some milliseconds.
pub(super) fn prepare() {
    static START: Once = Once::new();
    START.call_once(|| {
        // Without the thread, the first cost takes these milliseconds.
        let _ = thread::Builder::new().name("prices".into()).spawn(|| {
            let _ = Calculator::bundled();
        });
    });
}

/// The cost in US dollars: as the provider reports it, else by the table.
pub(super) fn of(provider: Provider<'_>, model: &str, usage: Usage) -> Option<f64> {
    let cost = usage.cost_usd.or_else(|| by_table(provider_id(provider.kind?)?, model, usage))?;
    // Without the noise of sums of floats.
    Some((cost * 1e12).round() / 1e12)
}

/// A call that failed and used something all the same; `None` when the provider reported nothing.
pub(super) fn call(provider: Provider<'_>, model: Option<&str>, usage: Usage) -> Option<ModelCall> {
    let Usage { input, output, cached_input, cache_write: _, reasoning, cost_usd } = usage;
    if input.or(output).is_none() && cost_usd.is_none() {
        return None;
    }
    let name = model.unwrap_or(provider.model_name);
    // A stream that breaks off has reported its input, and its output only in part or not at all.
    let whole = Usage { input: Some(input.unwrap_or(0)), output: Some(output.unwrap_or(0)), ..usage };
    let cost = of(provider, name, whole).or_else(|| of(provider, provider.model_name, whole));
    Some(ModelCall {
        provider: provider.name.to_owned(),
        model: name.to_owned(),
        tokens: Tokens {
            input: input.unwrap_or(0),
            output: output.unwrap_or(0),
            cached_input: cached_input.unwrap_or(0),
            reasoning: reasoning.unwrap_or(0),
        },
        cost: cost.and_then(Money::of_float),
    })
}

fn by_table(provider: &str, model: &str, usage: Usage) -> Option<f64> {
    let (input, output) = (usage.input?, usage.output?);
    let counts = [
        (UsageKey::INPUT_TOKENS, Some(input)),
        (UsageKey::OUTPUT_TOKENS, Some(output)),
        (UsageKey::CACHE_READ_TOKENS, usage.cached_input),
        (UsageKey::CACHE_WRITE_TOKENS, usage.cache_write),
    ];
    let counts = counts.into_iter().filter_map(|(key, count)| Some((key, count? as f64)));
    let usage = counts.collect::<genai_prices::Usage>();
    let price = genai_prices::calculate(&PriceRequest::new(model, &usage).with_provider_id(provider)).ok()?;
    Some(price.total_price).filter(|cost| cost.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(input: u64, output: u64, cached: u64) -> Usage {
        Usage { input: Some(input), output: Some(output), cached_input: Some(cached), ..Usage::default() }
    }

    #[test]
    fn cost_follows_the_table_and_knows_cached_input() {
        let full = by_table("anthropic", "claude-haiku-4-5-20251001", usage(1_000_000, 100_000, 0)).unwrap();
        assert!((full - 1.5).abs() < 1e-9, "{full}");
        let cached = by_table("anthropic", "claude-haiku-4-5", usage(1_000_000, 100_000, 1_000_000)).unwrap();
        assert!((cached - 0.6).abs() < 1e-9, "{cached}");
        for kind in ProviderKind::ALL.iter().copied() {
            let Some(id) = provider_id(kind) else { continue };
            let model = if kind == ProviderKind::OpenRouter { "openai/gpt-4o" } else { kind.default_model() };
            assert!(by_table(id, model, usage(10, 10, 0)).is_some(), "{kind} {model}");
        }
    }

    #[test]
    fn unknown_model_has_no_cost() {
        assert_eq!(by_table("openai", "gpt-of-tomorrow", usage(10, 10, 0)), None);
        assert_eq!(by_table("openai", "gpt-4o", Usage { input: Some(1), ..Usage::default() }), None);
    }
}
