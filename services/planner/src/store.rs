//! The journal: every plan, task, attempt and event, durable before anybody is told of it.
//!
//! Entries are handed to one writer, which commits whatever has gathered while the last commit ran, so that plans at the
//! same time share one fsync. Reading goes past the writer, to the committed state.

mod lease;
mod read;
mod rows;
mod writer;

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use jiff::Timestamp;
use phoenix_domain::{
    OrchestratorError, OrchestratorErrorCode, PlanId,
    action::ActionResult,
    plan::{AttemptOutcome, Plan, PlanStatus, TaskStatus},
};
use phoenix_platform::{
    readiness::Readiness,
    sqlite::{self, Durability, OpenError},
};
use sqlx::{SqlitePool, migrate::Migrator};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use read::{Event, PlanFilter};

static MIGRATIONS: Migrator = sqlx::migrate!();

/// Entries that may wait for the writer; beyond it, whoever appends waits.
const QUEUE: usize = 4096;

/// Commits that a watcher may fall behind before it looks for itself.
const CHANGES: usize = 64;

/// Connections that read beside the writer's one.
const READERS: u32 = 2;

/// One step in the life of a plan.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A plan was accepted, with its tasks.
    PlanAccepted {
        /// The plan.
        plan: Box<Plan>,
        /// The key by which its caller may ask for it again.
        key: Option<IdempotencyKey>,
    },
    /// A task was handed to an executor; with the first one, the plan runs.
    TaskDispatched {
        /// Which task.
        task: TaskRef,
        /// When.
        at: Timestamp,
    },
    /// A process was asked.
    AttemptStarted {
        /// Of which task.
        task: TaskRef,
        /// From 1.
        number: u32,
        /// When.
        at: Timestamp,
        /// The process.
        worker: String,
    },
    /// It answered, failed or was ended.
    AttemptEnded {
        /// Of which task.
        task: TaskRef,
        /// From 1.
        number: u32,
        /// When.
        at: Timestamp,
        /// How.
        outcome: AttemptOutcome,
        /// Whether another attempt follows.
        retried: bool,
    },
    /// A task reached a terminal state.
    TaskEnded {
        /// Which.
        task: TaskRef,
        /// A terminal state.
        status: TaskStatus,
        /// When.
        at: Timestamp,
        /// The agent's answer, or why there is none.
        result: Result<ActionResult, OrchestratorError>,
    },
    /// A plan reached a terminal state.
    PlanEnded {
        /// Which.
        plan_id: PlanId,
        /// A terminal state.
        status: PlanStatus,
        /// When.
        at: Timestamp,
        /// The answer as a person reads it, or why there is none.
        result: Result<String, OrchestratorError>,
    },
}

impl Entry {
    /// The plan it belongs to.
    #[must_use]
    pub fn plan_id(&self) -> PlanId {
        match self {
            Self::PlanAccepted { plan, .. } => plan.plan_id,
            Self::PlanEnded { plan_id, .. } => *plan_id,
            Self::TaskDispatched { task, .. }
            | Self::AttemptStarted { task, .. }
            | Self::AttemptEnded { task, .. }
            | Self::TaskEnded { task, .. } => task.plan_id,
        }
    }
}

/// The name that a caller gave to a request it may send twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The name.
    pub key: String,
    /// What was asked for, as a digest.
    pub digest: String,
}

/// A task by its plan and its place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskRef {
    /// The plan.
    pub plan_id: PlanId,
    /// The task's place, from 0.
    pub ordinal: usize,
}

/// The journal can't take an entry, or can't be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The database said no: disk full, locked, damaged.
    #[error("the journal cannot be used: {0}")]
    Database(#[from] sqlx::Error),
    /// Earlier entries could not be made durable yet, so no plan is accepted.
    #[error("the journal is behind: earlier entries are not durable yet")]
    Behind,
    /// Another planner has taken this one for dead and its plans over.
    #[error("another planner has taken over")]
    Fenced,
    /// The writer has ended, with the process.
    #[error("the journal is closed")]
    Closed,
    /// A row holds something this version can't read.
    #[error("the journal holds a row that cannot be read: {0}")]
    Damaged(String),
}

impl From<JournalError> for OrchestratorError {
    /// Callers are told that the journal is in trouble, operators what the trouble is (it is logged by the writer).
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Damaged(_) => Self::internal("the journal holds a record that cannot be read"),
            JournalError::Database(_)
            | JournalError::Behind
            | JournalError::Closed
            | JournalError::Fenced => Self::new(
                OrchestratorErrorCode::AgentUnavailable,
                "the planner cannot write its journal at the moment, so no plan is accepted",
            )
            .with_retry_after(std::time::Duration::from_secs(5)),
        }
    }
}

/// Access to the journal. Cheap to clone; the writer ends when the last one is gone.
#[derive(Debug, Clone)]
pub struct Journal {
    queue: mpsc::Sender<writer::Job>,
    readers: SqlitePool,
    instance: Arc<str>,
    fenced: CancellationToken,
    in_flight: Arc<AtomicUsize>,
    changes: broadcast::Sender<Arc<HashSet<PlanId>>>,
    _tasks: Arc<(AbortOnDropHandle<()>, AbortOnDropHandle<()>)>,
}

impl Journal {
    /// Opens, or makes, the journal at `url`, under a lease of its own. Meets the condition `journal` of `readiness` while
    /// it takes entries.
    ///
    /// # Errors
    /// When the database can't be opened or was written by a newer version.
    pub async fn open(url: &str, readiness: Readiness) -> Result<Self, StartError> {
        let pool = sqlite::open(url, Durability::Full, READERS + 1, &MIGRATIONS).await?;
        let instance = uuid::Uuid::new_v4().to_string();
        lease::register(&pool, &instance).await?;
        let (queue, jobs) = mpsc::channel(QUEUE);
        let (changes, _) = broadcast::channel(CHANGES);
        let fenced = CancellationToken::new();
        let in_flight = Arc::<AtomicUsize>::default();
        let writer = writer::Writer {
            pool: pool.clone(),
            instance: instance.clone(),
            readiness,
            fenced: fenced.clone(),
            in_flight: Arc::clone(&in_flight),
            changes: changes.clone(),
        };
        let writer = tokio::spawn(writer::run(writer, jobs));
        let renewal = tokio::spawn(renew(queue.downgrade()));
        let tasks = (AbortOnDropHandle::new(writer), AbortOnDropHandle::new(renewal));
        Ok(Self {
            queue,
            readers: pool,
            instance: instance.into(),
            fenced,
            in_flight,
            changes,
            _tasks: Arc::new(tasks),
        })
    }

    /// Counts a plan as in flight until the value is dropped: the more there are, the longer a commit waits for company.
    #[must_use]
    pub fn in_flight(&self) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(&self.in_flight))
    }

    /// Cancelled when another planner has taken over: this one must stop.
    #[must_use]
    pub const fn fenced(&self) -> &CancellationToken {
        &self.fenced
    }

    /// Takes over unfinished plans whose planner is gone.
    ///
    /// # Errors
    /// When the database can't be used.
    pub async fn claim(&self) -> Result<Vec<PlanId>, JournalError> {
        lease::claim(&self.readers, &self.instance).await
    }

    /// Gives the lease up, so that a successor need not wait for its end. Nothing can be written afterwards.
    ///
    /// # Errors
    /// When the database can't be used.
    pub async fn release(&self) -> Result<(), JournalError> {
        lease::release(&self.readers, &self.instance).await
    }

    /// Makes the acceptance of a plan durable, together with what is already known of its end.
    ///
    /// # Errors
    /// When it could not be made durable; then the plan does not exist.
    pub async fn accept(&self, entries: Vec<Entry>) -> Result<(), JournalError> {
        let (done, committed) = oneshot::channel();
        self.send(writer::Job::Accept { entries, done }).await?;
        committed.await.unwrap_or(Err(JournalError::Closed))
    }

    /// Adds progress of an accepted plan and waits until it is durable. While the database does not take it, it is tried
    /// again, in order: an accepted plan's history has no holes.
    ///
    /// # Errors
    /// Only when the process ends meanwhile.
    pub async fn record(&self, entries: Vec<Entry>) -> Result<(), JournalError> {
        let (done, committed) = oneshot::channel();
        self.send(writer::Job::Progress { entries, done: Some(done) }).await?;
        committed.await.map_err(|_| JournalError::Closed)
    }

    /// As [`Self::record`], without waiting: for steps that nobody is told of before a later one is durable.
    ///
    /// # Errors
    /// Only when the process ends meanwhile.
    pub async fn note(&self, entry: Entry) -> Result<(), JournalError> {
        self.send(writer::Job::Progress { entries: vec![entry], done: None }).await
    }

    /// One plan with its tasks and attempts.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn plan(&self, plan_id: PlanId) -> Result<Option<Plan>, JournalError> {
        read::plan(&self.readers, plan_id).await
    }

    /// Plans, newest first, without their tasks.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn plans(&self, filter: &PlanFilter) -> Result<Vec<Plan>, JournalError> {
        read::plans(&self.readers, filter).await
    }

    /// The plan that `key` stands for and the digest it was first used with, if that was not before `not_before`.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn plan_of_key(
        &self,
        key: &str,
        not_before: Timestamp,
    ) -> Result<Option<(PlanId, String)>, JournalError> {
        read::plan_of_key(&self.readers, key, not_before).await
    }

    /// Events of a plan after `position`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn events(
        &self,
        plan_id: PlanId,
        position: u64,
        limit: u32,
    ) -> Result<Vec<Event>, JournalError> {
        read::events(&self.readers, plan_id, position, limit).await
    }

    /// Tells of every commit from now on: the plans it changed.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Arc<HashSet<PlanId>>> {
        self.changes.subscribe()
    }

    async fn send(&self, job: writer::Job) -> Result<(), JournalError> {
        self.queue.send(job).await.map_err(|_| JournalError::Closed)
    }
}

/// A plan in flight.
#[derive(Debug)]
pub struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps the lease of a planner that has nothing to write.
async fn renew(queue: mpsc::WeakSender<writer::Job>) {
    let mut every = tokio::time::interval(lease::RENEW_EVERY);
    loop {
        every.tick().await;
        let Some(queue) = queue.upgrade() else { return };
        // A full queue renews by itself.
        let _ = queue.try_send(writer::Job::Progress { entries: Vec::new(), done: None });
    }
}

/// Why the journal can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database can't be opened or migrated.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It can't be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
}
