//! Selection of providers and models: by default, by a name such as `anthropic/claude-sonnet-5-5`, and as a fallback.

use std::time::Duration;

use super::{
    DefaultProvider, Dialect, LlmSettings, Provider, ProviderKind, ProviderSettings, RetiredModel, Secret,
    address, text::set,
};

/// Names that stand for the configured choice, so that no provider may have them.
const RESERVED: &[&str] = &["auto", "offline", "phoenix"];

/// Longest name of a provider.
const MAX_NAME_CHARS: usize = 64;

impl<'a> Provider<'a> {
    /// Whether requests fail for lack of a key. A configured base URL may need no key.
    #[must_use]
    pub fn lacks_key(&self) -> bool {
        self.api_key.is_none()
            && self.kind.is_some_and(|kind| {
                !kind.key_variables().is_empty() && self.base_url == kind.default_base_url()
            })
    }

    /// API that the provider speaks.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.kind.map_or(Dialect::OpenAi, ProviderKind::dialect)
    }

    /// Name of one of its settings in the configuration file.
    #[must_use]
    pub fn setting(&self, field: &str) -> String {
        match self.kind {
            Some(kind) => format!("llm.{kind}.{field}"),
            None => format!("llm.providers.{}.{field}", self.name),
        }
    }

    /// `provider/model`, as in requests and in `llm.fallback`.
    #[must_use]
    pub fn target(&self) -> String {
        let own = self.model_name.strip_prefix(self.name).is_some_and(|rest| rest.starts_with('/'));
        if own { self.model_name.into() } else { format!("{}/{}", self.name, self.model_name) }
    }

    /// The announced end of its model, at the provider's own address.
    #[must_use]
    pub fn retired_model(&self) -> Option<&'static RetiredModel> {
        let kind = self.kind.filter(|kind| self.base_url == kind.default_base_url())?;
        RetiredModel::find(kind, self.model_name)
    }

    /// The provider with another model.
    #[must_use]
    pub fn with_model(self, model_name: &'a str) -> Self {
        Self { model_name, ..self }
    }
}

impl LlmSettings {
    /// One provider with defaults filled in.
    #[must_use]
    pub fn provider(&self, kind: ProviderKind) -> Provider<'_> {
        let settings = self.section(kind);
        let base_url = set(settings.base_url.as_deref()).unwrap_or(kind.default_base_url());
        let base_url = match kind {
            ProviderKind::Ollama => address::ollama_root(base_url),
            _ => base_url.trim_end_matches('/'),
        };
        let model_name = set(settings.model_name.as_deref()).unwrap_or(kind.default_model());
        self.filled(kind.as_str(), Some(kind), settings, base_url, model_name)
    }

    fn filled<'a>(
        &self,
        name: &'a str,
        kind: Option<ProviderKind>,
        settings: &'a ProviderSettings,
        base_url: &'a str,
        model_name: &'a str,
    ) -> Provider<'a> {
        let secs = |secs: std::num::NonZeroU32| Duration::from_secs(secs.get().into());
        Provider {
            name,
            kind,
            api_key: settings.api_key.as_ref().filter(|key| !key.is_empty()),
            base_url,
            model_name,
            first_token_timeout: settings
                .first_token_timeout_secs
                .or(self.first_token_timeout_secs)
                .map(secs),
            stall_timeout: secs(settings.stall_timeout_secs.unwrap_or(self.stall_timeout_secs)),
            total_timeout: settings.timeout_secs.or(self.timeout_secs).map(secs),
        }
    }

    /// A provider below `[llm.providers]`.
    fn own(&self, name: &str) -> Option<Provider<'_>> {
        let (name, settings) = self.providers.get_key_value(name)?;
        let base_url = set(settings.base_url.as_deref()).unwrap_or_default().trim_end_matches('/');
        let model_name = set(settings.model_name.as_deref()).unwrap_or_default();
        Some(self.filled(name, None, settings, base_url, model_name))
    }

    /// The provider of that name: a known one, or one below `[llm.providers]`.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Provider<'_>> {
        ProviderKind::of_name(name).map(|kind| self.provider(kind)).or_else(|| self.own(name))
    }

    /// The provider and the model of a name such as `anthropic/claude-sonnet-5-5`, or of a provider's name alone. `None` when it
    /// does not begin with a provider.
    #[must_use]
    pub fn target<'a>(&'a self, name: &'a str) -> Option<Provider<'a>> {
        let (provider, model) = name.split_once('/').unwrap_or((name, ""));
        let provider = self.find(provider)?;
        Some(match model.trim() {
            "" => provider,
            // OpenRouter's own models have its name as their author.
            model if provider.kind == Some(ProviderKind::OpenRouter) && !model.contains('/') => {
                provider.with_model(name)
            }
            model => provider.with_model(model),
        })
    }

    /// The models of the providers that have a key or whose model is set, as `provider/model`.
    #[must_use]
    pub fn configured_models(&self) -> Vec<String> {
        let is_configured = |kind: &ProviderKind| {
            let settings = self.section(*kind);
            self.provider(*kind).api_key.is_some() || set(settings.model_name.as_deref()).is_some()
        };
        let known =
            ProviderKind::ALL.iter().filter(|kind| is_configured(kind)).map(|&kind| self.provider(kind));
        let own = self.providers.keys().filter_map(|name| self.own(name));
        known.chain(own).map(|provider| provider.target()).collect()
    }

    /// Every key, of known providers and others.
    pub fn api_keys(&self) -> impl Iterator<Item = &Secret> {
        let known = ProviderKind::ALL.iter().map(|&kind| self.section(kind));
        known.chain(self.providers.values()).filter_map(|settings| settings.api_key.as_ref())
    }

    /// The provider that the settings determine: the named one; under `auto` the first with a key, else Ollama if its model is
    /// set.
    #[must_use]
    pub fn chosen_provider(&self) -> Option<Provider<'_>> {
        let has_key = |provider: &Provider<'_>| provider.api_key.is_some();
        match &self.default_provider {
            DefaultProvider::Offline => None,
            DefaultProvider::Named(kind) => Some(self.provider(*kind)),
            DefaultProvider::Own(name) => self.own(name),
            DefaultProvider::Auto => {
                (ProviderKind::ALL.iter().map(|&kind| self.provider(kind)).find(has_key)).or_else(|| {
                    set(self.ollama.model_name.as_deref()).map(|_| self.provider(ProviderKind::Ollama))
                })
            }
        }
    }

    /// Name of the provider that is asked first; `None` when none is.
    #[must_use]
    pub fn first_provider(&self) -> Option<String> {
        match (self.chosen_provider(), &self.default_provider) {
            (Some(provider), _) => Some(provider.name.to_owned()),
            // If one answers.
            (None, DefaultProvider::Auto) => Some(ProviderKind::Ollama.as_str().to_owned()),
            (None, _) => None,
        }
    }

    /// The configured models that are about to end, each with the setting that names it: of the chosen provider and of the
    /// fallbacks.
    pub fn retired_models(&self) -> impl Iterator<Item = (Provider<'_>, &'static RetiredModel)> {
        let fallbacks = self.fallback.iter().filter_map(|name| self.target(name));
        let all = self.chosen_provider().into_iter().chain(fallbacks);
        all.filter_map(|provider| Some((provider, provider.retired_model()?)))
    }

    /// The problems of names: of the default provider, of own providers and of fallbacks.
    pub(super) fn selection_problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut known: Vec<&str> = ProviderKind::ALL.iter().map(|kind| kind.as_str()).collect();
        known.extend(self.providers.keys().map(String::as_str));
        let known = known.join("`, `");
        if let DefaultProvider::Own(name) = &self.default_provider
            && self.own(name).is_none()
        {
            let problem = format!("must be `auto`, `offline`, `{known}`");
            problems.push(("llm.default_provider".to_owned(), problem));
        }
        for (index, name) in self.fallback.iter().enumerate() {
            if self.target(name).is_none() {
                let problem = format!("must be `provider/model`; the providers are `{known}`");
                problems.push((format!("llm.fallback[{index}]"), problem));
            }
        }
        for (name, settings) in &self.providers {
            let mut add = |field: &str, problem: String| {
                problems.push((format!("llm.providers.{name}{field}"), problem));
            };
            let is_valid =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
            if name.is_empty() || name.len() > MAX_NAME_CHARS || !name.chars().all(is_valid) {
                add("", format!("the name must be 1 to {MAX_NAME_CHARS} of a-z, 0-9, `-`, `_` and `.`"));
            } else if RESERVED.contains(&name.as_str()) {
                add("", "the name is reserved; choose another one".into());
            } else if ProviderKind::of_name(name).is_some() {
                add("", format!("the name is that of a known provider; write [llm.{name}]"));
            }
            match set(settings.base_url.as_deref()) {
                None => add(".base_url", "is missing; write the server's address with its version".into()),
                Some(url) => {
                    if let Some(problem) = address::problem(ProviderKind::OpenAi, url) {
                        add(".base_url", problem);
                    }
                }
            }
            if set(settings.model_name.as_deref()).is_none() {
                add(".model_name", "is missing; name the model for chats that name none".into());
            }
        }
        problems
    }
}
