//! Providers of models: whether they answer, accept the key, and will have the model.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp, civil::Date, fmt::rfc2822, tz::TimeZone};
use phoenix_domain::llm::{Dialect, Provider, ProviderKind, RetiredModel};
use phoenix_platform::config::Role;
use reqwest::{Client, StatusCode, header::DATE};

use super::finding::Finding;
use crate::settings::Resolved;

/// Longest wait for a provider.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Time before a model's end from which on it is a finding.
const ENDS_SOON: SignedDuration = SignedDuration::from_hours(90 * 24);

/// Configured models that have ended or end soon.
pub(super) fn models(resolved: &Resolved) -> Vec<Finding> {
    let Some(executor) = resolved.service(Role::Executor) else { return Vec::new() };
    let retired = executor.settings.config.llm.retired_models();
    retired.filter_map(|(provider, model)| ending(&provider, model, Timestamp::now())).collect()
}

fn ending(provider: &Provider<'_>, model: &RetiredModel, now: Timestamp) -> Option<Finding> {
    let end = model.end.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
    let action = format!("use {}, the successor that the provider names", model.successor);
    if end <= now {
        let problem = format!("the model {} has ended on {}", provider.target(), model.end);
        return Some(Finding::error("models", problem, action));
    }
    (end.duration_since(now) < ENDS_SOON).then(|| {
        let problem = format!("the model {} ends on {}", provider.target(), model.end);
        Finding::warning("models", problem, action)
    })
}

/// Asks every configured provider for its models. Returns also the clocks of those that answered.
pub(super) async fn reach(resolved: &Resolved) -> (Vec<Finding>, Vec<(String, Timestamp)>) {
    let Some(executor) = resolved.service(Role::Executor) else { return Default::default() };
    let llm = &executor.settings.config.llm;
    let mut providers: BTreeMap<&str, Provider<'_>> = BTreeMap::new();
    let with_keys =
        ProviderKind::ALL.iter().map(|kind| llm.provider(*kind)).filter(|one| one.api_key.is_some());
    let own = llm.providers.keys().filter_map(|name| llm.find(name));
    let fallbacks = llm.fallback.iter().filter_map(|name| llm.target(name));
    for provider in with_keys.chain(own).chain(fallbacks).chain(llm.chosen_provider()) {
        providers.insert(provider.name, provider);
    }
    if providers.is_empty() {
        let problem = "no provider of models is configured: chats of `llm_router_agent` get an explanation, or a local Ollama";
        let action = "set a key such as OPENAI_API_KEY, or llm.ollama.model_name (docs/providers.md)";
        return (vec![Finding::warning("providers", problem, action)], Vec::new());
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none()).build();
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            let problem = format!("no HTTP client: {error}");
            let action = "install the certificates of the system, or set SSL_CERT_FILE";
            return (vec![Finding::error("providers", problem, action)], Vec::new());
        }
    };
    let answers = join_all(providers.values().map(|provider| ask(&client, provider))).await;
    let clocks = answers.iter().filter_map(|(_, clock)| clock.clone()).collect();
    (answers.into_iter().map(|(finding, _)| finding).collect(), clocks)
}

async fn ask(client: &Client, provider: &Provider<'_>) -> (Finding, Option<(String, Timestamp)>) {
    const CHECK: &str = "providers";
    let name = provider.name;
    let path = if provider.dialect() == Dialect::Ollama { "/api/tags" } else { "/models" };
    let mut request = client.get(format!("{}{path}", provider.base_url));
    if let Some(key) = provider.api_key {
        request = match provider.dialect() {
            Dialect::Anthropic => {
                request.header("x-api-key", key.expose()).header("anthropic-version", "2023-06-01")
            }
            Dialect::Gemini => request.header("x-goog-api-key", key.expose()),
            Dialect::OpenAi | Dialect::Ollama => request.bearer_auth(key.expose()),
        };
    }
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => {
            // Without the address, in which a password may stand.
            let error = error.without_url();
            let problem = format!("{name} cannot be reached: {}", innermost(&error));
            let action = format!("check the network and HTTPS_PROXY, or {}", provider.setting("base_url"));
            return (Finding::error(CHECK, problem, action), None);
        }
    };
    let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
    let clock =
        date.and_then(|date| rfc2822::parse(date).ok()).map(|date| (name.to_owned(), date.timestamp()));
    let status = response.status();
    let finding = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let problem = format!("{name} does not accept the key ({status})");
            Finding::error(CHECK, problem, format!("correct {}", provider.setting("api_key")))
        }
        StatusCode::TOO_MANY_REQUESTS => {
            let problem = format!("{name} answers, and refuses further requests ({status})");
            Finding::warning(CHECK, problem, "see the limits of the account")
        }
        _ if status.is_server_error() => {
            let problem = format!("{name} answers with {status}");
            Finding::warning(CHECK, problem, "wait, or set llm.fallback")
        }
        // Some servers have no list of models.
        _ => Finding::ok(CHECK, format!("{name} answers")),
    };
    (finding, clock)
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use phoenix_domain::llm::LlmSettings;

    use super::*;
    use crate::doctor::finding::Severity;

    #[test]
    fn model_is_found_when_its_end_is_near_or_past() {
        let mut llm = LlmSettings::default();
        llm.openai.model_name = Some("gpt-4o".into());
        let provider = llm.provider(ProviderKind::OpenAi);
        let model = provider.retired_model().unwrap();
        let at = |text: &str| ending(&provider, model, text.parse().unwrap());
        assert_eq!(at("2026-01-01T00:00:00Z"), None);
        let soon = at("2026-12-24T00:00:00Z").unwrap();
        assert!(soon.severity == Severity::Warning && soon.message.contains("ends on 2027-01-14"), "{soon}");
        let past = at("2027-02-01T00:00:00Z").unwrap();
        assert!(past.severity == Severity::Error && past.action.contains("gpt-6-luna"), "{past}");
    }
}
