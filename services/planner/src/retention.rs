//! What is old goes: finished plans after an age that the operator chose, idempotency keys when they stand for nothing
//! any more.
//!
//! It goes in small batches, and between two of them the journal belongs to those who work: a batch is as large as can be
//! deleted in a moment ([`MOMENT`]), and what follows is a pause of several. A plan stays for as long as its key does, so
//! that a request which is sent twice finds its answer. With several planners on one journal each of them does this;
//! whoever comes second finds nothing left to do.

use std::time::Duration;

use jiff::Timestamp;
use phoenix_domain::PlanId;
use phoenix_platform::metrics::record_counter;
use tokio_util::sync::CancellationToken;

use crate::{
    journal::Journal,
    metrics::{JOURNAL_BYTES, OLDEST_PLAN_SECONDS, PLANS_DELETED},
    store::{Forgotten, JournalError, OldPlans},
};

/// How often old plans are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How long a commit may have to wait for a batch that is being deleted.
const MOMENT: Duration = Duration::from_millis(4);

/// Pauses are so many times as long as the batch before them.
const PAUSE: u32 = 4;

/// Plans in a batch, at most. How many it is in between follows from how long the last batch took: a plan may be a line of
/// text or hundreds of tasks.
const LARGEST_BATCH: u32 = 512;

/// Keys deleted at once; they are all of one size.
const KEYS: u32 = 256;

/// How long what is stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Plans, after their end; for ever when absent.
    pub plans: Option<Duration>,
    /// Idempotency keys, after their first use.
    pub keys: Duration,
}

/// Deletes what is old, until `stop`.
pub async fn run(journal: Journal, retention: Retention, stop: CancellationToken) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    let mut batch = Batch(1);
    let mut trouble_told = false;
    loop {
        tokio::select! {
            _ = every.tick() => {}
            () = stop.cancelled() => return,
        }
        let cleaned = tokio::select! {
            cleaned = clean(&journal, retention, &mut batch) => cleaned,
            () = stop.cancelled() => return,
        };
        match cleaned {
            Ok(()) => trouble_told = false,
            // The journal stops this planner.
            Err(JournalError::Fenced) => return,
            Err(error) if !trouble_told => {
                trouble_told = true;
                tracing::error!(%error, "old plans cannot be deleted; it is tried again every minute");
            }
            Err(_) => {}
        }
    }
}

async fn clean(journal: &Journal, retention: Retention, batch: &mut Batch) -> Result<(), JournalError> {
    let Retention { plans, keys } = retention;
    let now = Timestamp::now();
    let ago = |age: Duration| now.checked_sub(age).unwrap_or(Timestamp::MIN);
    // Keys first: a key must never stand for a plan that is gone.
    while journal.forget_keys(ago(keys), KEYS).await? == u64::from(KEYS) {
        tokio::time::sleep(MOMENT * PAUSE).await;
    }
    if let Some(age) = plans {
        let deleted = clean_plans(journal, ago(age.max(keys)), batch).await?;
        if deleted > 0 {
            tracing::info!(plans = deleted, "old plans deleted");
        }
    }
    let extent = journal.extent().await?;
    metrics::gauge!(JOURNAL_BYTES.name).set(extent.bytes as f64);
    let age = extent.oldest_plan.map(|oldest| now.duration_since(oldest).as_secs_f64());
    metrics::gauge!(OLDEST_PLAN_SECONDS.name).set(age.unwrap_or_default().max(0.0));
    Ok(())
}

async fn clean_plans(
    journal: &Journal,
    ended_before: Timestamp,
    batch: &mut Batch,
) -> Result<u64, JournalError> {
    let mut deleted = 0;
    let mut after: Option<PlanId> = None;
    loop {
        let old = OldPlans { ended_before, after, limit: batch.0 };
        let Forgotten { plans, last, held } = journal.forget_plans(&old).await?;
        deleted += plans;
        record_counter(&PLANS_DELETED, plans);
        batch.learn(held);
        match last {
            None => return Ok(deleted),
            Some(_) => after = last,
        }
        tokio::time::sleep(held * PAUSE).await;
    }
}

/// Plans in the next batch.
#[derive(Debug)]
struct Batch(u32);

impl Batch {
    fn learn(&mut self, held: Duration) {
        self.0 = match held {
            held if held > MOMENT => (self.0 / 2).max(1),
            held if held < MOMENT / 2 => (self.0 * 2).min(LARGEST_BATCH),
            _ => self.0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_grows_to_what_a_moment_holds_and_gives_way_at_once() {
        let mut batch = Batch(1);
        // A disk that deletes one plan in 100 µs.
        let took = |batch: &mut Batch| batch.learn(Duration::from_micros(100) * batch.0);
        for _ in 0..20 {
            took(&mut batch);
        }
        assert_eq!(batch.0, 32);
        batch.learn(Duration::from_secs(1));
        assert_eq!(batch.0, 16);
        for _ in 0..20 {
            batch.learn(Duration::from_secs(1));
        }
        assert_eq!(batch.0, 1, "one plan must be possible, however large it is");
        for _ in 0..20 {
            batch.learn(Duration::ZERO);
        }
        assert_eq!(batch.0, LARGEST_BATCH);
    }
}
