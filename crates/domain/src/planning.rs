//! Planning: how the tasks of a message are found, and the limits on what a language model may propose.

use serde::{Deserialize, Serialize};

use crate::{
    agent_name::AgentName, budget::Limits, builtin::llm_router, json::Json, limits::MAX_TASKS, states::states,
};

/// Largest number of times that a language model may be asked for the same tasks.
pub const MAX_ROUNDS: u32 = 5;

/// Largest number of times that a language model may be asked what follows from the outputs of its tasks.
pub const MAX_CONTINUATIONS: u32 = 16;

states! {
    /// How the tasks of a message are found.
    #[derive(Default)]
    Strategy {
        /// The words of the message choose one agent.
        #[default]
        Rules = "rules",
        /// A language model proposes tasks.
        Model = "model",
        /// The words of the message choose an agent; where no words match, a language model proposes tasks if one is configured.
        Auto = "auto",
    }
}

/// Settings of planning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanningSettings {
    /// Strategy of requests that leave the choice to the settings.
    pub strategy: Strategy,
    /// Agent that is asked for tasks. It answers chats with `messages` and the option `response_format`.
    pub agent: AgentName,
    /// Model that the agent is asked to use; its own choice when absent.
    pub model: Option<String>,
    /// Largest number of tasks that a model proposes for one plan.
    pub max_tasks: usize,
    /// Largest number of tasks that depend on each other in a row.
    pub max_depth: usize,
    /// Largest number of times that the model is asked for tasks: once, and again with the problems of its answer.
    pub max_rounds: u32,
    /// Largest number of times that the model gets the outputs of its tasks, and proposes further ones or answers.
    pub max_continuations: u32,
    /// Largest number of tokens of an answer.
    pub max_tokens: u32,
    /// Limits of a plan whose tasks a model proposes, beside those of its request: the smaller one counts.
    pub budget: Limits,
    /// Whether writing actions of built-in agents need an approval when a model proposes them.
    pub approve_writes: bool,
}

impl Default for PlanningSettings {
    fn default() -> Self {
        Self {
            strategy: Strategy::Rules,
            agent: llm_router(),
            model: None,
            max_tasks: 16,
            max_depth: 8,
            max_rounds: 2,
            max_continuations: 0,
            max_tokens: 4096,
            budget: Limits::NONE,
            approve_writes: true,
        }
    }
}

impl PlanningSettings {
    /// Largest number of tasks that a model proposes for one plan, all continuations together. The questions take places in the
    /// plan, too.
    #[must_use]
    pub fn task_limit(&self) -> usize {
        let questions = self.max_continuations.saturating_add(1).saturating_mul(self.max_rounds);
        self.max_tasks.min(MAX_TASKS.saturating_sub(questions as usize))
    }
}

/// The text without the code fence that many models put around JSON.
#[must_use]
pub fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let inner = text.strip_prefix("```json").or_else(|| text.strip_prefix("```"));
    inner.and_then(|inner| inner.trim_end().strip_suffix("```")).map_or(text, str::trim)
}

/// The answer to the message in what a language model answered to the outputs of its tasks, if it proposed no further ones.
#[must_use]
pub fn final_answer(data: &Json) -> Option<String> {
    let parsed;
    let answer = match data {
        Json::String(text) => {
            parsed = Json::parse(unfenced(text)).ok()?;
            &parsed
        }
        other => other,
    };
    let answer = answer.as_object()?;
    let has_tasks = answer.get("tasks").and_then(Json::as_array).is_some_and(|tasks| !tasks.is_empty());
    let text = answer.get("answer")?.as_str()?;
    (!has_tasks && !text.trim().is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_of_a_model_is_text_without_tasks() {
        for (said, answer) in [
            (r#"{"answer": "done", "tasks": []}"#, Some("done")),
            ("```json\n{\"answer\": \"done\"}\n```", Some("done")),
            (r#"{"answer": "done", "tasks": [{"key": "a"}]}"#, None),
            (r#"{"answer": " ", "tasks": []}"#, None),
            (r#"{"answer": 7}"#, None),
            (r#"{"tasks": []}"#, None),
            ("done", None),
        ] {
            assert_eq!(final_answer(&Json::from(said)).as_deref(), answer, "{said}");
        }
        let object = Json::parse(r#"{"answer": "done"}"#).unwrap();
        assert_eq!(final_answer(&object).as_deref(), Some("done"));
    }

    #[test]
    fn questions_take_places_of_tasks() {
        let settings = |max_tasks, max_continuations, max_rounds| PlanningSettings {
            max_tasks,
            max_continuations,
            max_rounds,
            ..PlanningSettings::default()
        };
        for (settings, limit) in [
            (settings(16, 0, 2), 16),
            (settings(256, 0, 2), 254),
            (settings(256, MAX_CONTINUATIONS, MAX_ROUNDS), 171),
        ] {
            assert_eq!(settings.task_limit(), limit);
        }
    }
}
