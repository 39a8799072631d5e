//! The journal: every plan, task, attempt and event, durable before anybody is told of it.
//!
//! Entries are handed to one writer, which commits whatever has gathered while the last commit ran, so that plans at the
//! same time share one fsync. Reading goes past the writer, to the committed state.

mod read;
mod rows;
mod writer;

use jiff::Timestamp;
use phoenix_domain::{
    CorrelationId, OrchestratorError, OrchestratorErrorCode, PlanId,
    action::ActionResult,
    plan::{AttemptOutcome, Plan, PlanStatus, TaskStatus},
};
use phoenix_platform::{
    readiness::Readiness,
    sqlite::{self, Durability, OpenError},
};
use sqlx::{SqlitePool, migrate::Migrator};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

pub use read::PlanFilter;

static MIGRATIONS: Migrator = sqlx::migrate!();

/// Entries that may wait for the writer; beyond it, whoever appends waits.
const QUEUE: usize = 4096;

/// Connections that read beside the writer's one.
const READERS: u32 = 2;

/// One step in the life of a plan.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A plan was accepted, with its tasks.
    PlanAccepted(Box<Plan>),
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
            JournalError::Database(_) | JournalError::Behind | JournalError::Closed => Self::new(
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
    _writer: std::sync::Arc<AbortOnDropHandle<()>>,
}

impl Journal {
    /// Opens, or makes, the journal at `url`. Meets the condition `journal` of `readiness` while it takes entries.
    ///
    /// # Errors
    /// When the database can't be opened or was written by a newer version.
    pub async fn open(url: &str, readiness: Readiness) -> Result<Self, OpenError> {
        let pool = sqlite::open(url, Durability::Full, READERS + 1, &MIGRATIONS).await?;
        let (queue, jobs) = mpsc::channel(QUEUE);
        let writer = tokio::spawn(writer::run(pool.clone(), jobs, readiness));
        Ok(Self { queue, readers: pool, _writer: std::sync::Arc::new(AbortOnDropHandle::new(writer)) })
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

    /// Ends every plan that was not ended when the journal was last closed, with `error`. Called before any plan is
    /// accepted. Gives their number.
    ///
    /// # Errors
    /// When the database can't be used.
    pub async fn end_interrupted(&self, error: &OrchestratorError) -> Result<usize, JournalError> {
        let open = read::unfinished(&self.readers).await?;
        let at = Timestamp::now();
        let mut entries = Vec::new();
        for plan in &open {
            for (ordinal, task) in
                plan.tasks.iter().enumerate().filter(|(_, task)| !task.status.is_terminal())
            {
                let task_ref = TaskRef { plan_id: plan.plan_id, ordinal };
                let running = task.attempts.iter().filter(|attempt| attempt.outcome.is_none());
                entries.extend(running.map(|attempt| Entry::AttemptEnded {
                    task: task_ref,
                    number: attempt.number,
                    at,
                    outcome: AttemptOutcome::Cancelled,
                    retried: false,
                }));
                entries.push(Entry::TaskEnded {
                    task: task_ref,
                    status: TaskStatus::DeadLettered,
                    at,
                    result: Err(error.clone()),
                });
            }
            entries.push(Entry::PlanEnded {
                plan_id: plan.plan_id,
                status: PlanStatus::Failed,
                at,
                result: Err(error.clone()),
            });
        }
        if !entries.is_empty() {
            self.record(entries).await?;
        }
        Ok(open.len())
    }

    async fn send(&self, job: writer::Job) -> Result<(), JournalError> {
        self.queue.send(job).await.map_err(|_| JournalError::Closed)
    }
}

/// The filter's correlation id is what a person starts from.
impl PlanFilter {
    /// Every plan of one request.
    #[must_use]
    pub fn of_request(correlation_id: CorrelationId) -> Self {
        Self { correlation_id: Some(correlation_id), ..Self::default() }
    }
}
