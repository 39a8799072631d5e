//! Settings of the language-model agent: provider, key, address and model.
//!
//! [`LlmSettings`] is the `[llm]` table of `phoenix.toml`; the executor passes it as JSON in [`SETTINGS_VARIABLE`] to the
//! language-model agent, and to no other process. This module opens no connection and does not read the environment:
//! [`LlmSettings::fill_from_environment`] takes a lookup.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize};

mod address;
mod finish;
mod provider;
mod retired;
mod secret;
mod selection;
mod text;

use self::text::set;
pub use self::{
    finish::FinishReason,
    provider::{DefaultProvider, Dialect, ProviderKind},
    retired::{RETIRED, RetiredModel},
    secret::Secret,
};

/// The environment variable that carries [`LlmSettings`] as JSON to the language-model agent's process.
pub const SETTINGS_VARIABLE: &str = "PHOENIX_LLM_SETTINGS";

/// The variable that names the abstract Unix socket from which the built-in language-model agent reads the same JSON. Its
/// environment then holds no key.
pub const SETTINGS_SOCKET_VARIABLE: &str = "PHOENIX_LLM_SETTINGS_SOCKET";

/// Default limit of tokens per answer, which bounds the cost of a chat.
pub const DEFAULT_MAX_TOKENS: NonZeroU32 = NonZeroU32::MIN.saturating_add(4095);

/// Default of `llm.stall_timeout_secs`.
pub const DEFAULT_STALL_TIMEOUT_SECS: NonZeroU32 = NonZeroU32::MIN.saturating_add(59);

/// Settings of one provider. An absent or blank field stands for the provider's default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderSettings {
    /// API key, sent to this provider only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,
    /// Base URL including the version path, as in the provider's documentation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// Model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// As [`LlmSettings::first_token_timeout_secs`], for this provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_token_timeout_secs: Option<NonZeroU32>,
    /// As [`LlmSettings::stall_timeout_secs`], for this provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stall_timeout_secs: Option<NonZeroU32>,
    /// As [`LlmSettings::timeout_secs`], for this provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_secs: Option<NonZeroU32>,
}

/// One provider with defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provider<'a> {
    /// Name in configuration, metadata and messages.
    pub name: &'a str,
    /// Provider, if it is a known one.
    pub kind: Option<ProviderKind>,
    /// API key, if set.
    pub api_key: Option<&'a Secret>,
    /// Base URL without a trailing slash.
    pub base_url: &'a str,
    /// Model.
    pub model_name: &'a str,
    /// Time until a streamed answer must begin, if there is a limit.
    pub first_token_timeout: Option<Duration>,
    /// Time between two pieces of a streamed answer.
    pub stall_timeout: Duration,
    /// Time for a whole answer, if there is a limit beside the deadline of the task.
    pub total_timeout: Option<Duration>,
}

/// The `[llm]` table of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LlmSettings {
    /// Provider that answers chats.
    pub default_provider: DefaultProvider,
    /// Limit of tokens per answer.
    pub max_tokens: NonZeroU32,
    /// Models that answer instead when the chosen provider fails before its answer begins, in this order: `provider/model`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fallback: Vec<String>,
    /// Whether a streamed answer that broke off may begin anew with the next model, unless the chat says otherwise.
    pub fallback_after_output: bool,
    /// Time in seconds until a streamed answer must begin. Without it, the deadline of the task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_token_timeout_secs: Option<NonZeroU32>,
    /// Time in seconds between two pieces of a streamed answer.
    pub stall_timeout_secs: NonZeroU32,
    /// Time in seconds for a whole answer of one model. Without it, the deadline of the task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_secs: Option<NonZeroU32>,
    /// Instructions for the model before every chat, in front of the chat's own context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// `[llm.openai]`
    pub openai: ProviderSettings,
    /// `[llm.anthropic]`
    pub anthropic: ProviderSettings,
    /// `[llm.gemini]`
    pub gemini: ProviderSettings,
    /// `[llm.grok]`
    pub grok: ProviderSettings,
    /// `[llm.openrouter]`
    pub openrouter: ProviderSettings,
    /// `[llm.ollama]`
    pub ollama: ProviderSettings,
    /// `[llm.lmstudio]`
    pub lmstudio: ProviderSettings,
    /// `[llm.providers.NAME]`: other servers with OpenAI's API.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub providers: BTreeMap<String, ProviderSettings>,
}

impl Default for LlmSettings {
    fn default() -> Self {
        Self {
            default_provider: DefaultProvider::default(),
            max_tokens: DEFAULT_MAX_TOKENS,
            fallback: Vec::new(),
            fallback_after_output: false,
            first_token_timeout_secs: None,
            stall_timeout_secs: DEFAULT_STALL_TIMEOUT_SECS,
            timeout_secs: None,
            system_prompt: None,
            openai: ProviderSettings::default(),
            anthropic: ProviderSettings::default(),
            gemini: ProviderSettings::default(),
            grok: ProviderSettings::default(),
            openrouter: ProviderSettings::default(),
            ollama: ProviderSettings::default(),
            lmstudio: ProviderSettings::default(),
            providers: BTreeMap::new(),
        }
    }
}

/// Description of the model in `GET /health`, derived from the settings alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LlmDescription {
    /// Name of the provider, `offline`, or `auto` while it depends on the request.
    pub provider: String,
    /// Name of the model, `none` when offline, or `auto` while it depends on the request.
    pub model: String,
}

impl LlmSettings {
    /// Whether `auto` without a key selects Ollama, because its model or a base URL is configured. Its failure then fails the
    /// chat, while an Ollama that is not configured is skipped when it does not respond.
    #[must_use]
    pub fn selects_ollama(&self) -> bool {
        let ollama = self.provider(ProviderKind::Ollama);
        set(self.ollama.model_name.as_deref()).is_some()
            || ollama.base_url != ProviderKind::Ollama.default_base_url()
    }

    /// Fills unset keys and base URLs from the conventional variables ([`ProviderKind::key_variables`],
    /// [`ProviderKind::base_url_variables`]). Returns the variables that provided a base URL.
    pub fn fill_from_environment(
        &mut self,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Vec<(ProviderKind, &'static str)> {
        let mut addresses = Vec::new();
        for &kind in ProviderKind::ALL {
            if self.provider(kind).api_key.is_none() {
                let key = kind
                    .key_variables()
                    .iter()
                    .find_map(|name| lookup(name).map(Secret::from).filter(|key| !key.is_empty()));
                self.section_mut(kind).api_key = key;
            }
            if set(self.section(kind).base_url.as_deref()).is_none() {
                let found = kind.base_url_variables().iter().find_map(|name| {
                    lookup(name)
                        .and_then(|value| address::from_variable(kind, name, &value))
                        .map(|url| (*name, url))
                });
                if let Some((name, url)) = found {
                    self.section_mut(kind).base_url = Some(url);
                    addresses.push((kind, name));
                }
            }
        }
        addresses
    }

    /// Invalid settings with their problems. `variables` is the result of
    /// [`fill_from_environment`](Self::fill_from_environment).
    #[must_use]
    pub fn problems(&self, variables: &[(ProviderKind, &'static str)]) -> Vec<(String, String)> {
        let problem = |kind: &ProviderKind| {
            let base_url = set(self.section(*kind).base_url.as_deref())?;
            let problem = address::problem(*kind, base_url)?;
            let variable = variables.iter().find(|(of, _)| of == kind);
            let setting =
                variable.map_or_else(|| format!("llm.{kind}.base_url"), |(_, name)| (*name).to_owned());
            Some((setting, problem))
        };
        let mut problems: Vec<_> = ProviderKind::ALL.iter().filter_map(problem).collect();
        problems.extend(self.selection_problems());
        problems
    }

    /// The provider and model that answer chats. Under `auto` without a key they depend on whether Ollama runs at the time of the
    /// chat, and on its models: the description is then `auto`, and the metadata of each chat names them.
    #[must_use]
    pub fn describe(&self) -> LlmDescription {
        let described =
            |provider: &str, model: &str| LlmDescription { provider: provider.into(), model: model.into() };
        match (self.chosen_provider(), &self.default_provider) {
            (Some(provider), _) => described(provider.name, provider.model_name),
            (None, DefaultProvider::Offline) => described("offline", "none"),
            (None, _) if self.selects_ollama() => described(ProviderKind::Ollama.as_str(), "auto"),
            (None, _) => described("auto", "auto"),
        }
    }

    /// Settings of one provider.
    #[must_use]
    pub const fn section(&self, kind: ProviderKind) -> &ProviderSettings {
        match kind {
            ProviderKind::OpenAi => &self.openai,
            ProviderKind::Anthropic => &self.anthropic,
            ProviderKind::Gemini => &self.gemini,
            ProviderKind::Grok => &self.grok,
            ProviderKind::OpenRouter => &self.openrouter,
            ProviderKind::Ollama => &self.ollama,
            ProviderKind::LmStudio => &self.lmstudio,
        }
    }

    /// Mutable settings of one provider.
    pub const fn section_mut(&mut self, kind: ProviderKind) -> &mut ProviderSettings {
        match kind {
            ProviderKind::OpenAi => &mut self.openai,
            ProviderKind::Anthropic => &mut self.anthropic,
            ProviderKind::Gemini => &mut self.gemini,
            ProviderKind::Grok => &mut self.grok,
            ProviderKind::OpenRouter => &mut self.openrouter,
            ProviderKind::Ollama => &mut self.ollama,
            ProviderKind::LmStudio => &mut self.lmstudio,
        }
    }
}

#[cfg(test)]
mod tests;
