//! A request of a client of a model's API, independent of the API: who answers, and what.

use phoenix_domain::{
    AgentName, OrchestratorError, OrchestratorErrorCode, builtin::llm_router, conversation::Conversation,
};
use phoenix_proto::planner::PlanAndExecuteRequest;

/// Name of the model that leaves the choice of the agent to routing.
pub(crate) const PHOENIX: &str = "phoenix";

/// Beginnings of the names of models that belong to one provider.
const FAMILIES: [(&str, &str); 8] = [
    ("claude-", "anthropic"),
    ("gpt-", "openai"),
    ("chatgpt-", "openai"),
    ("o1", "openai"),
    ("o3", "openai"),
    ("o4", "openai"),
    ("gemini-", "gemini"),
    ("grok-", "grok"),
];

/// A valid request. The model of its conversation is the name in the request.
#[derive(Debug)]
pub(crate) struct ModelRequest {
    /// What the name stands for.
    target: Target,
    /// Messages, model and options.
    conversation: Conversation,
    /// Name of the model in the request.
    name: String,
}

/// The plans of a request.
#[derive(Debug)]
pub(crate) struct ModelPlans {
    /// The plan.
    pub(crate) first: PlanAndExecuteRequest,
    /// The plan when `first` is refused because no agent has the name in the request, which a model has.
    pub(crate) otherwise: Option<PlanAndExecuteRequest>,
}

/// What a model's name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    /// The agent that routing chooses.
    Routed,
    /// An agent, else the model with its name, if there is one.
    Agent(AgentName, Option<String>),
    /// A model of a provider, called by the language-model agent.
    Model(String),
}

impl ModelRequest {
    /// The request for `name` with `conversation`, whose model is that name. `configured` are the models in the settings.
    ///
    /// # Errors
    /// `not_found` for a name that no model can have.
    pub(crate) fn new(
        name: &str,
        conversation: Conversation,
        configured: &[String],
    ) -> Result<Self, OrchestratorError> {
        Ok(Self { target: Target::of(name, configured)?, conversation, name: name.to_owned() })
    }

    /// Name of the model in the request.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The plans of the request. `base` has what does not depend on it.
    pub(crate) fn into_plans(self, base: &PlanAndExecuteRequest) -> ModelPlans {
        let plan = |agent: Option<AgentName>, conversation: Conversation| PlanAndExecuteRequest {
            agent: agent.map(String::from),
            chat_json: conversation.into_members().to_string(),
            ..base.clone()
        };
        let of_model = |model: String, conversation: Conversation| {
            plan(Some(llm_router()), conversation.with_model(model))
        };
        let Self { target, conversation, name: _ } = self;
        match target {
            Target::Routed => ModelPlans { first: plan(None, conversation.without_model()), otherwise: None },
            Target::Model(model) => ModelPlans { first: of_model(model, conversation), otherwise: None },
            Target::Agent(agent, model) => ModelPlans {
                otherwise: model.map(|model| of_model(model, conversation.clone())),
                first: plan(Some(agent), conversation.without_model()),
            },
        }
    }
}

impl Target {
    fn of(name: &str, configured: &[String]) -> Result<Self, OrchestratorError> {
        if name == PHOENIX {
            return Ok(Self::Routed);
        }
        if let Some((provider, model)) = name.split_once('/')
            && !provider.is_empty()
            && !model.is_empty()
        {
            return Ok(Self::Model(name.to_owned()));
        }
        let model = plain(name, configured);
        match (name.parse(), model) {
            (Ok(agent), model) => Ok(Self::Agent(agent, model)),
            (Err(_), Some(model)) => Ok(Self::Model(model)),
            (Err(_), None) => Err(unknown_model(name)),
        }
    }
}

/// The model of a configured provider that `name` stands for: a model in the settings, or one whose name belongs to a provider.
fn plain(name: &str, configured: &[String]) -> Option<String> {
    let mut models = configured.iter().filter_map(|model| Some((model, model.split_once('/')?)));
    if let Some((model, _)) = models.clone().find(|(_, (_, model))| *model == name) {
        return Some(model.clone());
    }
    let (_, provider) = FAMILIES.iter().find(|(family, _)| name.starts_with(family))?;
    models.any(|(_, (known, _))| known == *provider).then(|| format!("{provider}/{name}"))
}

/// Whether a plan was refused because its agent does not exist.
pub(crate) fn names_unknown_agent(error: &OrchestratorError) -> bool {
    error.code == OrchestratorErrorCode::PlanningFailed
        && error.details.get("field").is_some_and(|field| field == "agent")
}

/// An error of the request for the model `name`: an unknown agent is a model that does not exist.
pub(crate) fn of_model(error: OrchestratorError, name: &str) -> OrchestratorError {
    match error {
        error if !names_unknown_agent(&error) => error,
        // No agent calls models, or none is the default.
        error if name == PHOENIX || name.contains('/') => error.with_detail("field", "model"),
        _ => unknown_model(name),
    }
}

/// The error of a model that does not exist.
pub(crate) fn unknown_model(model: &str) -> OrchestratorError {
    let message = format!(
        "the model `{model}` does not exist; send `{PHOENIX}`, the name of an agent, or `provider/model`; GET /v1/models lists them"
    );
    OrchestratorError::new(OrchestratorErrorCode::NotFound, message).with_detail("field", "model")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_name_is_an_agent_first_and_then_a_model() {
        let configured = ["anthropic/claude-sonnet-5-5", "ollama/llama3.2:1b", "lab/qwen"].map(str::to_owned);
        let of = |name| Target::of(name, &configured);
        let agent = |name: &str, model: Option<&str>| {
            Ok(Target::Agent(name.parse().unwrap(), model.map(str::to_owned)))
        };
        assert_eq!(of("phoenix"), Ok(Target::Routed));
        assert_eq!(of("lab/other"), Ok(Target::Model("lab/other".into())));
        assert_eq!(of("git_agent"), agent("git_agent", None));
        assert_eq!(of("qwen"), agent("qwen", Some("lab/qwen")));
        assert_eq!(of("llama3.2:1b"), Ok(Target::Model("ollama/llama3.2:1b".into())));
        assert_eq!(of("claude-opus-9"), agent("claude-opus-9", Some("anthropic/claude-opus-9")));
        assert_eq!(of("gpt-6-luna"), agent("gpt-6-luna", None), "no key of that provider");
        for unknown in ["llama3:8b", "/x", "openai/", "a b", ""] {
            let error = of(unknown).unwrap_err();
            assert_eq!(
                (error.code, &*error.details["field"]),
                (OrchestratorErrorCode::NotFound, "model"),
                "{unknown}"
            );
        }
    }
}
