//! Configured budgets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::limits::{Amounts, Each, Limits};
use crate::{agent_name::AgentName, states::states, usage::Money};

/// Configured budgets, and what is reserved for a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BudgetSettings {
    /// What happens when a budget is used up, to plans for which no caller waits and that do not say it.
    pub on_budget: OnBudget,
    /// Limits of a plan, where its request names none.
    pub plan: Limits,
    /// Limits of agents for each day.
    pub agents: BTreeMap<AgentName, Limits>,
    /// Limits of providers of models for each day.
    pub providers: BTreeMap<String, Limits>,
    /// What a call is expected to use.
    pub estimate: Estimate,
}

states! {
    /// What happens to a task when a budget of it is used up.
    #[derive(Default)]
    OnBudget {
        /// It fails with `budget_exhausted`.
        #[default]
        Fail = "fail",
        /// It waits for a larger budget.
        Pause = "pause",
    }
}

/// What a call of unknown size is expected to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// Cost.
    pub cost: Money,
    /// Tokens of the answer, where the request has no limit of its own.
    pub output_tokens: u64,
}

impl BudgetSettings {
    /// Whether no agent and no provider has a budget.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.agents.is_empty() && self.providers.is_empty()
    }
}

impl Default for Estimate {
    /// Ten cents, and 4096 tokens.
    fn default() -> Self {
        Self { cost: Money::from_nanos(100_000_000), output_tokens: 4096 }
    }
}

impl Estimate {
    /// Bytes of input that are counted as one token: fewer than a token of any language has on average.
    const BYTES_PER_TOKEN: u64 = 3;

    /// What a call with so many bytes of input is expected to use.
    #[must_use]
    pub fn of_call(&self, input_bytes: u64, max_tokens: Option<u64>, wall_ms: u64) -> Amounts {
        let input = input_bytes.div_ceil(Self::BYTES_PER_TOKEN);
        let tokens = input.saturating_add(max_tokens.unwrap_or(self.output_tokens));
        Each::new([self.cost.nanos(), tokens, 1, wall_ms])
    }
}
