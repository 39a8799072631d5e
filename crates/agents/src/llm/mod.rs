//! The agent that asks a language model: one chat, one completion, over HTTP.
//!
//! | file | what |
//! |---|---|
//! | `wire/` | each provider's request and response as data; no I/O |
//! | `http.rs` | sends such a request within the deadline and reads a bounded body |
//! | `failure.rs` | what a provider's refusal means to the caller, with nothing secret in it |
//! | `ollama_probe.rs` | whether an Ollama runs here, for `default_provider = "auto"` |
//! | `offline.rs` | the answer when there is no model |
//!
//! A failed request is not sent again here: retrying is the executor's job.

use std::{env, time::Instant};

use phoenix_domain::{
    action::{ActionRequest, ActionResult, CHAT_ACTION},
    llm::{DefaultProvider, LlmSettings, Provider, ProviderKind, SETTINGS_VARIABLE},
};
use serde_json::{Map, Value, json};

use self::{failure::Failure, http::Http, wire::Prompt};
use crate::{ActionError, Agent, Payload, protocol::deadline};

mod failure;
mod http;
mod offline;
mod ollama_probe;
mod wire;

const ACTIONS: &[&str] = &[CHAT_ACTION];

/// Answers chats with the configured language model. The HTTP client is built at the first chat that needs one and kept.
#[derive(Debug)]
pub struct LlmRouter {
    settings: Result<LlmSettings, String>,
    http: Option<Http>,
}

impl LlmRouter {
    /// The agent with these settings.
    #[must_use]
    pub const fn new(settings: LlmSettings) -> Self {
        Self { settings: Ok(settings), http: None }
    }

    /// The agent with the settings that the executor passed. Started by hand, without any, it looks for the
    /// providers' conventional variables. Settings that can't be read are the answer to every chat.
    #[must_use]
    pub fn from_environment() -> Self {
        Self { settings: settings_from_environment(), http: None }
    }

    fn chat(&mut self, message: &str, context: &str, until: Instant) -> Result<ActionResult, ActionError> {
        let settings = self.settings.as_ref().map_err(ActionError::internal)?;
        let system = [settings.system_prompt.as_deref().unwrap_or_default(), context]
            .into_iter()
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .collect::<Vec<_>>()
            .join("\n\n");
        let prompt = Prompt { system: &system, message, max_tokens: settings.max_tokens.get() };
        if let Some(provider) = settings.chosen_provider() {
            return ask(&mut self.http, provider, &prompt, until);
        }
        if settings.default_provider == DefaultProvider::Auto {
            let ollama = settings.provider(ProviderKind::Ollama);
            let http = client(&mut self.http, ollama)?;
            let named = settings.ollama.model_name.as_deref().is_some_and(|name| !name.trim().is_empty());
            if let Some(model) = ollama_probe::usable_model(http, ollama, named, until) {
                return ask(&mut self.http, Provider { model_name: &model, ..ollama }, &prompt, until);
            }
        }
        Ok(offline::answer(settings))
    }
}

impl Agent for LlmRouter {
    fn handle(&mut self, request: &ActionRequest) -> Result<ActionResult, ActionError> {
        let until = deadline(request);
        if request.action != CHAT_ACTION {
            return Err(ActionError::unknown_action(&request.action, ACTIONS));
        }
        self.chat(Payload::of(request).text("message")?, &request.context, until)
    }
}

fn settings_from_environment() -> Result<LlmSettings, String> {
    match env::var(SETTINGS_VARIABLE) {
        Ok(json) => parse_settings(&json),
        Err(env::VarError::NotUnicode(_)) => Err(format!("{SETTINGS_VARIABLE} is not valid UTF-8")),
        Err(env::VarError::NotPresent) => {
            let mut settings = LlmSettings::default();
            settings.fill_from_environment(|name| env::var(name).ok());
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

/// The client, built when first needed. One process has one set of settings, hence one address to speak to.
fn client<'a>(http: &'a mut Option<Http>, provider: Provider<'_>) -> Result<&'a Http, ActionError> {
    match http {
        Some(http) => Ok(http),
        empty => {
            let http =
                Http::new(provider.base_url).map_err(|trouble| Failure::of(provider).trouble(trouble))?;
            Ok(empty.insert(http))
        }
    }
}

fn ask(
    http: &mut Option<Http>,
    provider: Provider<'_>,
    prompt: &Prompt<'_>,
    until: Instant,
) -> Result<ActionResult, ActionError> {
    let failure = Failure::of(provider);
    if provider.lacks_key() {
        return Err(failure.no_key());
    }
    let reply = client(http, provider)?
        .send(&wire::call(provider, prompt), until)
        .map_err(|trouble| failure.trouble(trouble))?;
    if !(200..300).contains(&reply.status) {
        return Err(failure.refused(reply.status, &reply.body));
    }
    let completion =
        wire::completion(provider.kind, &reply.body).map_err(|unusable| failure.unusable(unusable))?;

    let mut metadata = Map::new();
    metadata.insert("provider".into(), provider.kind.as_str().into());
    let model = completion
        .model
        .as_deref()
        .map_or_else(|| provider.model_name.into(), |name| failure.redact_answer(name));
    metadata.insert("model".into(), model.into());
    if let Some(reason) = completion.finish_reason {
        metadata.insert("finish_reason".into(), failure.redact_answer(&reason).into());
    }
    if completion.input_tokens.or(completion.output_tokens).is_some() {
        let usage =
            json!({"input_tokens": completion.input_tokens, "output_tokens": completion.output_tokens});
        metadata.insert("usage".into(), usage);
    }
    let text = Value::String(failure.redact_answer(&completion.text));
    Ok(ActionResult { output_type: "markdown".into(), data: text, metadata })
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
