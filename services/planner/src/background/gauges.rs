//! Gauges that are sampled from the journal.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use metrics::gauge;
use phoenix_domain::budget::{BudgetSettings, Limits, Resource, Scope};
use tokio_util::sync::CancellationToken;

use crate::{
    deps::Deps,
    journal::Journal,
    metrics::{
        APPROVALS_OLDEST, APPROVALS_WAITING, BUDGET_USED, DEAD_LETTERS_OLDEST, DEAD_LETTERS_OPEN,
        PLANS_OLDEST,
    },
    store::{approval::WaitingApprovals, budget::Balance, dead_letter::OpenDeadLetters, error::JournalError},
};

/// Interval of the samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Samples after which the budgets are sampled, too.
const BUDGET_TICKS: u32 = 10;

/// Samples the gauges until `stop`.
pub(crate) async fn run(journal: Journal, deps: Arc<Deps>, stop: CancellationToken) {
    let budgets = budgets(&deps.budgets);
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    let mut tick = 0_u32;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        // The writer logs a journal that cannot be used; the gauges keep their last values.
        let _ = sample_dead_letters(&journal).await;
        let _ = sample_approvals(&journal).await;
        let _ = sample_plans(&journal).await;
        if tick.is_multiple_of(BUDGET_TICKS) {
            let _ = sample_budgets(&journal, &budgets).await;
        }
        tick = tick.wrapping_add(1);
    }
}

async fn sample_dead_letters(journal: &Journal) -> Result<(), JournalError> {
    let OpenDeadLetters { count, oldest } = journal.open_dead_letters().await?;
    #[expect(clippy::cast_precision_loss, reason = "there are never 2^52 dead letters")]
    gauge!(DEAD_LETTERS_OPEN.name).set(count as f64);
    gauge!(DEAD_LETTERS_OLDEST.name).set(age_of(oldest));
    Ok(())
}

async fn sample_approvals(journal: &Journal) -> Result<(), JournalError> {
    let WaitingApprovals { count, oldest } = journal.waiting_approvals().await?;
    #[expect(clippy::cast_precision_loss, reason = "there are never 2^52 approvals")]
    gauge!(APPROVALS_WAITING.name).set(count as f64);
    gauge!(APPROVALS_OLDEST.name).set(age_of(oldest));
    Ok(())
}

async fn sample_plans(journal: &Journal) -> Result<(), JournalError> {
    gauge!(PLANS_OLDEST.name).set(age_of(journal.oldest_unfinished().await?));
    Ok(())
}

/// The scopes of days with their limits.
fn budgets(settings: &BudgetSettings) -> Vec<(Scope, Limits)> {
    let agents = settings.agents.iter().map(|(name, limits)| (Scope::Agent(name.clone()), *limits));
    let providers = settings.providers.iter().map(|(name, limits)| (Scope::Provider(name.clone()), *limits));
    agents.chain(providers).filter(|(_, limits)| limits.is_limited()).collect()
}

async fn sample_budgets(journal: &Journal, budgets: &[(Scope, Limits)]) -> Result<(), JournalError> {
    if budgets.is_empty() {
        return Ok(());
    }
    let now = Timestamp::now();
    let accounts: Vec<_> = budgets.iter().map(|(scope, _)| scope.clone().account(now)).collect();
    let balances = journal.balances(&accounts).await?;
    for ((scope, limits), Balance { used, reserved }) in budgets.iter().zip(balances) {
        for resource in Resource::ALL {
            let Some(limit) = limits[resource] else { continue };
            let taken = used[resource].saturating_add(reserved[resource]);
            // A limit of 0 is spent from the beginning.
            #[expect(clippy::cast_precision_loss, reason = "a share needs no more precision")]
            let share = if limit == 0 { 1.0 } else { taken as f64 / limit as f64 };
            let (kind, resource) = (scope.kind(), resource.limit_name());
            gauge!(BUDGET_USED.name, "scope" => kind, "budget" => scope.name(), "resource" => resource)
                .set(share);
        }
    }
    Ok(())
}

/// Age in seconds; 0 without a time, or when the clock was set back.
fn age_of(time: Option<Timestamp>) -> f64 {
    time.map_or(0.0, |time| Timestamp::now().duration_since(time).as_secs_f64().max(0.0))
}
