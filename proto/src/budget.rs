//! Budgets on the wire.

use phoenix_domain::budget::{Amounts, Each, Limits};

use crate::{common, planner::budget_state};

/// Largest limit: a database holds integers of 63 bits, and sums of what is below are smaller.
const MAX_LIMIT: u64 = 1_000_000_000_000_000_000;

impl From<common::Budget> for Limits {
    fn from(wire: common::Budget) -> Self {
        let common::Budget { max_cost_nanos, max_tokens, max_calls, max_wall_ms } = wire;
        let limits = [max_cost_nanos, max_tokens, max_calls, max_wall_ms];
        Self::new(limits.map(|limit| limit.map(|limit| limit.min(MAX_LIMIT))))
    }
}

impl From<Amounts> for budget_state::Amounts {
    fn from(amounts: Amounts) -> Self {
        let [cost_nanos, tokens, calls, wall_ms] = amounts.values();
        Self { cost_nanos, tokens, calls, wall_ms }
    }
}

impl From<budget_state::Amounts> for Amounts {
    fn from(wire: budget_state::Amounts) -> Self {
        let budget_state::Amounts { cost_nanos, tokens, calls, wall_ms } = wire;
        Each::new([cost_nanos, tokens, calls, wall_ms])
    }
}

/// The limits on the wire; absent when there are none.
#[must_use]
pub fn wire_limits(limits: Limits) -> Option<common::Budget> {
    let [max_cost_nanos, max_tokens, max_calls, max_wall_ms] = limits.values();
    limits.is_limited().then_some(common::Budget { max_cost_nanos, max_tokens, max_calls, max_wall_ms })
}
