//! The one writer of the journal.
//!
//! It takes whatever waits, writes it in one transaction and commits. When the database says no, plans that wait to be
//! accepted are refused, while progress of accepted plans is kept and tried again until it is durable; until then nothing
//! new is accepted and the planner is not ready.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use phoenix_platform::{
    metrics::{record_counter, record_histogram},
    readiness::Readiness,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{Entries, Entry, JournalError, Store, watchers::Watchers};
use crate::metrics::{JOURNAL_COMMIT_SECONDS, JOURNAL_ENTRIES, JOURNAL_FAILURES};

/// Jobs that share one commit at most.
const BATCH: usize = 1024;

/// Bytes that share one commit at most; a larger job has one of its own.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

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
    /// Whether new plans are refused at once.
    pub(super) behind: Arc<AtomicBool>,
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

/// Jobs of one commit: at most [`BATCH`], and at most [`BATCH_BYTES`] unless a single one is larger.
#[derive(Default)]
struct Batch {
    jobs: Vec<Job>,
    bytes: usize,
    /// Whether a job did not fit any more.
    is_closed: bool,
    /// Taken from the queue, and left for later commits.
    later: VecDeque<Job>,
}

impl Batch {
    /// Begins a batch: whether there is anything to write, now or later.
    async fn begin(&mut self, jobs: &mut mpsc::Receiver<Job>) -> bool {
        let first = match self.later.pop_front() {
            Some(first) => first,
            None => match jobs.recv().await {
                Some(first) => first,
                None => return false,
            },
        };
        self.is_closed = false;
        self.push(first);
        self.take(jobs);
        true
    }

    /// Whether no more may be taken.
    fn is_full(&self) -> bool {
        self.is_closed || self.jobs.len() >= BATCH || self.bytes >= BATCH_BYTES
    }

    fn push(&mut self, job: Job) {
        let bytes = job.weight();
        if !self.jobs.is_empty() && self.bytes + bytes > BATCH_BYTES {
            self.later.push_front(job);
            self.is_closed = true;
        } else {
            self.bytes += bytes;
            self.jobs.push(job);
        }
    }

    /// Takes what is there, as far as it fits: whether there was something.
    fn take(&mut self, jobs: &mut mpsc::Receiver<Job>) -> bool {
        let before = self.jobs.len();
        while !self.is_full() {
            let next = self.later.pop_front().or_else(|| jobs.try_recv().ok());
            let Some(job) = next else { break };
            self.push(job);
        }
        self.jobs.len() > before
    }

    /// Leaves all but the first job for later commits.
    fn split(&mut self) {
        for job in self.jobs.drain(1..).rev() {
            self.later.push_front(job);
        }
        self.bytes = self.jobs.iter().map(Job::weight).sum();
    }

    /// Refuses plans that wait to be accepted, and keeps the rest in order. The first receives `error`, the others `Behind`.
    fn refuse_new_plans(&mut self, error: JournalError) {
        let mut error = Some(error);
        let mut refuse = |job| match job {
            Job::Accept { done, .. } => {
                drop(done.send(Err(error.take().unwrap_or(JournalError::Behind))));
                None
            }
            progress @ Job::Progress { .. } => Some(progress),
        };
        self.jobs = std::mem::take(&mut self.jobs).into_iter().filter_map(&mut refuse).collect();
        self.later = std::mem::take(&mut self.later).into_iter().filter_map(&mut refuse).collect();
        self.bytes = self.jobs.iter().map(Job::weight).sum();
    }

    /// Answers every job; those in `too_late` claimed what was claimed before.
    fn answer(&mut self, too_late: &[usize]) {
        self.bytes = 0;
        self.jobs.drain(..).enumerate().for_each(|(place, job)| job.answer(too_late.contains(&place)));
    }
}

impl Job {
    const fn entries(&self) -> &Entries {
        match self {
            Self::Accept { entries, .. } | Self::Progress { entries, .. } => entries,
        }
    }

    /// Bytes that it takes in the log, roughly.
    fn weight(&self) -> usize {
        self.entries().iter().map(Entry::weight).sum()
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
    let mut batch = Batch::default();
    writer.is_behind(false);
    let mut last_seen = Instant::now();
    while batch.begin(&mut jobs).await {
        linger(&mut batch, &mut jobs).await;
        gather(&mut batch, &mut jobs).await;
        let mut failures = 0_u32;
        let too_late = loop {
            let error = match writer.commit_where_it_stays(&batch.jobs, &mut last_seen).await {
                Ok(too_late) => break too_late,
                Err(error) => error,
            };
            if error.is_too_large() {
                match &batch.jobs[..] {
                    [Job::Accept { .. }] => {
                        batch.refuse_new_plans(JournalError::TooLarge);
                        break Vec::new();
                    }
                    [_] => {}
                    _ => {
                        batch.split();
                        continue;
                    }
                }
            }
            if matches!(error, JournalError::Fenced) {
                tracing::error!(%error, "this planner was taken for dead; it writes nothing more");
                writer.is_behind(true);
                writer.fenced.cancel();
                return;
            }
            failures += 1;
            record_counter(&JOURNAL_FAILURES, 1);
            writer.is_behind(true);
            if failures == 1 {
                tracing::error!(%error, "the journal cannot be written; no plan is accepted until it can");
            }
            batch.refuse_new_plans(error);
            if batch.jobs.is_empty() {
                break Vec::new();
            }
            tokio::time::sleep(RETRY_AFTER).await;
            batch.take(&mut jobs);
            batch.refuse_new_plans(JournalError::Behind);
        };
        if !batch.jobs.is_empty() {
            writer.is_behind(false);
        }
        batch.answer(&too_late);
    }
}

/// Lets entries that nobody waits for wait for one that somebody does wait for: they cost no commit of their own then.
async fn linger(batch: &mut Batch, jobs: &mut mpsc::Receiver<Job>) {
    let end = tokio::time::Instant::now() + LINGER;
    while !batch.is_full() && !batch.jobs.iter().any(Job::is_awaited) {
        match tokio::time::timeout_at(end, jobs.recv()).await {
            Ok(Some(job)) => batch.push(job),
            // Time is up, or no caller is left.
            Ok(None) | Err(_) => return,
        }
        batch.take(jobs);
    }
}

/// Lets every task go first that is ready to: requests that have arrived and agents that have answered meanwhile share the
/// commit then. None is waited for.
async fn gather(batch: &mut Batch, jobs: &mut mpsc::Receiver<Job>) {
    let mut in_vain = 0;
    while in_vain < LOOKS && !batch.is_full() {
        // Behind every task that is ready, and behind a look at the sockets.
        tokio::task::yield_now().await;
        in_vain = if batch.take(jobs) { 0 } else { in_vain + 1 };
    }
}

impl Writer {
    /// Says whether entries wait for a database that does not take them.
    fn is_behind(&self, behind: bool) {
        self.behind.store(behind, Ordering::Relaxed);
        self.readiness.set("journal", !behind);
    }

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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use phoenix_domain::{CorrelationId, PlanId};

    use super::*;

    /// Progress that takes so many bytes in the log, and a little more.
    fn progress(bytes: usize) -> Job {
        let entry = Entry::PlanRedriven {
            plan_id: PlanId::generate(),
            redriven_as: PlanId::generate(),
            at: Timestamp::now(),
            by: CorrelationId::generate(),
            reason: "x".repeat(bytes),
            sweep: None,
        };
        Job::Progress { entries: [entry].into(), done: None }
    }

    #[tokio::test]
    async fn batch_is_bounded_by_bytes_and_keeps_the_order() {
        let sizes = [BATCH_BYTES / 2, BATCH_BYTES / 3, 3 * BATCH_BYTES, 10, BATCH_BYTES / 2, BATCH_BYTES, 1];
        let (queue, mut jobs) = mpsc::channel(sizes.len());
        for size in sizes {
            assert!(queue.try_send(progress(size)).is_ok());
        }
        drop(queue);
        let (mut batch, mut seen) = (Batch::default(), Vec::new());
        while batch.begin(&mut jobs).await {
            assert!(batch.bytes <= BATCH_BYTES || batch.jobs.len() == 1, "{}", batch.bytes);
            seen.push(batch.jobs.iter().map(|job| job.weight() & !511).collect::<Vec<_>>());
            batch.answer(&[]);
        }
        let rounded = |sizes: &[usize]| sizes.iter().map(|size| (size + 256) & !511).collect::<Vec<_>>();
        let expected = [&sizes[..2], &sizes[2..3], &sizes[3..5], &sizes[5..6], &sizes[6..]].map(rounded);
        assert_eq!(seen, expected);
    }

    #[test]
    fn batch_that_is_too_large_is_split_in_order() {
        let mut batch = Batch::default();
        [1000, 2000, 3000].into_iter().for_each(|size| batch.push(progress(size)));
        batch.split();
        assert_eq!((batch.jobs.len(), batch.later.len()), (1, 2));
        assert!(batch.jobs[0].weight() < batch.later[0].weight());
        assert!(batch.later[0].weight() < batch.later[1].weight());
    }
}
