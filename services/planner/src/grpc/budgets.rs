//! Budgets: their limits and what is used of them.

use crate::{
    service::Planner,
    store::{budget::Balance, error::JournalError},
};
use jiff::Timestamp;
use phoenix_domain::{
    OrchestratorError, PlanId,
    budget::{Account, Limits, Scope},
    rejections::no_such_plan,
};
use phoenix_proto::{
    optional,
    planner::{BudgetState, ListBudgetsRequest, ListBudgetsResponse},
    to_timestamp, wire_limits,
};

/// The budgets of a plan, if one is named, and of agents and providers today.
pub(super) async fn list(
    planner: &Planner,
    request: ListBudgetsRequest,
    at: Timestamp,
) -> Result<ListBudgetsResponse, OrchestratorError> {
    let ListBudgetsRequest { plan_id } = request;
    let deps = planner.deps();
    let mut budgets: Vec<(Account, Limits)> = Vec::new();
    if let Some(plan_id) = optional::<PlanId>("plan_id", &plan_id)? {
        let plan = planner.journal().plan(plan_id).await.map_err(unreadable)?;
        let plan = plan.ok_or_else(|| no_such_plan(plan_id))?;
        budgets.push((Scope::Plan(plan_id).account(at), plan.budget));
    }
    let agents = deps.budgets.agents.iter();
    budgets.extend(agents.map(|(name, limits)| (Scope::Agent(name.clone()).account(at), *limits)));
    let providers = deps.budgets.providers.iter();
    budgets.extend(providers.map(|(name, limits)| (Scope::Provider(name.clone()).account(at), *limits)));
    budgets.retain(|(_, limits)| limits.is_limited());
    let accounts: Vec<Account> = budgets.iter().map(|(account, _)| account.clone()).collect();
    let balances = planner.journal().balances(&accounts).await.map_err(unreadable)?;
    let budgets = budgets
        .into_iter()
        .zip(balances)
        .map(|((account, limits), balance)| state(&account, limits, balance));
    Ok(ListBudgetsResponse { budgets: budgets.collect() })
}

fn state(account: &Account, limits: Limits, Balance { used, reserved }: Balance) -> BudgetState {
    BudgetState {
        scope: account.scope.kind().into(),
        name: account.scope.name(),
        limits: wire_limits(limits),
        used: Some(used.into()),
        reserved: Some(reserved.into()),
        resets_at: account.resets_at().map(to_timestamp),
    }
}

fn unreadable(error: JournalError) -> OrchestratorError {
    tracing::error!(%error, "the budgets cannot be read");
    error.into()
}
