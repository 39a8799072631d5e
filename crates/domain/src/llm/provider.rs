//! Providers of language models, with their defaults.

use std::fmt;

use serde::{Deserialize, Serialize};

/// API of a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI's chat completions, which most servers copy.
    OpenAi,
    /// Anthropic's messages.
    Anthropic,
    /// Google's generateContent.
    Gemini,
    /// Ollama's chat.
    Ollama,
}

/// A provider of language models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// <https://platform.openai.com/docs/api-reference/chat>
    OpenAi,
    /// <https://docs.anthropic.com/en/api/messages>
    Anthropic,
    /// <https://ai.google.dev/api/generate-content>
    Gemini,
    /// <https://docs.x.ai/docs/api-reference>
    Grok,
    /// <https://openrouter.ai/docs/api-reference/overview>
    OpenRouter,
    /// <https://docs.ollama.com/api/chat>
    Ollama,
    /// <https://lmstudio.ai/docs/developer/openai-compat>
    LmStudio,
}

impl ProviderKind {
    /// Every provider, in the order in which [`DefaultProvider::Auto`] looks for a key.
    pub const ALL: &'static [Self] = &[
        Self::OpenAi,
        Self::Anthropic,
        Self::Gemini,
        Self::Grok,
        Self::OpenRouter,
        Self::Ollama,
        Self::LmStudio,
    ];

    /// The name in configuration, metadata and `GET /health`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Grok => "grok",
            Self::OpenRouter => "openrouter",
            Self::Ollama => "ollama",
            Self::LmStudio => "lmstudio",
        }
    }

    /// Conventional environment variables of the API key; empty for providers without keys.
    #[must_use]
    pub const fn key_variables(self) -> &'static [&'static str] {
        match self {
            Self::OpenAi => &["OPENAI_API_KEY"],
            Self::Anthropic => &["ANTHROPIC_API_KEY"],
            Self::Gemini => &["GEMINI_API_KEY", "GOOGLE_API_KEY"],
            Self::Grok => &["XAI_API_KEY"],
            Self::OpenRouter => &["OPENROUTER_API_KEY"],
            Self::Ollama | Self::LmStudio => &[],
        }
    }

    /// Conventional environment variables of the base URL.
    #[must_use]
    pub const fn base_url_variables(self) -> &'static [&'static str] {
        match self {
            Self::OpenAi => &["OPENAI_BASE_URL", "OPENAI_API_BASE"],
            Self::Anthropic => &["ANTHROPIC_BASE_URL"],
            Self::Gemini => &["GEMINI_BASE_URL", "GOOGLE_GEMINI_BASE_URL"],
            Self::Grok => &["XAI_BASE_URL", "GROK_BASE_URL"],
            Self::OpenRouter => &["OPENROUTER_BASE_URL"],
            Self::Ollama => &["OLLAMA_BASE_URL", "OLLAMA_HOST"],
            Self::LmStudio => &["LMSTUDIO_BASE_URL"],
        }
    }

    /// Default base URL.
    #[must_use]
    pub const fn default_base_url(self) -> &'static str {
        match self {
            Self::OpenAi => "https://api.openai.com/v1",
            Self::Anthropic => "https://api.anthropic.com/v1",
            Self::Gemini => "https://generativelanguage.googleapis.com/v1beta",
            Self::Grok => "https://api.x.ai/v1",
            Self::OpenRouter => "https://openrouter.ai/api/v1",
            Self::Ollama => "http://127.0.0.1:11434",
            Self::LmStudio => "http://127.0.0.1:1234/v1",
        }
    }

    /// API that the provider speaks.
    #[must_use]
    pub const fn dialect(self) -> Dialect {
        match self {
            Self::OpenAi | Self::Grok | Self::OpenRouter | Self::LmStudio => Dialect::OpenAi,
            Self::Anthropic => Dialect::Anthropic,
            Self::Gemini => Dialect::Gemini,
            Self::Ollama => Dialect::Ollama,
        }
    }

    /// The provider of that name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }

    /// Default model. A test compares it with the table of [`super::retired`].
    #[must_use]
    pub const fn default_model(self) -> &'static str {
        match self {
            Self::OpenAi => "gpt-6-luna",
            Self::Anthropic => "claude-sonnet-5-5",
            Self::Gemini => "gemini-3.5-flash-lite",
            Self::Grok => "grok-4.7",
            Self::OpenRouter => "openrouter/auto",
            Self::Ollama => "llama3.2",
            Self::LmStudio => "local-model",
        }
    }
}

impl fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Provider that answers chats.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum DefaultProvider {
    /// The first provider of [`ProviderKind::ALL`] with a key, else Ollama if it responds, else none.
    #[default]
    Auto,
    /// None: the agent answers that no model is configured.
    Offline,
    /// A certain provider.
    Named(ProviderKind),
    /// A provider below `[llm.providers]`. [`LlmSettings::problems`](super::LlmSettings::problems) names one that is not there.
    Own(String),
}

impl DefaultProvider {
    /// The name in configuration.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Auto => "auto",
            Self::Offline => "offline",
            Self::Named(kind) => kind.as_str(),
            Self::Own(name) => name,
        }
    }
}

impl From<String> for DefaultProvider {
    fn from(name: String) -> Self {
        match (name.as_str(), ProviderKind::of_name(&name)) {
            ("auto", _) => Self::Auto,
            ("offline", _) => Self::Offline,
            (_, Some(kind)) => Self::Named(kind),
            (_, None) => Self::Own(name),
        }
    }
}

impl From<DefaultProvider> for String {
    fn from(provider: DefaultProvider) -> Self {
        provider.as_str().into()
    }
}

impl fmt::Display for DefaultProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
