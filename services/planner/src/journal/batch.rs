//! Batches: the entries of one commit.

use std::{collections::VecDeque, time::Duration};

use tokio::sync::{mpsc, oneshot};

use crate::store::{
    entry::{Entries, Entry},
    error::JournalError,
};

/// Maximum number of jobs in one commit.
const MAX_BATCH_JOBS: usize = 1024;

/// Maximum size of one commit in bytes; a larger job has a commit of its own.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// How long entries without a waiting caller are held back for a shared commit.
const BATCH_WINDOW: Duration = Duration::from_millis(20);

/// Consecutive yields without a new job after which the batch is committed.
const IDLE_YIELDS: u32 = 2;

/// Entries to commit.
pub(super) enum Job {
    /// A creation: rejected when it cannot be committed now.
    Create { entries: Entries, done: oneshot::Sender<Result<(), JournalError>> },
    /// Progress of an accepted plan: kept until it is durable.
    Append {
        entries: Entries,
        done: Option<oneshot::Sender<Result<(), JournalError>>>,
        /// Whether they end a plan of which the database rejected an entry.
        ends_rejected: bool,
    },
}

/// Jobs of one commit: at most [`MAX_BATCH_JOBS`], and at most [`MAX_BATCH_BYTES`] unless a single one is larger.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) jobs: Vec<Job>,
    bytes: usize,
    /// Whether the next job did not fit.
    is_closed: bool,
    /// Jobs from the queue for later commits.
    later: VecDeque<Job>,
}

impl Batch {
    /// Starts a batch with the next job. Returns whether there is one.
    pub(super) async fn start(&mut self, jobs: &mut mpsc::Receiver<Job>) -> bool {
        let first = match self.later.pop_front() {
            Some(first) => first,
            None => match jobs.recv().await {
                Some(first) => first,
                None => return false,
            },
        };
        self.is_closed = false;
        self.push(first);
        self.fill(jobs);
        true
    }

    /// Whether no more jobs fit.
    fn is_full(&self) -> bool {
        self.is_closed || self.jobs.len() >= MAX_BATCH_JOBS || self.bytes >= MAX_BATCH_BYTES
    }

    fn push(&mut self, job: Job) {
        let bytes = job.size();
        if !self.jobs.is_empty() && self.bytes + bytes > MAX_BATCH_BYTES {
            self.later.push_front(job);
            self.is_closed = true;
        } else {
            self.bytes += bytes;
            self.jobs.push(job);
        }
    }

    /// Takes queued jobs as far as they fit. Returns whether there were any.
    pub(super) fn fill(&mut self, jobs: &mut mpsc::Receiver<Job>) -> bool {
        let before = self.jobs.len();
        while !self.is_full() {
            let next = self.later.pop_front().or_else(|| jobs.try_recv().ok());
            let Some(job) = next else { break };
            self.push(job);
        }
        self.jobs.len() > before
    }

    /// Leaves the second half of the jobs for later commits.
    pub(super) fn split(&mut self) {
        let half = self.jobs.len().div_ceil(2).max(1);
        for job in self.jobs.drain(half..).rev() {
            self.later.push_front(job);
        }
        self.bytes = self.jobs.iter().map(Job::size).sum();
    }

    /// Rejects creations and keeps the other jobs in order. The first creation receives `error`, the others `Behind`.
    pub(super) fn reject_creations(&mut self, error: JournalError) {
        let mut error = Some(error);
        let mut reject = |job| match job {
            Job::Create { done, .. } => {
                drop(done.send(Err(error.take().unwrap_or(JournalError::Behind))));
                None
            }
            append @ Job::Append { .. } => Some(append),
        };
        self.jobs = std::mem::take(&mut self.jobs).into_iter().filter_map(&mut reject).collect();
        self.later = std::mem::take(&mut self.later).into_iter().filter_map(&mut reject).collect();
        self.bytes = self.jobs.iter().map(Job::size).sum();
    }

    /// Completes and removes the jobs for which `reason` returns a reason to reject them.
    pub(super) fn reject_if(&mut self, mut reason: impl FnMut(&Job) -> Option<String>) {
        self.jobs = std::mem::take(&mut self.jobs)
            .into_iter()
            .filter_map(|job| match reason(&job) {
                Some(reason) => {
                    job.reject(JournalError::Rejected(reason));
                    None
                }
                None => Some(job),
            })
            .collect();
        self.bytes = self.jobs.iter().map(Job::size).sum();
    }

    /// Rejects queued creations while the batch waits. Other jobs from the queue are kept for later commits.
    pub(super) fn reject_queued(&mut self, jobs: &mut mpsc::Receiver<Job>) {
        let capacity = MAX_BATCH_JOBS.saturating_sub(self.later.len());
        let queued: Vec<_> = std::iter::from_fn(|| jobs.try_recv().ok()).take(capacity).collect();
        for job in std::mem::take(&mut self.later).into_iter().chain(queued) {
            match job {
                Job::Create { done, .. } => drop(done.send(Err(JournalError::Behind))),
                append @ Job::Append { .. } => self.later.push_back(append),
            }
        }
    }

    /// Reports the commit to every job; those in `rejected` reserve what is reserved already.
    pub(super) fn complete(&mut self, rejected: &[usize]) {
        self.bytes = 0;
        self.jobs.drain(..).enumerate().for_each(|(index, job)| job.complete(rejected.contains(&index)));
    }
}

impl Job {
    pub(super) const fn entries(&self) -> &Entries {
        match self {
            Self::Create { entries, .. } | Self::Append { entries, .. } => entries,
        }
    }

    /// Approximate size in the log, in bytes.
    pub(super) fn size(&self) -> usize {
        self.entries().iter().map(Entry::size).sum()
    }

    const fn is_awaited(&self) -> bool {
        matches!(self, Self::Create { .. } | Self::Append { done: Some(_), .. })
    }

    /// Reports that the job is durable, or rejected.
    pub(super) fn complete(self, is_rejected: bool) {
        match self {
            // The caller may have disconnected.
            Self::Create { done, .. } => {
                drop(done.send(if is_rejected { Err(JournalError::AlreadyReserved) } else { Ok(()) }));
            }
            Self::Append { done: Some(done), .. } => drop(done.send(Ok(()))),
            Self::Append { done: None, .. } => {}
        }
    }

    /// Reports that the job is not written.
    fn reject(self, error: JournalError) {
        match self {
            Self::Create { done, .. } | Self::Append { done: Some(done), .. } => drop(done.send(Err(error))),
            Self::Append { done: None, .. } => {}
        }
    }
}

/// Holds back entries without a waiting caller until one with a waiting caller arrives: they share its commit.
pub(super) async fn batch_window(batch: &mut Batch, jobs: &mut mpsc::Receiver<Job>) {
    let end = tokio::time::Instant::now() + BATCH_WINDOW;
    while !batch.is_full() && !batch.jobs.iter().any(Job::is_awaited) {
        match tokio::time::timeout_at(end, jobs.recv()).await {
            Ok(Some(job)) => batch.push(job),
            // The window has passed, or no sender is left.
            Ok(None) | Err(_) => return,
        }
        batch.fill(jobs);
    }
}

/// Yields to every task that is ready: requests and agent results that arrive meanwhile share the commit.
pub(super) async fn coalesce(batch: &mut Batch, jobs: &mut mpsc::Receiver<Job>) {
    let mut idle = 0;
    while idle < IDLE_YIELDS && !batch.is_full() {
        // Resumes after every ready task, and after a poll of the sockets.
        tokio::task::yield_now().await;
        idle = if batch.fill(jobs) { 0 } else { idle + 1 };
    }
}

/// Number of the writer of a group: that of the plan which the group accepts, or else of the first plan in it. Everything that
/// follows about the plan goes to the same writer, so it is committed in order. A group may change a second plan (a redrive
/// does, whose old plan has ended) or none; it becomes durable as a whole all the same.
pub(super) fn writer_of(entries: &[Entry], writers: usize) -> usize {
    let accepted = |entry: &Entry| match entry {
        Entry::PlanAccepted { plan, .. } => Some(plan.plan_id),
        _ => None,
    };
    let plan_id = entries.iter().find_map(accepted).or_else(|| entries.iter().find_map(Entry::plan_id));
    // The last bits of an id are random.
    let hash = plan_id.map_or(0, |plan_id| plan_id.as_uuid().as_u64_pair().1);
    usize::try_from(hash % writers as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use phoenix_domain::{CorrelationId, PlanId};

    use super::*;

    /// An append of about so many bytes.
    fn append(bytes: usize) -> Job {
        let entry = Entry::PlanRedriven {
            plan_id: PlanId::generate(),
            redriven_as: PlanId::generate(),
            at: Timestamp::now(),
            by: CorrelationId::generate(),
            reason: "x".repeat(bytes),
            bulk: None,
        };
        Job::Append { entries: [entry].into(), done: None, ends_rejected: false }
    }

    #[tokio::test]
    async fn batch_of_queued_jobs_is_bounded_by_bytes_and_ordered() {
        let sizes = [
            MAX_BATCH_BYTES / 2,
            MAX_BATCH_BYTES / 3,
            3 * MAX_BATCH_BYTES,
            10,
            MAX_BATCH_BYTES / 2,
            MAX_BATCH_BYTES,
            1,
        ];
        let (queue, mut jobs) = mpsc::channel(sizes.len());
        for size in sizes {
            assert!(queue.try_send(append(size)).is_ok());
        }
        drop(queue);
        let (mut batch, mut seen) = (Batch::default(), Vec::new());
        while batch.start(&mut jobs).await {
            assert!(batch.bytes <= MAX_BATCH_BYTES || batch.jobs.len() == 1, "{}", batch.bytes);
            seen.push(batch.jobs.iter().map(|job| job.size() & !511).collect::<Vec<_>>());
            batch.complete(&[]);
        }
        let rounded = |sizes: &[usize]| sizes.iter().map(|size| (size + 256) & !511).collect::<Vec<_>>();
        let expected = [&sizes[..2], &sizes[2..3], &sizes[3..5], &sizes[5..6], &sizes[6..]].map(rounded);
        assert_eq!(seen, expected);
    }

    #[tokio::test]
    async fn jobs_beyond_the_bound_stay_queued_while_commits_fail() {
        let (queue, mut jobs) = mpsc::channel(4 * MAX_BATCH_JOBS);
        let mut creations = Vec::new();
        for n in 0..4 * MAX_BATCH_JOBS {
            let job = match append(n) {
                Job::Append { entries, .. } if n % 4 == 0 => {
                    let (done, answer) = oneshot::channel();
                    creations.push(answer);
                    Job::Create { entries, done }
                }
                job => job,
            };
            assert!(queue.try_send(job).is_ok());
        }
        let mut batch = Batch::default();
        assert!(batch.start(&mut jobs).await);
        for _ in 0..10 {
            batch.reject_queued(&mut jobs);
            assert!(batch.later.len() <= MAX_BATCH_JOBS && batch.jobs.len() <= MAX_BATCH_JOBS);
        }
        let rejected = creations.iter_mut().filter_map(|answer| answer.try_recv().ok()).count();
        assert!(rejected > MAX_BATCH_JOBS / 4, "{rejected}");
        // Nothing is lost or overtaken once commits succeed again.
        drop(queue);
        let mut seen = Vec::new();
        loop {
            let kept = |job: &Job| matches!(job, Job::Append { .. });
            seen.extend(batch.jobs.iter().filter(|job| kept(job)).map(Job::size));
            batch.complete(&[]);
            if !batch.start(&mut jobs).await {
                break;
            }
        }
        assert_eq!(seen.len(), 3 * MAX_BATCH_JOBS);
        assert!(seen.is_sorted());
    }

    #[test]
    fn oversized_batch_is_split_in_order() {
        let mut batch = Batch::default();
        (1..=5).for_each(|size| batch.push(append(1000 * size)));
        for (now, later) in [(3, 2), (2, 3), (1, 4)] {
            batch.split();
            assert_eq!((batch.jobs.len(), batch.later.len()), (now, later));
            assert!(batch.jobs.iter().chain(&batch.later).is_sorted_by_key(Job::size));
        }
    }
}
