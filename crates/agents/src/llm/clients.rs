//! The HTTP clients of the agent, and the limits of one chat.

use std::{collections::HashMap, time::Instant};

use phoenix_domain::llm::{LlmSettings, Provider, ProviderKind};

use super::{
    breakers::Breakers,
    conversation::Conversation,
    errors::ProviderErrors,
    http::{Http, TransportError},
    ollama_probe,
    proxy::Proxies,
};
use crate::protocol::ActionError;

/// The clients by base URL, built when first needed, and the breakers. The settings name all base URLs, so there are few.
#[derive(Debug)]
pub(super) struct Clients {
    proxies: Proxies,
    http: HashMap<String, Http>,
    pub(super) breakers: Breakers,
}

/// The limits of one chat.
#[derive(Clone, Copy)]
pub(super) struct Limits<'a> {
    /// Configured name of the agent.
    pub(super) agent: &'a str,
    pub(super) until: Instant,
}

impl<'a> Limits<'a> {
    pub(super) fn errors(self, provider: Provider<'a>) -> ProviderErrors<'a> {
        ProviderErrors::of(provider, self.agent, self.until.saturating_duration_since(Instant::now()))
    }
}

impl Clients {
    pub(super) fn new(proxies: Proxies) -> Self {
        Self { proxies, http: HashMap::new(), breakers: Breakers::default() }
    }

    pub(super) fn client(
        &mut self,
        provider: Provider<'_>,
        errors: ProviderErrors<'_>,
    ) -> Result<&Http, ActionError> {
        if !self.http.contains_key(provider.base_url) {
            let http =
                Http::new(provider.base_url, &self.proxies).map_err(|error| errors.transport(error))?;
            self.http.insert(provider.base_url.to_owned(), http);
        }
        // Present since the line above.
        self.http.get(provider.base_url).ok_or_else(|| errors.transport(TransportError::NoClient))
    }

    /// The model that the chat names, else one of the Ollama server. A server that no setting names gets little time to answer.
    pub(super) fn usable_model(
        &mut self,
        settings: &LlmSettings,
        conversation: &Conversation,
        limits: Limits<'_>,
    ) -> Result<String, ActionError> {
        let ollama = settings.provider(ProviderKind::Ollama);
        let errors = limits.errors(ollama);
        let until = match settings.selects_ollama() {
            true => limits.until,
            false => limits.until.min(Instant::now() + ollama_probe::TIMEOUT),
        };
        let model = ollama_probe::usable_model(self.client(ollama, errors)?, ollama, errors, until)?;
        Ok(conversation.model.clone().unwrap_or(model))
    }
}
