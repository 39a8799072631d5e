//! The agent that asks a language model: one chat, one completion, over HTTP.
//!
//! | file | content |
//! |---|---|
//! | `wire/` | each provider's request and response as data; no I/O |
//! | `http.rs` | sends a request within the deadline and reads a bounded body |
//! | `proxy.rs` | the proxy for a request |
//! | `error_body.rs` | the message and status in a provider's error, in every format |
//! | `errors.rs` | translation into errors of the agent, without secrets (`redact.rs`) |
//! | `retry_after.rs` | the wait that a provider asks for |
//! | `ollama_probe.rs` | the model of an Ollama server, for `default_provider = "auto"` |
//! | `offline.rs` | the answer without a model |
//! | `settings.rs` | the settings, from a socket of the executor or the environment |
//!
//! A failed request is not retried here: retries belong to the executor. A request that was lost on a connection that the
//! provider had closed while it was idle has not failed yet.

use std::{env, time::Instant};

use phoenix_domain::{
    action::{ActionRequest, ActionResult, CHAT_ACTION},
    json::{Json, Object},
    llm::{DefaultProvider, LlmSettings, Provider, ProviderKind},
};
use serde_json::json;

use self::{
    errors::ProviderErrors,
    http::Http,
    wire::types::{Completion, Prompt},
};
use crate::{
    payload::Payload,
    protocol::{ActionError, Agent, deadline},
};

mod error_body;
mod errors;
mod http;
mod offline;
mod ollama_probe;
mod proxy;
mod redact;
mod retry_after;
mod settings;
mod wire;

pub use proxy::Proxies;

const ACTIONS: &[&str] = &[CHAT_ACTION];

/// Answers chats with the configured language model. The HTTP client is built at the first chat that needs it, and kept.
#[derive(Debug)]
pub struct LlmRouter {
    settings: Result<LlmSettings, String>,
    connection: Connection,
}

/// The client, built when first needed. A process has one set of settings, so one address.
#[derive(Debug)]
struct Connection {
    proxies: Proxies,
    http: Option<Http>,
}

/// The limits of one chat.
#[derive(Clone, Copy)]
struct Limits<'a> {
    /// Configured name of the agent.
    agent: &'a str,
    until: Instant,
}

impl LlmRouter {
    /// An agent with these settings and the proxies of its environment.
    #[must_use]
    pub fn new(settings: LlmSettings) -> Self {
        Self::with_proxies(settings, Proxies::from_lookup(variable))
    }

    /// An agent with these settings and proxies.
    #[must_use]
    pub const fn with_proxies(settings: LlmSettings, proxies: Proxies) -> Self {
        Self { settings: Ok(settings), connection: Connection { proxies, http: None } }
    }

    /// An agent with the settings that the executor passed, or else with the providers' conventional variables. Every chat is
    /// answered with the error of settings that cannot be read.
    #[must_use]
    pub fn from_environment() -> Self {
        let connection = Connection { proxies: Proxies::from_lookup(variable), http: None };
        Self { settings: settings::load(|name| env::var(name)), connection }
    }

    fn chat(
        &mut self,
        message: &str,
        context: &str,
        limits: Limits<'_>,
    ) -> Result<ActionResult, ActionError> {
        let settings = self.settings.as_ref().map_err(ActionError::internal)?;
        let system = [settings.system_prompt.as_deref().unwrap_or_default(), context]
            .into_iter()
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join("\n\n");
        let prompt = Prompt { system: &system, message, max_tokens: settings.max_tokens.get() };
        if let Some(provider) = settings.chosen_provider() {
            return self.connection.ask(provider, &prompt, limits);
        }
        if settings.default_provider == DefaultProvider::Auto {
            let ollama = settings.provider(ProviderKind::Ollama);
            let is_required = settings.selects_ollama();
            match self.connection.usable_model(ollama, is_required, limits) {
                Ok(model) => {
                    return self.connection.ask(Provider { model_name: &model, ..ollama }, &prompt, limits);
                }
                Err(error) if is_required => return Err(error),
                Err(_) => {}
            }
        }
        Ok(offline::answer(settings))
    }
}

impl Agent for LlmRouter {
    fn handle(&mut self, request: &ActionRequest) -> Result<ActionResult, ActionError> {
        let limits = Limits { agent: request.tool.as_str(), until: deadline(request) };
        if request.action != CHAT_ACTION {
            return Err(ActionError::unknown_action(&request.action, ACTIONS));
        }
        self.chat(Payload::of(request).text("message")?, &request.context, limits)
    }
}

impl<'a> Limits<'a> {
    fn errors(self, provider: Provider<'a>) -> ProviderErrors<'a> {
        ProviderErrors::of(provider, self.agent, self.until.saturating_duration_since(Instant::now()))
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}

impl Connection {
    fn client(&mut self, provider: Provider<'_>, errors: ProviderErrors<'_>) -> Result<&Http, ActionError> {
        match &mut self.http {
            Some(http) => Ok(http),
            empty => {
                let http = Http::new(provider.base_url, &self.proxies);
                Ok(empty.insert(http.map_err(|error| errors.transport(error))?))
            }
        }
    }

    /// A model of this Ollama server. A server that no setting names gets little time to answer.
    fn usable_model(
        &mut self,
        ollama: Provider<'_>,
        is_required: bool,
        limits: Limits<'_>,
    ) -> Result<String, ActionError> {
        let errors = limits.errors(ollama);
        let until = match is_required {
            true => limits.until,
            false => limits.until.min(Instant::now() + ollama_probe::TIMEOUT),
        };
        ollama_probe::usable_model(self.client(ollama, errors)?, ollama, errors, until)
    }

    fn ask(
        &mut self,
        provider: Provider<'_>,
        prompt: &Prompt<'_>,
        limits: Limits<'_>,
    ) -> Result<ActionResult, ActionError> {
        let errors = limits.errors(provider);
        if provider.lacks_key() {
            return Err(errors.no_key());
        }
        let response = self
            .client(provider, errors)?
            .send(&wire::request(provider, prompt), limits.until)
            .map_err(|error| errors.transport(error))?;
        if !(200..300).contains(&response.status) {
            return Err(errors.status(&response));
        }
        let completion = wire::completion(provider.kind, &response.body)
            .map_err(|error| errors.response(error, &response))?;
        Ok(result(provider, completion))
    }
}

/// The model's text as it is, with metadata.
fn result(provider: Provider<'_>, completion: Completion) -> ActionResult {
    let Completion { text, model, finish_reason, input_tokens, output_tokens } = completion;
    let mut metadata = Object::new();
    metadata.insert("provider".into(), provider.kind.as_str().into());
    metadata.insert("model".into(), model.unwrap_or_else(|| provider.model_name.into()).into());
    if let Some(reason) = finish_reason {
        metadata.insert("finish_reason".into(), reason.into());
    }
    if input_tokens.or(output_tokens).is_some() {
        let usage = json!({"input_tokens": input_tokens, "output_tokens": output_tokens});
        metadata.insert("usage".into(), usage.into());
    }
    ActionResult { output_type: "markdown".into(), data: Json::String(text), metadata }
}
