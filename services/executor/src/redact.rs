//! Removes API keys of model providers, and secrets of MCP servers, from what Phoenix writes about an agent.
//!
//! An agent that received a key may print it in a stack trace or quote it from its provider's error. Standard error and
//! error messages are redacted before they are stored, logged or sent. The result of an action is not: it reaches the
//! caller as the agent wrote it.

use std::borrow::Cow;

use phoenix_domain::{
    AgentCatalog,
    llm::{LlmSettings, Secret},
    mcp::McpSettings,
};

const REDACTED: &str = "[redacted]";

/// Length of the shortest secret in bytes. Shorter keys (`ollama`, `none`) are placeholders that occur in ordinary text.
const MIN_SECRET_BYTES: usize = 16;

/// Knows every key, in plain form and as escaped by JSON.
#[derive(Default)]
pub(crate) struct Redactor {
    secrets: Vec<String>,
}

impl Redactor {
    pub(crate) fn new(llm: &LlmSettings) -> Self {
        Self::of(llm.api_keys().map(Secret::expose))
    }

    /// Knows the secrets of `agents`, too.
    pub(crate) fn with_agents(llm: &LlmSettings, agents: &AgentCatalog) -> Self {
        let servers = agents.iter().filter_map(|spec| spec.mcp.as_ref());
        let secrets = llm.api_keys().chain(servers.flat_map(McpSettings::secrets));
        Self::of(secrets.map(Secret::expose))
    }

    fn of<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        let mut secrets = Vec::new();
        for value in values {
            let plain = value.to_owned();
            let escaped = serde_json::Value::from(plain.as_str()).to_string();
            secrets.push(escaped.trim_matches('"').to_owned());
            secrets.push(plain);
        }
        secrets.retain(|secret| secret.len() >= MIN_SECRET_BYTES);
        // The longest first, so that no rest of a key remains when another key is its prefix.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Self { secrets }
    }

    /// `text` without secrets.
    pub(crate) fn clean<'a>(&self, text: impl Into<Cow<'a, str>>) -> Cow<'a, str> {
        self.secrets.iter().fold(text.into(), |text, secret| {
            if text.contains(secret) { text.replace(secret, REDACTED).into() } else { text }
        })
    }

    /// Length of the longest secret. So many bytes at the start of a truncated text may be part of one.
    pub(crate) fn longest(&self) -> usize {
        self.secrets.first().map_or(0, String::len)
    }
}

#[cfg(test)]
mod tests {
    use phoenix_domain::llm::{ProviderKind, ProviderSettings};

    use super::*;

    /// Key of a provider below `[llm.providers]`.
    const OWN_KEY: &str = "key-of-the-lab-0123456789";

    fn redactor(keys: &[&str]) -> Redactor {
        let mut llm = LlmSettings::default();
        for (key, &kind) in keys.iter().zip(ProviderKind::ALL) {
            llm.section_mut(kind).api_key = Some((*key).to_owned().into());
        }
        let own =
            ProviderSettings { api_key: Some(OWN_KEY.to_owned().into()), ..ProviderSettings::default() };
        llm.providers.insert("lab".into(), own);
        Redactor::new(&llm)
    }

    #[test]
    fn overlapping_and_escaped_keys_are_redacted() {
        let keys = ["sk-0123456789abc", "sk-0123456789abc-and-more", "0123456789\"quoted"];
        let redactor = redactor(&keys);
        let text =
            r#"sk-0123456789abc-and-more {"key":"0123456789\"quoted"} sk-0123456789abc 0123456789"quoted"#;
        assert_eq!(redactor.clean(text), r#"[redacted] {"key":"[redacted]"} [redacted] [redacted]"#);
        assert_eq!(redactor.clean(OWN_KEY), "[redacted]");
        assert_eq!(redactor.longest(), keys[1].len());
    }

    #[test]
    fn text_without_keys_is_not_copied() {
        assert!(matches!(redactor(&["sk-0123456789abc"]).clean("nothing here"), Cow::Borrowed(_)));
        assert!(matches!(redactor(&["", "t", "ollama"]).clean("a t in ollama"), Cow::Borrowed(_)));
    }

    #[test]
    fn redaction_begins_at_sixteen_bytes() {
        let (short, long) = ("x".repeat(MIN_SECRET_BYTES - 1), "y".repeat(MIN_SECRET_BYTES));
        let redactor = redactor(&[&short, &long]);
        assert_eq!(redactor.clean(format!("{short} {long}")), format!("{short} [redacted]"));
    }
}
