//! Retention: deletes finished plans and idempotency keys after a configured age.
//!
//! Deletion runs in small batches. A batch is as large as can be deleted within [`MAX_HOLD`], which bounds the wait of a
//! commit, and is followed by a pause of several times its duration. A plan is kept for as long as its key, so that a
//! repeated request finds its result. Planners that share a journal all do this; a batch that another planner has deleted is
//! empty.

use std::time::Duration;

use jiff::Timestamp;
use phoenix_domain::PlanId;
use phoenix_platform::metrics::record_counter;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Retention,
    journal::Journal,
    metrics::{JOURNAL_BYTES, OLDEST_PLAN_SECONDS, PLANS_DELETED},
    store::{
        error::JournalError,
        query::{OldPlans, Purged},
    },
};

/// Interval of the searches for old plans.
const SEARCH_INTERVAL: Duration = Duration::from_secs(60);

/// Maximum time for which a deletion may hold up a commit.
const MAX_HOLD: Duration = Duration::from_millis(4);

/// Length of the pause after a batch, as a multiple of the batch's duration.
const PAUSE_FACTOR: u32 = 4;

/// Maximum number of plans in a batch. The actual number follows from the duration of the last batch, since a plan may be one
/// line of text or hundreds of tasks.
const MAX_BATCH: u32 = 512;

/// Keys deleted at once; they all have one size.
const KEY_BATCH: u32 = 256;

/// Deletes old data until `stop`.
pub async fn run(journal: Journal, retention: Retention, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(SEARCH_INTERVAL);
    let mut batch_size = BatchSize(1);
    let mut is_failing = false;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        let purged = tokio::select! {
            purged = purge(&journal, retention, &mut batch_size) => purged,
            () = stop.cancelled() => return,
        };
        match purged {
            Ok(()) => is_failing = false,
            // The journal stops this planner.
            Err(JournalError::Fenced) => return,
            Err(error) if !is_failing => {
                is_failing = true;
                tracing::error!(%error, "old plans cannot be deleted; retrying every minute");
            }
            Err(_) => {}
        }
    }
}

async fn purge(
    journal: &Journal,
    retention: Retention,
    batch_size: &mut BatchSize,
) -> Result<(), JournalError> {
    let Retention { plans, keys } = retention;
    let now = Timestamp::now();
    let ago = |age: Duration| now.checked_sub(age).unwrap_or(Timestamp::MIN);
    // Keys first: a key must never name a deleted plan.
    while journal.purge_keys(ago(keys), KEY_BATCH).await? == u64::from(KEY_BATCH) {
        tokio::time::sleep(MAX_HOLD * PAUSE_FACTOR).await;
    }
    if let Some(age) = plans {
        let deleted = purge_plans(journal, ago(age.max(keys)), batch_size).await?;
        if deleted > 0 {
            tracing::info!(plans = deleted, "old plans deleted");
        }
    }
    let stats = journal.stats().await?;
    metrics::gauge!(JOURNAL_BYTES.name).set(stats.bytes as f64);
    let age = stats.oldest_plan.map(|oldest| now.duration_since(oldest).as_secs_f64());
    metrics::gauge!(OLDEST_PLAN_SECONDS.name).set(age.unwrap_or_default().max(0.0));
    Ok(())
}

async fn purge_plans(
    journal: &Journal,
    ended_before: Timestamp,
    batch_size: &mut BatchSize,
) -> Result<u64, JournalError> {
    let mut deleted = 0;
    let mut after: Option<PlanId> = None;
    loop {
        let old = OldPlans { ended_before, after, limit: batch_size.0 };
        let Purged { plans, last, held } = journal.purge_plans(&old).await?;
        deleted += plans;
        record_counter(&PLANS_DELETED, plans);
        batch_size.adapt(held);
        match last {
            None => return Ok(deleted),
            Some(_) => after = last,
        }
        tokio::time::sleep(held * PAUSE_FACTOR).await;
    }
}

/// Number of plans in the next batch.
#[derive(Debug)]
struct BatchSize(u32);

impl BatchSize {
    /// Adapts the size to the duration of the last batch.
    fn adapt(&mut self, held: Duration) {
        self.0 = match held {
            held if held > MAX_HOLD => (self.0 / 2).max(1),
            held if held < MAX_HOLD / 2 => (self.0 * 2).min(MAX_BATCH),
            _ => self.0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_size_follows_the_duration_of_the_last_batch() {
        let mut size = BatchSize(1);
        // A disk that deletes one plan in 100 µs.
        let delete = |size: &mut BatchSize| size.adapt(Duration::from_micros(100) * size.0);
        for _ in 0..20 {
            delete(&mut size);
        }
        assert_eq!(size.0, 32);
        size.adapt(Duration::from_secs(1));
        assert_eq!(size.0, 16);
        for _ in 0..20 {
            size.adapt(Duration::from_secs(1));
        }
        assert_eq!(size.0, 1, "one plan must be possible, however large it is");
        for _ in 0..20 {
            size.adapt(Duration::ZERO);
        }
        assert_eq!(size.0, MAX_BATCH);
    }
}
