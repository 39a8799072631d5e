//! The agent that asks a language model: one chat, one completion, over HTTP.
//!
//! | file | what |
//! |---|---|
//! | `wire/` | each provider's request and response as data; no I/O |
//! | `http.rs` | sends such a request within the deadline and reads a bounded body |
//! | `proxy.rs` | which proxy that goes through |
//! | `refusal.rs` | what a provider says about a refusal, in whatever shape |
//! | `failure.rs` | what that means to the caller, with nothing secret in it (`redact.rs`) |
//! | `retry_after.rs` | when a provider says that it can be asked again |
//! | `ollama_probe.rs` | which model an Ollama has, for `default_provider = "auto"` |
//! | `offline.rs` | the answer when there is no model |
//!
//! A request that failed is not sent again here: retrying is the executor's job. One that was lost on a connection that the
//! provider had closed while it was idle has not failed yet.

use std::{env, time::Instant};

use phoenix_domain::{
    action::{ActionRequest, ActionResult, CHAT_ACTION},
    json::{Json, Object},
    llm::{DefaultProvider, LlmSettings, Provider, ProviderKind, SETTINGS_VARIABLE},
};
use serde_json::json;

use self::{failure::Failure, http::Http, wire::Prompt};
use crate::{ActionError, Agent, Payload, protocol::deadline};

mod failure;
mod http;
mod offline;
mod ollama_probe;
mod proxy;
mod redact;
mod refusal;
mod retry_after;
mod wire;

pub use proxy::Proxies;

const ACTIONS: &[&str] = &[CHAT_ACTION];

/// Answers chats with the configured language model. The HTTP client is built at the first chat that needs one and kept.
#[derive(Debug)]
pub struct LlmRouter {
    settings: Result<LlmSettings, String>,
    connection: Connection,
}

/// The client, built when first needed. One process has one set of settings, hence one address to speak to.
#[derive(Debug)]
struct Connection {
    proxies: Proxies,
    http: Option<Http>,
}

/// What one chat has to go by.
#[derive(Clone, Copy)]
struct Limits<'a> {
    /// The agent's configured name.
    agent: &'a str,
    until: Instant,
}

impl LlmRouter {
    /// The agent with these settings, which speaks through the proxies that its environment names.
    #[must_use]
    pub fn new(settings: LlmSettings) -> Self {
        Self::with_proxies(settings, Proxies::from_lookup(variable))
    }

    /// The agent with these settings, which speaks through these proxies.
    #[must_use]
    pub const fn with_proxies(settings: LlmSettings, proxies: Proxies) -> Self {
        Self { settings: Ok(settings), connection: Connection { proxies, http: None } }
    }

    /// The agent with the settings that the executor passed. Started by hand, without any, it looks for the
    /// providers' conventional variables. Settings that can't be read are the answer to every chat.
    #[must_use]
    pub fn from_environment() -> Self {
        let connection = Connection { proxies: Proxies::from_lookup(variable), http: None };
        Self { settings: settings_from_environment(), connection }
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
            let is_meant = settings.selects_ollama();
            match self.connection.usable_model(ollama, is_meant, limits) {
                Ok(model) => {
                    return self.connection.ask(Provider { model_name: &model, ..ollama }, &prompt, limits);
                }
                Err(error) if is_meant => return Err(error),
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
    fn failure(self, provider: Provider<'a>) -> Failure<'a> {
        Failure::of(provider, self.agent, self.until.saturating_duration_since(Instant::now()))
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}

fn settings_from_environment() -> Result<LlmSettings, String> {
    match env::var(SETTINGS_VARIABLE) {
        Ok(json) => parse_settings(&json),
        Err(env::VarError::NotUnicode(_)) => Err(format!("{SETTINGS_VARIABLE} is not valid UTF-8")),
        Err(env::VarError::NotPresent) => {
            let mut settings = LlmSettings::default();
            settings.fill_from_environment(variable);
            Ok(settings)
        }
    }
}

/// The error says where the settings are wrong and never what stands there: it may be a key.
fn parse_settings(json: &str) -> Result<LlmSettings, String> {
    serde_json::from_str(json).map_err(|problem| {
        format!(
            "{SETTINGS_VARIABLE} can't be read: wrong at line {} column {}",
            problem.line(),
            problem.column()
        )
    })
}

impl Connection {
    fn client(&mut self, provider: Provider<'_>, failure: Failure<'_>) -> Result<&Http, ActionError> {
        match &mut self.http {
            Some(http) => Ok(http),
            empty => {
                let http = Http::new(provider.base_url, &self.proxies);
                Ok(empty.insert(http.map_err(|trouble| failure.trouble(trouble))?))
            }
        }
    }

    /// The model of this Ollama that answers. One that no setting means has little time to say.
    fn usable_model(
        &mut self,
        ollama: Provider<'_>,
        is_meant: bool,
        limits: Limits<'_>,
    ) -> Result<String, ActionError> {
        let failure = limits.failure(ollama);
        let until =
            if is_meant { limits.until } else { limits.until.min(Instant::now() + ollama_probe::PATIENCE) };
        ollama_probe::usable_model(self.client(ollama, failure)?, ollama, failure, until)
    }

    fn ask(
        &mut self,
        provider: Provider<'_>,
        prompt: &Prompt<'_>,
        limits: Limits<'_>,
    ) -> Result<ActionResult, ActionError> {
        let failure = limits.failure(provider);
        if provider.lacks_key() {
            return Err(failure.no_key());
        }
        let reply = self
            .client(provider, failure)?
            .send(&wire::call(provider, prompt), limits.until)
            .map_err(|trouble| failure.trouble(trouble))?;
        if !(200..300).contains(&reply.status) {
            return Err(failure.refused(&reply));
        }
        let completion = wire::completion(provider.kind, &reply.body)
            .map_err(|unusable| failure.unusable(unusable, &reply))?;
        Ok(result(provider, completion))
    }
}

/// The model's answer as it is, with the facts about it.
fn result(provider: Provider<'_>, completion: wire::Completion) -> ActionResult {
    let wire::Completion { text, model, finish_reason, input_tokens, output_tokens } = completion;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_read_are_not_repeated() {
        for json in [
            r#"{"openai":"sk-secret"}"#,
            r#"{"openai":{"api_key":["sk-secret"]}}"#,
            r#"{"sk-secret":1}"#,
            "sk-secret",
        ] {
            let problem = parse_settings(json).unwrap_err();
            assert!(problem.starts_with(SETTINGS_VARIABLE) && !problem.contains("sk-secret"), "{problem}");
        }
    }
}
