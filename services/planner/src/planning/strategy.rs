//! Strategy: whether the words of a message choose its agent, or a language model plans its tasks.

use phoenix_domain::{
    AgentCatalog, OrchestratorError,
    builtin::LLM_ROUTER,
    chat::Chat,
    planning::{PlanningSettings, Strategy},
};

use crate::planning::{request::Planning, routing::matching};

/// Whether a language model plans the tasks of `chat`.
///
/// # Errors
/// When the request asks for a model, and for an agent, a model or options of its own; or when the agent that plans is unknown.
pub(crate) fn is_planned_by_model(
    agents: &AgentCatalog,
    chat: &Chat,
    planning: Planning,
    settings: &PlanningSettings,
) -> Result<bool, OrchestratorError> {
    let has_own = chat.agent.is_some() || chat.conversation.has_requests();
    let strategy = match planning {
        Planning::Routed => Strategy::Rules,
        Planning::Configured { .. } if has_own => Strategy::Rules,
        Planning::Configured { .. } => settings.strategy,
        Planning::Chosen { strategy: Strategy::Model, .. } if has_own => {
            let problem = "`model` excludes `agent`, `model` and `options`: the settings in [planning] choose who plans";
            return Err(OrchestratorError::invalid("strategy", problem));
        }
        Planning::Chosen { .. } if has_own => Strategy::Rules,
        Planning::Chosen { strategy, .. } => strategy,
    };
    let is_model = match strategy {
        Strategy::Rules => false,
        Strategy::Model => true,
        Strategy::Auto => matching(agents, &chat.message).is_none() && has_model(agents, settings),
    };
    if is_model {
        agents.get(&settings.agent)?;
    }
    Ok(is_model)
}

/// Whether a language model is configured to plan: the agent that plans is known, and it is not the built-in one without a
/// configured provider.
fn has_model(agents: &AgentCatalog, settings: &PlanningSettings) -> bool {
    let agent = agents.get(&settings.agent).ok();
    agent.is_some_and(|agent| agent.name.as_str() != LLM_ROUTER || agent.provider_is_configured)
}

#[cfg(test)]
mod tests {
    use phoenix_domain::AgentSpec;

    use super::*;

    #[test]
    fn provider_that_is_only_looked_for_plans_nothing_for_auto() {
        let settings = PlanningSettings::default();
        for (agent, provider, is_configured, expected) in [
            (LLM_ROUTER, None, false, false),
            (LLM_ROUTER, Some("ollama"), false, false),
            (LLM_ROUTER, Some("ollama"), true, true),
            ("other", None, false, true),
        ] {
            let mut spec = AgentSpec::new(agent.parse().unwrap(), Vec::new());
            (spec.provider, spec.provider_is_configured) = (provider.map(str::to_owned), is_configured);
            let settings = PlanningSettings { agent: agent.parse().unwrap(), ..settings.clone() };
            let agents = AgentCatalog::new([spec], agent.parse().unwrap());
            assert_eq!(has_model(&agents, &settings), expected, "{agent} {provider:?} {is_configured}");
        }
    }
}
