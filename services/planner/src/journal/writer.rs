//! The one writer of the journal.
//!
//! It takes whatever waits, writes it in one transaction and commits. When the database says no, plans that wait to be
//! accepted are refused, while progress of accepted plans is kept and tried again until it is durable; until then nothing
//! new is accepted and the planner is not ready.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use phoenix_platform::{
    metrics::{record_counter, record_histogram},
    readiness::Readiness,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Entries, JournalError, Store, watchers::Watchers};
use crate::metrics::{JOURNAL_COMMIT_SECONDS, JOURNAL_ENTRIES, JOURNAL_FAILURES};

/// Jobs that share one commit at most.
const BATCH: usize = 1024;

/// How long entries that nobody waits for may stay without a commit of their own.
const LINGER: Duration = Duration::from_millis(20);

/// How often others are let go first without anything coming of it.
const LOOKS: u32 = 2;

/// How often it is looked whether the database is still the one at its address.
const PRESENCE_EVERY: Duration = Duration::from_secs(2);

/// The wait after a commit that failed.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// What the writer works with.
pub(super) struct Writer {
    pub(super) store: Arc<dyn Store>,
    /// The planner on whose behalf it writes.
    pub(super) planner: String,
    pub(super) readiness: Readiness,
    /// Cancelled when another planner has taken over.
    pub(super) fenced: CancellationToken,
    /// Learns of every commit.
    pub(super) watchers: Watchers,
}

/// What the writer is asked to make durable.
pub(super) enum Job {
    /// Something new: refused when it can't be made durable now.
    Accept { entries: Entries, done: oneshot::Sender<Result<(), JournalError>> },
    /// Progress of an accepted plan: kept until it is durable.
    Progress { entries: Entries, done: Option<oneshot::Sender<()>> },
}

impl Job {
    const fn entries(&self) -> &Entries {
        match self {
            Self::Accept { entries, .. } | Self::Progress { entries, .. } => entries,
        }
    }

    const fn is_awaited(&self) -> bool {
        matches!(self, Self::Accept { .. } | Self::Progress { done: Some(_), .. })
    }

    /// Tells that it is durable, unless it came too late with what it claims.
    fn answer(self, too_late: bool) {
        match self {
            // Whoever asked may have gone meanwhile.
            Self::Accept { done, .. } => {
                drop(done.send(if too_late { Err(JournalError::Taken) } else { Ok(()) }));
            }
            Self::Progress { done: Some(done), .. } => drop(done.send(())),
            Self::Progress { done: None, .. } => {}
        }
    }
}

/// Writes until every [`super::Journal`] is gone and nothing waits.
pub(super) async fn run(writer: Writer, mut jobs: mpsc::Receiver<Job>) {
    let readiness = &writer.readiness;
    let mut waiting = Vec::with_capacity(BATCH);
    readiness.set("journal", true);
    let mut last_seen = Instant::now();
    while jobs.recv_many(&mut waiting, BATCH).await > 0 {
        linger(&mut waiting, &mut jobs).await;
        gather(&mut waiting, &mut jobs).await;
        let mut failures = 0_u32;
        let too_late = loop {
            let error = match writer.commit_where_it_stays(&waiting, &mut last_seen).await {
                Ok(too_late) => break too_late,
                Err(error) => error,
            };
            if matches!(error, JournalError::Fenced) {
                tracing::error!(%error, "this planner was taken for dead; it writes nothing more");
                readiness.set("journal", false);
                writer.fenced.cancel();
                return;
            }
            failures += 1;
            record_counter(&JOURNAL_FAILURES, 1);
            readiness.set("journal", false);
            if failures == 1 {
                tracing::error!(%error, "the journal cannot be written; no plan is accepted until it can");
            }
            refuse_new_plans(&mut waiting, error);
            if waiting.is_empty() {
                break Vec::new();
            }
            tokio::time::sleep(RETRY_AFTER).await;
            take(&mut waiting, &mut jobs);
            refuse_new_plans(&mut waiting, JournalError::Behind);
        };
        if !waiting.is_empty() {
            readiness.set("journal", true);
        }
        waiting.drain(..).enumerate().for_each(|(place, job)| job.answer(too_late.contains(&place)));
    }
}

/// Lets entries that nobody waits for wait for one that somebody does wait for: they cost no commit of their own then.
async fn linger(waiting: &mut Vec<Job>, jobs: &mut mpsc::Receiver<Job>) {
    let end = tokio::time::Instant::now() + LINGER;
    while waiting.len() < BATCH && !waiting.iter().any(Job::is_awaited) {
        match tokio::time::timeout_at(end, jobs.recv()).await {
            Ok(Some(job)) => waiting.push(job),
            // Time is up, or nobody is left to write.
            Ok(None) | Err(_) => return,
        }
        take(waiting, jobs);
    }
}

/// Lets everybody go first who is ready to: requests that have arrived and agents that have answered meanwhile share the commit
/// then. Nobody is waited for.
async fn gather(waiting: &mut Vec<Job>, jobs: &mut mpsc::Receiver<Job>) {
    let mut in_vain = 0;
    while in_vain < LOOKS && waiting.len() < BATCH {
        // Behind every task that is ready, and behind a look at the sockets.
        tokio::task::yield_now().await;
        in_vain = if take(waiting, jobs) { 0 } else { in_vain + 1 };
    }
}

/// Takes what is there: whether there was something.
fn take(waiting: &mut Vec<Job>, jobs: &mut mpsc::Receiver<Job>) -> bool {
    let before = waiting.len();
    while let Ok(job) = jobs.try_recv() {
        waiting.push(job);
    }
    waiting.len() > before
}

/// Answers those who wait to have a plan accepted, and keeps the rest in order. The first is told `error` itself.
fn refuse_new_plans(waiting: &mut Vec<Job>, error: JournalError) {
    let mut error = Some(error);
    for job in std::mem::take(waiting) {
        match job {
            Job::Accept { done, .. } => drop(done.send(Err(error.take().unwrap_or(JournalError::Behind)))),
            progress @ Job::Progress { .. } => waiting.push(progress),
        }
    }
}

impl Writer {
    /// As [`Self::commit`], to a database that was at its address a moment ago.
    async fn commit_where_it_stays(
        &self,
        jobs: &[Job],
        last_seen: &mut Instant,
    ) -> Result<Vec<usize>, JournalError> {
        if last_seen.elapsed() >= PRESENCE_EVERY {
            self.store.check_presence().await?;
            *last_seen = Instant::now();
        }
        self.commit(jobs).await
    }

    /// Commits all jobs but those that came too late with what they claim: their places.
    async fn commit(&self, jobs: &[Job]) -> Result<Vec<usize>, JournalError> {
        let groups: Vec<Entries> = jobs.iter().map(|job| Arc::clone(job.entries())).collect();
        let started = Instant::now();
        if groups.iter().any(|entries| entries.is_empty()) {
            self.store.beat(&self.planner).await?;
        }
        let count: usize = groups.iter().map(|entries| entries.len()).sum();
        if count == 0 {
            return Ok(Vec::new());
        }
        let too_late = self.store.write(&self.planner, &groups).await?;
        record_histogram(&JOURNAL_COMMIT_SECONDS, started.elapsed().as_secs_f64());
        record_counter(&JOURNAL_ENTRIES, count as u64);
        self.watchers.committed(&groups);
        Ok(too_late)
    }
}
