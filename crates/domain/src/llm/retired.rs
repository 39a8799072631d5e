//! Models that a provider has announced to shut down.
//!
//! The table names chat models whose end lies after September 2026, as of 2026-11-26. Source: `deprecation_date` and
//! `successor_model` in the price table of LiteLLM 1.110.2 (`model_prices_and_context_window.json`, MIT).

use super::provider::ProviderKind;

/// A model with an announced end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetiredModel {
    /// Its provider.
    pub kind: ProviderKind,
    /// Its name.
    pub name: &'static str,
    /// Date of its end, as `YYYY-MM-DD`.
    pub end: &'static str,
    /// Model that the provider names as its successor.
    pub successor: &'static str,
}

const fn retired(
    kind: ProviderKind,
    name: &'static str,
    end: &'static str,
    successor: &'static str,
) -> RetiredModel {
    RetiredModel { kind, name, end, successor }
}

/// Every such model.
pub const RETIRED: &[RetiredModel] = &[
    retired(ProviderKind::OpenAi, "gpt-3.5-turbo", "2026-10-23", "gpt-5.6-terra"),
    retired(ProviderKind::OpenAi, "gpt-4", "2026-10-23", "gpt-5.6-sol"),
    retired(ProviderKind::OpenAi, "gpt-4-turbo", "2026-10-23", "gpt-5.6-sol"),
    retired(ProviderKind::OpenAi, "gpt-4.1", "2027-01-14", "gpt-6-luna"),
    retired(ProviderKind::OpenAi, "gpt-4.1-mini", "2027-01-14", "gpt-6-luna"),
    retired(ProviderKind::OpenAi, "gpt-4.1-nano", "2026-10-23", "gpt-5.6-luna"),
    retired(ProviderKind::OpenAi, "gpt-4o", "2027-01-14", "gpt-6-luna"),
    retired(ProviderKind::OpenAi, "gpt-4o-mini", "2027-01-14", "gpt-6-luna"),
    retired(ProviderKind::OpenAi, "gpt-5", "2026-12-11", "gpt-5.6-sol"),
    retired(ProviderKind::OpenAi, "gpt-5-mini", "2026-12-11", "gpt-5.6-terra"),
    retired(ProviderKind::OpenAi, "gpt-5-nano", "2026-12-11", "gpt-5.6-luna"),
    retired(ProviderKind::OpenAi, "gpt-5.1", "2027-04-01", "gpt-6-sol"),
    retired(ProviderKind::OpenAi, "gpt-5.4-nano", "2027-04-01", "gpt-6-luna"),
    retired(ProviderKind::OpenAi, "o1", "2026-10-23", "gpt-5.6-sol"),
    retired(ProviderKind::OpenAi, "o3", "2026-12-11", "gpt-5.6-sol"),
    retired(ProviderKind::OpenAi, "o3-mini", "2026-10-23", "gpt-5.6-sol"),
    retired(ProviderKind::OpenAi, "o4-mini", "2026-10-23", "gpt-5.6-terra"),
    retired(ProviderKind::Anthropic, "claude-sonnet-4-5", "2026-11-30", "claude-sonnet-5-5"),
    retired(ProviderKind::Gemini, "gemini-2.5-flash", "2026-12-01", "gemini-3.5-flash-lite"),
    retired(ProviderKind::Gemini, "gemini-2.5-pro", "2026-12-01", "gemini-3.8-flash"),
    retired(ProviderKind::Gemini, "gemini-3.1-flash-lite", "2027-05-07", "gemini-3.5-flash-lite"),
];

impl RetiredModel {
    /// The entry of a model, under its name or a dated one such as `gpt-4o-2024-11-20`.
    #[must_use]
    pub fn find(kind: ProviderKind, model_name: &str) -> Option<&'static Self> {
        let name = model_name.strip_prefix("models/").unwrap_or(model_name);
        let is_named = |entry: &&Self| match name.strip_prefix(entry.name) {
            Some("") => true,
            // A date, and not the name of another size or kind.
            Some(rest) => {
                rest.strip_prefix('-').is_some_and(|rest| rest.starts_with("20") && rest.len() >= 8)
            }
            None => false,
        };
        RETIRED.iter().filter(|entry| entry.kind == kind).find(is_named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retired_model(kind: ProviderKind, model: &str) -> Option<&'static str> {
        RetiredModel::find(kind, model).map(|entry| entry.end)
    }

    #[test]
    fn no_default_model_is_about_to_end() {
        for &kind in ProviderKind::ALL {
            assert_eq!(retired_model(kind, kind.default_model()), None, "{kind}");
        }
        for entry in RETIRED {
            let is_retired_too =
                RETIRED.iter().any(|other| other.kind == entry.kind && other.name == entry.successor);
            assert!(!is_retired_too, "{} has a successor with an end of its own", entry.name);
        }
    }

    #[test]
    fn model_is_found_with_and_without_its_date() {
        for (model, end) in [
            ("gpt-4o", Some("2027-01-14")),
            ("gpt-4o-2024-11-20", Some("2027-01-14")),
            ("gpt-4o-mini", Some("2027-01-14")),
            ("gpt-4o-audio-preview", None),
            ("gpt-5.5", None),
            ("gpt-5-pro", None),
        ] {
            assert_eq!(retired_model(ProviderKind::OpenAi, model), end, "{model}");
        }
        let sonnet = "claude-sonnet-4-5-20250929";
        assert_eq!(retired_model(ProviderKind::Anthropic, sonnet), Some("2026-11-30"));
        assert_eq!(retired_model(ProviderKind::Gemini, "models/gemini-2.5-pro"), Some("2026-12-01"));
        assert_eq!(retired_model(ProviderKind::Grok, "gpt-4o"), None);
    }
}
