//! The answer without a model: states that, and what works without one.

use phoenix_domain::{
    action::ActionResult,
    builtin::{BUILTINS, LLM_ROUTER},
    json::{Json, Object},
    llm::{DefaultProvider, LlmSettings, ProviderKind},
};

/// The answer that no model read the message, how to configure one, and what works without it.
pub(super) fn answer(settings: &LlmSettings) -> ActionResult {
    let text = format!(
        "[offline] No language model is configured, so no model has read your message.\n\n{}\n\n\
         What works without a model:\n{}",
        how_to_configure(settings),
        other_agents()
    );
    let fact = |name: &str, value: &str| (name.to_owned(), Json::String(value.to_owned()));
    let metadata = Object::from_iter([fact("provider", "offline"), fact("model", "none")]);
    ActionResult { output_type: "text".into(), data: Json::String(text), metadata }
}

fn how_to_configure(settings: &LlmSettings) -> String {
    let keys: Vec<&str> =
        ProviderKind::ALL.iter().filter_map(|kind| kind.key_variables().first().copied()).collect();
    let keys = keys.join(", ");
    match &settings.default_provider {
        DefaultProvider::Offline => {
            format!(
                "The configuration asks for this with default_provider = \"offline\" under [llm]. To get \
                     answers from a model, set it to \"auto\" and give Phoenix one of {keys}."
            )
        }
        _ => format!(
            "To get answers from a model, start Phoenix with one of {keys} set, or start Ollama with a model, or \
             configure a provider under [llm] in phoenix.toml."
        ),
    }
}

fn other_agents() -> String {
    let others = BUILTINS.iter().filter(|agent| agent.name != LLM_ROUTER);
    let mut lines: Vec<String> =
        others.map(|agent| format!("- {}: {}", agent.name, agent.description)).collect();
    lines.push("Try `git status` or `list notes`, or name one of them as the request's `agent`.".into());
    lines.join("\n")
}
