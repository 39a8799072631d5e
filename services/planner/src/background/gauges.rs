//! Gauges that are sampled from the journal.

use std::time::Duration;

use jiff::Timestamp;
use metrics::gauge;
use tokio_util::sync::CancellationToken;

use crate::{
    journal::Journal,
    metrics::{APPROVALS_OLDEST, APPROVALS_WAITING, DEAD_LETTERS_OLDEST, DEAD_LETTERS_OPEN, PLANS_OLDEST},
    store::{approval::WaitingApprovals, dead_letter::OpenDeadLetters, error::JournalError},
};

/// Interval of the samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Samples the gauges until `stop`.
pub(crate) async fn run(journal: Journal, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        // The writer logs a journal that cannot be used; the gauges keep their last values.
        let _ = sample_dead_letters(&journal).await;
        let _ = sample_approvals(&journal).await;
        let _ = sample_plans(&journal).await;
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

/// Age in seconds; 0 without a time, or when the clock was set back.
fn age_of(time: Option<Timestamp>) -> f64 {
    time.map_or(0.0, |time| Timestamp::now().duration_since(time).as_secs_f64().max(0.0))
}
