//! A writer of the journal: a task that commits everything that is queued.
//!
//! When a commit fails, queued creations are rejected, while progress of accepted plans is kept and committed again until it
//! is durable; until then no writer accepts a plan and the planner is not ready. A commit that the database did not answer is
//! repeated as it was, under the same identity, by which the store recognises it. A batch that the database rejects for its
//! content is split until the entry is found; the entry is [left out](RejectedPlans), and its neighbours are committed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use phoenix_platform::{
    metrics::{record_counter, record_histogram},
    readiness::Readiness,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    journal::{
        batch::{Batch, Job, batch_window, coalesce},
        ownership::HEARTBEAT_INTERVAL,
        rejected::RejectedPlans,
        statistics::Statistics,
        watchers::Watchers,
    },
    metrics::{JOURNAL_COMMIT_SECONDS, JOURNAL_ENTRIES, JOURNAL_FAILURES},
    store::{
        backend::Store,
        entry::{BatchId, Entries},
        error::JournalError,
    },
};

/// Interval of the checks that the database file is still at its path.
const PRESENCE_INTERVAL: Duration = Duration::from_secs(2);

/// Pause after a failed commit.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// State of a writer.
pub(super) struct Writer {
    store: Arc<dyn Store>,
    /// Identity of the last batch.
    batch: BatchId,
    backlog: Arc<Backlog>,
    /// Whether this writer is one of those in the backlog.
    is_behind: bool,
    /// Cancelled when another planner has taken over.
    fenced: CancellationToken,
    /// Notified of every commit.
    watchers: Watchers,
    /// Counts every commit.
    statistics: Statistics,
    rejected: RejectedPlans,
    last_check: Instant,
    last_heartbeat: Instant,
}

/// The planner is fenced; the writer has stopped.
struct Stopped;

/// Writers whose entries wait for a database that does not accept them. While there are any, creations are rejected at once
/// and the planner is not ready.
#[derive(Debug)]
pub(super) struct Backlog {
    readiness: Readiness,
    writers: Mutex<u32>,
    exists: AtomicBool,
}

impl Backlog {
    /// No writer is behind: meets the condition `journal` of `readiness`.
    pub(super) fn none(readiness: Readiness) -> Self {
        readiness.set("journal", true);
        Self { readiness, writers: Mutex::new(0), exists: AtomicBool::new(false) }
    }

    /// Whether any writer is behind.
    pub(super) fn exists(&self) -> bool {
        self.exists.load(Ordering::Relaxed)
    }

    /// Adds a writer that fell behind because of `error`, or removes one that wrote everything.
    fn change(&self, error: Option<&JournalError>) {
        let mut writers = self.writers.lock();
        *writers = if error.is_some() { *writers + 1 } else { writers.saturating_sub(1) };
        let exists = *writers > 0;
        if self.exists.swap(exists, Ordering::Relaxed) != exists {
            self.readiness.set("journal", !exists);
            match error {
                Some(JournalError::Fenced) => {}
                Some(error) => {
                    tracing::error!(%error, "the journal cannot be written; no plan is accepted until it can");
                }
                None => tracing::info!("the journal is written again"),
            }
        }
    }
}

/// Commits until every sender of the queue is gone and the queue is empty, or the planner is fenced.
pub(super) async fn run(mut writer: Writer, mut jobs: mpsc::Receiver<Job>) {
    let mut batch = Batch::default();
    while batch.start(&mut jobs).await {
        batch_window(&mut batch, &mut jobs).await;
        coalesce(&mut batch, &mut jobs).await;
        match writer.write(&mut batch, &mut jobs).await {
            Ok(rejected) => batch.complete(&rejected),
            Err(Stopped) => return,
        }
    }
}

impl Writer {
    pub(super) fn new(
        store: Arc<dyn Store>,
        batch: BatchId,
        backlog: Arc<Backlog>,
        fenced: CancellationToken,
        (watchers, statistics): (Watchers, Statistics),
    ) -> Self {
        let (last_check, last_heartbeat) = (Instant::now(), Instant::now());
        let rejected = RejectedPlans::default();
        Self {
            store,
            batch,
            backlog,
            is_behind: false,
            fenced,
            watchers,
            statistics,
            rejected,
            last_check,
            last_heartbeat,
        }
    }

    /// Writes a batch, however long that takes. While it cannot be written, creations are rejected. A batch in doubt stays
    /// as it is: its creations may be durable, so they can be neither rejected nor written under another identity.
    async fn write(
        &mut self,
        batch: &mut Batch,
        jobs: &mut mpsc::Receiver<Job>,
    ) -> Result<Vec<usize>, Stopped> {
        let mut is_in_doubt = false;
        self.batch.sequence += 1;
        loop {
            if !is_in_doubt {
                batch.reject_if(|job| self.rejected.reason(job));
            }
            let error = match self.commit_checked(&batch.jobs).await {
                Ok(rejected) => {
                    self.set_behind(None);
                    return Ok(rejected);
                }
                Err(error) => error,
            };
            if matches!(error, JournalError::Fenced) {
                if !self.fenced.is_cancelled() {
                    tracing::error!(%error, "this planner was taken for dead; it writes nothing more");
                }
                self.set_behind(Some(&error));
                self.fenced.cancel();
                return Err(Stopped);
            }
            if error.is_rejection() {
                // An answer, so that nothing of the batch is durable.
                is_in_doubt = false;
                self.reject(batch, &error);
                self.batch.sequence += 1;
                continue;
            }
            is_in_doubt |= matches!(error, JournalError::InDoubt(_));
            record_counter(&JOURNAL_FAILURES, 1);
            self.set_behind(Some(&error));
            if is_in_doubt {
                tokio::time::sleep(RETRY_AFTER).await;
                batch.reject_queued(jobs);
            } else {
                batch.reject_creations(error);
                tokio::time::sleep(RETRY_AFTER).await;
                batch.fill(jobs);
                batch.reject_creations(JournalError::Behind);
                self.batch.sequence += 1;
            }
        }
    }

    /// Halves a batch that the database rejects for its content, or leaves its only job out.
    fn reject(&mut self, batch: &mut Batch, error: &JournalError) {
        match &batch.jobs[..] {
            [Job::Create { .. }] if error.is_too_large() => batch.reject_creations(JournalError::TooLarge),
            [_] => batch.reject_if(|job| Some(self.rejected.add(job, error))),
            _ => batch.split(),
        }
    }

    /// Sets whether entries wait for a database that does not accept them, and why.
    fn set_behind(&mut self, error: Option<&JournalError>) {
        if std::mem::replace(&mut self.is_behind, error.is_some()) != error.is_some() {
            self.backlog.change(error);
        }
    }

    /// As [`Self::commit`], after a check that the database file is still at its path.
    async fn commit_checked(&mut self, jobs: &[Job]) -> Result<Vec<usize>, JournalError> {
        if self.last_check.elapsed() >= PRESENCE_INTERVAL {
            self.store.check_presence().await?;
            self.last_check = Instant::now();
        }
        self.commit(jobs).await
    }

    /// Commits the jobs. Returns the indices of those that are rejected because they reserve what is reserved already.
    async fn commit(&mut self, jobs: &[Job]) -> Result<Vec<usize>, JournalError> {
        let groups: Vec<Entries> = jobs.iter().map(|job| Arc::clone(job.entries())).collect();
        let started = Instant::now();
        let count: usize = groups.iter().map(|entries| entries.len()).sum();
        let is_due = self.batch.writer == 0 && self.last_heartbeat.elapsed() >= HEARTBEAT_INTERVAL;
        if count == 0 || is_due {
            self.store.heartbeat(&self.batch.planner, Timestamp::now()).await?;
            self.last_heartbeat = Instant::now();
        }
        if count == 0 {
            return Ok(Vec::new());
        }
        let rejected = self.store.append(&self.batch, &groups).await?;
        record_histogram(&JOURNAL_COMMIT_SECONDS, started.elapsed().as_secs_f64());
        record_counter(&JOURNAL_ENTRIES, count as u64);
        self.watchers.committed(&groups);
        self.statistics.committed(&groups, &rejected, Timestamp::now());
        Ok(rejected)
    }
}
