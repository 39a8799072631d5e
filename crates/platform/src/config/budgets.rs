//! `[budgets]`: limits on what plans, agents and providers of models may use.

use std::collections::BTreeMap;

use phoenix_domain::{
    budget::{BudgetSettings, Each, Estimate, Limits, OnBudget, Resource},
    llm::{LlmSettings, ProviderKind},
    usage::Money,
};
use serde::Deserialize;

use super::problems::Problems;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct BudgetsTable {
    plan: LimitsTable,
    agents: BTreeMap<String, LimitsTable>,
    providers: BTreeMap<String, LimitsTable>,
    on_budget: Option<String>,
    call_cost_usd: Option<toml::Value>,
    call_output_tokens: Option<toml::Value>,
}

/// One table of limits. Its values are read one by one, so that a problem names the key and the value.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LimitsTable {
    max_cost_usd: Option<toml::Value>,
    max_tokens: Option<toml::Value>,
    max_calls: Option<toml::Value>,
    max_wall_ms: Option<toml::Value>,
}

impl BudgetsTable {
    /// The settings; providers must be known or below `[llm.providers]`.
    pub(super) fn into_settings(self, llm: &LlmSettings, problems: &mut Problems) -> BudgetSettings {
        let Self { plan, agents, providers, on_budget, call_cost_usd, call_output_tokens } = self;
        let mut settings =
            BudgetSettings { plan: plan.limits("budgets.plan", problems), ..BudgetSettings::default() };
        if let Some(name) = on_budget {
            match OnBudget::from_name(&name) {
                Some(known) => settings.on_budget = known,
                None => {
                    problems
                        .add("budgets.on_budget", format_args!("must be `fail` or `pause`, not `{name}`"));
                }
            }
        }
        for (name, table) in agents {
            let at = format!("budgets.agents.{name}");
            let limits = table.limits(&at, problems);
            match name.parse() {
                Ok(agent) => drop(settings.agents.insert(agent, limits)),
                Err(problem) => problems.add(&at, format_args!("the name {problem}")),
            }
        }
        for (name, table) in providers {
            let at = format!("budgets.providers.{name}");
            let limits = table.limits(&at, problems);
            if llm.find(&name).is_none() {
                let known = ProviderKind::ALL.iter().map(|kind| kind.as_str());
                let known = known.chain(llm.providers.keys().map(String::as_str)).collect::<Vec<_>>();
                let known = known.join("`, `");
                problems.add(&at, format_args!("unknown provider; the providers are `{known}`"));
            }
            settings.providers.insert(name, limits);
        }
        let default = Estimate::default();
        let cost = call_cost_usd.and_then(|value| money("budgets.call_cost_usd", &value, problems));
        let tokens =
            call_output_tokens.and_then(|value| count("budgets.call_output_tokens", &value, problems));
        settings.estimate = Estimate {
            cost: cost.unwrap_or(default.cost),
            output_tokens: tokens.unwrap_or(default.output_tokens),
        };
        settings
    }
}

impl LimitsTable {
    fn limits(self, at: &str, problems: &mut Problems) -> Limits {
        let Self { max_cost_usd, max_tokens, max_calls, max_wall_ms } = self;
        Each::new([max_cost_usd, max_tokens, max_calls, max_wall_ms]).map(|resource, value| {
            let (value, key) = (value?, format!("{at}.{resource}"));
            match resource {
                Resource::Cost => money(&key, &value, problems).map(Money::nanos),
                Resource::Tokens | Resource::Calls | Resource::Wall => count(&key, &value, problems),
            }
        })
    }
}

/// Dollars, as a number or as text.
pub(super) fn money(key: &str, value: &toml::Value, problems: &mut Problems) -> Option<Money> {
    let text = match value {
        toml::Value::String(text) => text.trim().to_owned(),
        // The shortest text of a float has the digits that were written.
        toml::Value::Float(number) => number.to_string(),
        other => other.to_string(),
    };
    match text.parse() {
        Ok(money) => Some(money),
        Err(problem) => {
            problems.add(key, format_args!("`{text}` {problem}"));
            None
        }
    }
}

fn count(key: &str, value: &toml::Value, problems: &mut Problems) -> Option<u64> {
    let count = value.as_integer().and_then(|count| u64::try_from(count).ok());
    if count.is_none() {
        problems.add(key, format_args!("`{value}` must be a whole number of at least 0"));
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> (BudgetSettings, String) {
        let mut problems = Problems::default();
        let table: BudgetsTable = super::super::sections::section(
            "budgets",
            toml::Value::Table(text.parse().unwrap()),
            &mut problems,
        );
        let settings = table.into_settings(&LlmSettings::default(), &mut problems);
        (settings, if problems.is_empty() { String::new() } else { problems.to_string() })
    }

    #[test]
    fn limits_are_read_exactly() {
        let (settings, problems) = settings(
            "call_cost_usd = 0.05\ncall_output_tokens = 500\n[plan]\nmax_cost_usd = 0.3\nmax_calls = 10\n\
             [agents.llm_router_agent]\nmax_cost_usd = \"20.000000001\"\n[providers.anthropic]\nmax_tokens = 0\nmax_wall_ms = 5",
        );
        assert_eq!(problems, "");
        assert_eq!(settings.plan.values(), [Some(300_000_000), None, Some(10), None]);
        let agent = &settings.agents["llm_router_agent"];
        assert_eq!(agent[Resource::Cost], Some(20_000_000_001));
        assert_eq!(settings.providers["anthropic"].values(), [None, Some(0), None, Some(5)]);
        assert_eq!(
            (settings.estimate.cost.to_string().as_str(), settings.estimate.output_tokens),
            ("0.05", 500)
        );
        assert_eq!(super::tests::settings("").0, BudgetSettings::default());
    }

    #[test]
    fn wrong_values_are_named_with_their_keys() {
        for (text, problem) in [
            ("[plan]\nmax_cost_usd = -1", "budgets.plan.max_cost_usd: `-1` is not an amount of US dollars"),
            ("[plan]\nmax_cost_usd = \"much\"", "budgets.plan.max_cost_usd: `much` is not an amount"),
            ("[plan]\nmax_cost_usd = nan", "budgets.plan.max_cost_usd: `NaN` is not an amount"),
            ("[agents.a]\nmax_calls = 1.5", "budgets.agents.a.max_calls: `1.5` must be a whole number"),
            ("[agents.a]\nmax_tokens = -7", "budgets.agents.a.max_tokens: `-7` must be a whole number"),
            ("[agents.\"No Name\"]\nmax_calls = 1", "budgets.agents.No Name: the name"),
            (
                "[providers.antropic]\nmax_calls = 1",
                "budgets.providers.antropic: unknown provider; the providers are",
            ),
            ("[providers.openai]\nmax_cals = 1", "budgets.providers.openai.max_cals: unknown key"),
            ("call_output_tokens = \"x\"", "budgets.call_output_tokens: `\"x\"` must be a whole number"),
        ] {
            let problems = settings(text).1;
            assert!(problems.contains(problem), "{text}: {problems}");
        }
    }
}
