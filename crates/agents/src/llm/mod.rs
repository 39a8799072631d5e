//! The agent that asks a language model: one chat, one completion, over HTTP.
//!
//! | file | content |
//! |---|---|
//! | `conversation.rs` | messages, model and options of a chat |
//! | `chain.rs` | the models that may answer, one after the other, until an answer begins |
//! | `breakers.rs` | which providers are down, and are passed over |
//! | `clients.rs` | the HTTP clients, one for each base URL, and the limits of a chat |
//! | `exchange.rs` | one completion of one model, at once or in pieces |
//! | `pieces.rs` | pieces of an answer on their way to the caller |
//! | `result.rs`, `cost.rs` | the result with its metadata: model, usage, cost |
//! | `wire/` | each provider's requests, responses and streams as data; no I/O |
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

use std::env;

use phoenix_domain::{
    action::{ActionRequest, ActionResult, CHAT_ACTION},
    llm::{DefaultProvider, LlmSettings, Provider, ProviderKind},
};

use self::{
    chain::Chain,
    clients::{Clients, Limits},
    conversation::Conversation,
};
use crate::protocol::{ActionError, Agent, Output, deadline};

mod breakers;
mod chain;
mod clients;
mod conversation;
mod cost;
mod error_body;
mod errors;
mod exchange;
mod http;
mod offline;
mod ollama_probe;
mod pieces;
mod proxy;
mod redact;
mod result;
mod retry_after;
mod settings;
mod wire;

pub use proxy::Proxies;

const ACTIONS: &[&str] = &[CHAT_ACTION];

/// Answers chats with the configured language models. An HTTP client is built at the first chat that needs it, and kept.
#[derive(Debug)]
pub struct LlmRouter {
    settings: Result<LlmSettings, String>,
    clients: Clients,
}

impl LlmRouter {
    /// An agent with these settings and the proxies of its environment.
    #[must_use]
    pub fn new(settings: LlmSettings) -> Self {
        Self::with_proxies(settings, Proxies::from_lookup(variable))
    }

    /// An agent with these settings and proxies.
    #[must_use]
    pub fn with_proxies(settings: LlmSettings, proxies: Proxies) -> Self {
        Self { settings: Ok(settings), clients: Clients::new(proxies) }
    }

    /// An agent with the settings that the executor passed, or else with the providers' conventional variables. Every chat is
    /// answered with the error of settings that cannot be read.
    #[must_use]
    pub fn from_environment() -> Self {
        let clients = Clients::new(Proxies::from_lookup(variable));
        Self { settings: settings::load(|name| env::var(name)), clients }
    }

    fn chat(
        &mut self,
        attempt: u32,
        conversation: &Conversation,
        limits: Limits<'_>,
        output: &mut Output<'_>,
    ) -> Result<ActionResult, ActionError> {
        let Self { settings, clients } = self;
        let settings = settings.as_ref().map_err(ActionError::internal)?;
        let local_model;
        let first = match first_target(settings, conversation) {
            Some(target) => target,
            None if settings.default_provider == DefaultProvider::Auto => {
                let ollama = settings.provider(ProviderKind::Ollama);
                match clients.usable_model(settings, conversation, limits) {
                    Ok(model) => {
                        local_model = model;
                        ollama.with_model(&local_model)
                    }
                    Err(error) if settings.selects_ollama() => return Err(error),
                    Err(_) => return Ok(offline::answer(settings)),
                }
            }
            None => return Ok(offline::answer(settings)),
        };
        let chain = Chain::new(settings, first, conversation).of_attempt(attempt, output.is_wanted());
        chain.run(clients, limits, output)
    }
}

/// The model that the chat names, else the one that the settings determine; `None` if both leave it open.
fn first_target<'a>(settings: &'a LlmSettings, conversation: &'a Conversation) -> Option<Provider<'a>> {
    let Some(name) = conversation.model.as_deref() else { return settings.chosen_provider() };
    // A name without a provider is a model of the chosen one.
    settings.target(name).or_else(|| Some(settings.chosen_provider()?.with_model(name)))
}

impl Agent for LlmRouter {
    fn handle(&mut self, request: &ActionRequest) -> Result<ActionResult, ActionError> {
        self.stream(request, &mut Output::none())
    }

    fn stream(
        &mut self,
        request: &ActionRequest,
        output: &mut Output<'_>,
    ) -> Result<ActionResult, ActionError> {
        let limits = Limits { agent: request.tool.as_str(), until: deadline(request) };
        if request.action != CHAT_ACTION {
            return Err(ActionError::unknown_action(&request.action, ACTIONS));
        }
        self.chat(request.meta.attempt, &Conversation::of(request)?, limits, output)
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}
