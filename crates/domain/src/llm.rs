//! Settings of the language-model agent: which provider answers, under which key, address and model.
//!
//! The same value is the `[llm]` table of `phoenix.toml` and, as JSON in [`SETTINGS_VARIABLE`], what the executor hands
//! to the process of the language-model agent and to no other. Nothing here opens a connection or reads the
//! environment: [`LlmSettings::fill_from_environment`] is given a lookup.

use std::{fmt, num::NonZeroU32};

use serde::{Deserialize, Serialize};

mod address;
mod finish;
mod provider;

pub use finish::FinishReason;
pub use provider::{DefaultProvider, InvalidProvider, ProviderKind};

/// The environment variable that carries [`LlmSettings`] as JSON to the language-model agent's process.
pub const SETTINGS_VARIABLE: &str = "PHOENIX_LLM_SETTINGS";

/// The most tokens of an answer when the settings don't say: a bound on what one chat can cost.
pub const DEFAULT_MAX_TOKENS: NonZeroU32 = NonZeroU32::MIN.saturating_add(4095);

/// A value that must not be seen: `Debug` and `Display` write `[redacted]`.
///
/// `Serialize` writes the real value, because [`LlmSettings`] travels as JSON to the one process that needs its keys.
/// So never serialize settings into a log, an answer or a file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String")]
pub struct Secret(String);

impl Secret {
    /// The value itself. Every call is a place to check when asking where a key may go.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing to hide: such a secret counts as not set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    /// Surrounding white space is dropped: keys read from files end in a newline, which no header may carry.
    fn from(value: String) -> Self {
        Self(value.trim().into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What was configured for one provider. A field that is absent or blank means the provider's own default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderSettings {
    /// Sent to this provider only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<Secret>,
    /// Its address, version path included, as the provider's own documentation writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// The model to ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
}

/// One provider with its defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provider<'a> {
    /// Which one.
    pub kind: ProviderKind,
    /// Its key, when one is set.
    pub api_key: Option<&'a Secret>,
    /// Its address, without a slash at the end.
    pub base_url: &'a str,
    /// The model to ask.
    pub model_name: &'a str,
}

impl Provider<'_> {
    /// Whether a request can't succeed for want of a key. An address of the operator's own may well need none.
    #[must_use]
    pub fn lacks_key(&self) -> bool {
        self.api_key.is_none()
            && !self.kind.key_variables().is_empty()
            && self.base_url == self.kind.default_base_url()
    }
}

/// The `[llm]` table of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LlmSettings {
    /// Who answers.
    pub default_provider: DefaultProvider,
    /// The most tokens of one answer.
    pub max_tokens: NonZeroU32,
    /// What the model is told before every chat, in front of the chat's own context.
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
}

impl Default for LlmSettings {
    fn default() -> Self {
        Self {
            default_provider: DefaultProvider::default(),
            max_tokens: DEFAULT_MAX_TOKENS,
            system_prompt: None,
            openai: ProviderSettings::default(),
            anthropic: ProviderSettings::default(),
            gemini: ProviderSettings::default(),
            grok: ProviderSettings::default(),
            openrouter: ProviderSettings::default(),
            ollama: ProviderSettings::default(),
            lmstudio: ProviderSettings::default(),
        }
    }
}

/// What `GET /health` says about the model, known without asking anyone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LlmDescription {
    /// A provider's name, `offline`, or `auto` while only a request can tell.
    pub provider: &'static str,
    /// The model's name, `none` when offline, or `auto` while only a request can tell.
    pub model: String,
}

impl LlmSettings {
    /// One provider with its defaults filled in.
    #[must_use]
    pub fn provider(&self, kind: ProviderKind) -> Provider<'_> {
        let settings = self.section(kind);
        let base_url = set(settings.base_url.as_deref()).unwrap_or(kind.default_base_url());
        let base_url = match kind {
            ProviderKind::Ollama => address::ollama_root(base_url),
            _ => base_url.trim_end_matches('/'),
        };
        Provider {
            kind,
            api_key: settings.api_key.as_ref().filter(|key| !key.is_empty()),
            base_url,
            model_name: set(settings.model_name.as_deref()).unwrap_or(kind.default_model()),
        }
    }

    /// The provider that is certain to be asked: the named one; under `auto` the first whose key is set, else an Ollama
    /// whose model is set.
    #[must_use]
    pub fn chosen_provider(&self) -> Option<Provider<'_>> {
        let has_key = |provider: &Provider<'_>| provider.api_key.is_some();
        match self.default_provider {
            DefaultProvider::Offline => None,
            DefaultProvider::Named(kind) => Some(self.provider(kind)),
            DefaultProvider::Auto => {
                (ProviderKind::ALL.iter().map(|&kind| self.provider(kind)).find(has_key)).or_else(|| {
                    set(self.ollama.model_name.as_deref()).map(|_| self.provider(ProviderKind::Ollama))
                })
            }
        }
    }

    /// Whether `auto` means an Ollama, when no key is set: its model or another address than the usual one is. Then its
    /// failure is the answer, while an Ollama that merely might run here is passed over when it does not answer.
    #[must_use]
    pub fn means_ollama(&self) -> bool {
        let ollama = self.provider(ProviderKind::Ollama);
        set(self.ollama.model_name.as_deref()).is_some()
            || ollama.base_url != ProviderKind::Ollama.default_base_url()
    }

    /// Takes what is not set from the conventional variables: keys ([`ProviderKind::key_variables`]) and addresses
    /// ([`ProviderKind::base_url_variables`]). Gives the variables that an address was taken from.
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

    /// Settings that cannot work, each with what is wrong with it. `variables` is what
    /// [`fill_from_environment`](Self::fill_from_environment) gave.
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
        ProviderKind::ALL.iter().filter_map(problem).collect()
    }

    /// Who answers chats, as far as the settings alone tell. Under `auto` without any key the answer depends on whether
    /// an Ollama runs at the moment of the chat, and which models it has: then `auto` stands for what is not known, and
    /// the chat's own metadata tells.
    #[must_use]
    pub fn describe(&self) -> LlmDescription {
        match (self.chosen_provider(), self.default_provider) {
            (Some(provider), _) => {
                LlmDescription { provider: provider.kind.as_str(), model: provider.model_name.into() }
            }
            (None, DefaultProvider::Offline) => LlmDescription { provider: "offline", model: "none".into() },
            (None, _) if self.means_ollama() => {
                LlmDescription { provider: ProviderKind::Ollama.as_str(), model: "auto".into() }
            }
            (None, _) => LlmDescription { provider: "auto", model: "auto".into() },
        }
    }

    /// What was configured for one provider.
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

    /// The same, to be changed.
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

/// A configured text, unless it is blank: `"${NAME}"` of an empty variable configures nothing.
fn set(text: Option<&str>) -> Option<&str> {
    text.map(str::trim).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests;
