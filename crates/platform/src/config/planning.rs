//! `[planning]`: how the tasks of a message are found.

use phoenix_domain::{
    AgentName,
    budget::{Limits, Resource},
    limits::{MAX_MODEL_BYTES, MAX_TASKS},
    planning::{MAX_CONTINUATIONS, MAX_ROUNDS, PlanningSettings, Strategy},
};
use serde::Deserialize;

use super::{budgets::money, problems::Problems};

/// Largest limit of the tokens of an answer.
const MAX_TOKENS: u32 = 1_000_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PlanningTable {
    strategy: Option<String>,
    agent: Option<AgentName>,
    model: Option<String>,
    max_tasks: Option<i64>,
    max_depth: Option<i64>,
    max_rounds: Option<i64>,
    max_continuations: Option<i64>,
    max_tokens: Option<i64>,
    max_cost_usd: Option<toml::Value>,
    approve_writes: Option<bool>,
}

impl PlanningTable {
    /// The settings.
    pub(super) fn into_settings(self, problems: &mut Problems) -> PlanningSettings {
        let Self {
            strategy,
            agent,
            model,
            max_tasks,
            max_depth,
            max_rounds,
            max_continuations,
            max_tokens,
            max_cost_usd,
            approve_writes,
        } = self;
        let default = PlanningSettings::default();
        let mut number = |key: &str, value: Option<i64>, default: usize, least: usize, limit: usize| {
            let Some(value) = value else { return default };
            let fits = usize::try_from(value).ok().filter(|value| (least..=limit).contains(value));
            fits.unwrap_or_else(|| {
                let problem = format_args!("must be a whole number from {least} to {limit}, not {value}");
                problems.add(format_args!("planning.{key}"), problem);
                default
            })
        };
        let (continuations, limit) = (default.max_continuations as usize, MAX_CONTINUATIONS as usize);
        let max_continuations = number("max_continuations", max_continuations, continuations, 0, limit);
        let mut count = |key: &str, value, default, limit| number(key, value, default, 1, limit);
        let max_tasks = count("max_tasks", max_tasks, default.max_tasks, MAX_TASKS);
        let max_depth = count("max_depth", max_depth, default.max_depth, MAX_TASKS);
        let max_rounds = count("max_rounds", max_rounds, default.max_rounds as usize, MAX_ROUNDS as usize);
        let max_tokens = count("max_tokens", max_tokens, default.max_tokens as usize, MAX_TOKENS as usize);
        if let Some(name) = &model
            && (name.trim().is_empty() || name.len() > MAX_MODEL_BYTES)
        {
            let problem = format_args!("must be the name of a model of at most {MAX_MODEL_BYTES} bytes");
            problems.add("planning.model", problem);
        }
        let strategy = strategy.and_then(|name| {
            let known = Strategy::from_name(&name);
            if known.is_none() {
                let problem = format_args!("must be \"rules\", \"model\" or \"auto\", not \"{name}\"");
                problems.add("planning.strategy", problem);
            }
            known
        });
        let mut budget = Limits::NONE;
        let max_cost = max_cost_usd.and_then(|value| money("planning.max_cost_usd", &value, problems));
        budget[Resource::Cost] = max_cost.map(phoenix_domain::usage::Money::nanos);
        PlanningSettings {
            strategy: strategy.unwrap_or(default.strategy),
            agent: agent.unwrap_or(default.agent),
            model,
            max_tasks,
            max_depth,
            max_rounds: u32::try_from(max_rounds).unwrap_or(default.max_rounds),
            max_continuations: u32::try_from(max_continuations).unwrap_or(default.max_continuations),
            max_tokens: u32::try_from(max_tokens).unwrap_or(default.max_tokens),
            budget,
            approve_writes: approve_writes.unwrap_or(default.approve_writes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> (PlanningSettings, String) {
        let mut problems = Problems::default();
        let table = toml::Value::Table(text.parse().unwrap());
        let table: PlanningTable = super::super::sections::section("planning", table, &mut problems);
        let settings = table.into_settings(&mut problems);
        (settings, if problems.is_empty() { String::new() } else { problems.to_string() })
    }

    #[test]
    fn settings_are_read_and_have_defaults() {
        assert_eq!(settings(""), (PlanningSettings::default(), String::new()));
        let (settings, problems) = settings(
            "strategy = \"auto\"\nagent = \"planner\"\nmodel = \"openai/m\"\nmax_tasks = 256\nmax_depth = 3\n\
             max_rounds = 1\nmax_continuations = 16\nmax_tokens = 900\nmax_cost_usd = 0.05\napprove_writes = false",
        );
        assert_eq!(problems, "");
        assert_eq!((settings.strategy, settings.agent.as_str()), (Strategy::Auto, "planner"));
        assert_eq!((settings.max_tasks, settings.max_depth, settings.max_rounds), (256, 3, 1));
        assert_eq!(
            (settings.max_continuations, settings.task_limit()),
            (16, 239),
            "the questions take places"
        );
        assert_eq!((settings.model.as_deref(), settings.max_tokens), (Some("openai/m"), 900));
        assert_eq!(settings.budget.values(), [Some(50_000_000), None, None, None]);
        assert!(!settings.approve_writes);
    }

    #[test]
    fn wrong_values_are_named_with_their_keys() {
        for (text, problem) in [
            (
                "strategy = \"magic\"",
                "planning.strategy: must be \"rules\", \"model\" or \"auto\", not \"magic\"",
            ),
            ("max_tasks = 0", "planning.max_tasks: must be a whole number from 1 to 256, not 0"),
            ("max_depth = 257", "planning.max_depth: must be a whole number from 1 to 256, not 257"),
            ("max_rounds = -1", "planning.max_rounds: must be a whole number from 1 to 5, not -1"),
            (
                "max_continuations = 17",
                "planning.max_continuations: must be a whole number from 0 to 16, not 17",
            ),
            ("max_tokens = 0", "planning.max_tokens: must be a whole number"),
            ("max_cost_usd = -1", "planning.max_cost_usd: `-1` is not an amount"),
            ("model = \" \"", "planning.model: must be the name of a model"),
            ("max_task = 1", "planning.max_task: unknown key"),
        ] {
            let problems = settings(text).1;
            assert!(problems.contains(problem), "{text}: {problems}");
        }
    }
}
