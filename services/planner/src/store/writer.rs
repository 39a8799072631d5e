//! The one writer of the journal.
//!
//! It takes whatever waits, writes it in one transaction and commits. When the database says no, plans that wait to be
//! accepted are refused, while progress of accepted plans is kept and tried again until it is durable; until then nothing
//! new is accepted and the planner is not ready.

use std::time::{Duration, Instant};

use phoenix_platform::{
    metrics::{record_counter, record_histogram},
    readiness::Readiness,
};
use sqlx::{Connection, SqliteConnection, SqlitePool};
use tokio::sync::{mpsc, oneshot};

use super::{
    Entry, JournalError,
    rows::{self, Rows},
};
use crate::metrics::{JOURNAL_COMMIT_SECONDS, JOURNAL_ENTRIES, JOURNAL_FAILURES};

/// Jobs that share one commit at most.
const BATCH: usize = 512;

/// The wait after a commit that failed.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// What the writer is asked to make durable.
pub(super) enum Job {
    /// A new plan: refused when it can't be made durable now.
    Accept { entries: Vec<Entry>, done: oneshot::Sender<Result<(), JournalError>> },
    /// Progress of an accepted plan: kept until it is durable.
    Progress { entries: Vec<Entry>, done: Option<oneshot::Sender<()>> },
}

impl Job {
    fn entries(&self) -> &[Entry] {
        match self {
            Self::Accept { entries, .. } | Self::Progress { entries, .. } => entries,
        }
    }

    fn committed(self) {
        match self {
            // Whoever asked may have gone meanwhile.
            Self::Accept { done, .. } => drop(done.send(Ok(()))),
            Self::Progress { done: Some(done), .. } => drop(done.send(())),
            Self::Progress { done: None, .. } => {}
        }
    }
}

/// Writes until every [`super::Journal`] is gone and nothing waits.
pub(super) async fn run(pool: SqlitePool, mut jobs: mpsc::Receiver<Job>, readiness: Readiness) {
    let mut waiting = Vec::with_capacity(BATCH);
    readiness.set("journal", true);
    while jobs.recv_many(&mut waiting, BATCH).await > 0 {
        let mut failures = 0_u32;
        while let Err(error) = commit(&pool, &waiting).await {
            failures += 1;
            record_counter(&JOURNAL_FAILURES, 1);
            readiness.set("journal", false);
            if failures == 1 {
                tracing::error!(%error, "the journal cannot be written; no plan is accepted until it can");
            }
            refuse_new_plans(&mut waiting, error);
            if waiting.is_empty() {
                break;
            }
            tokio::time::sleep(RETRY_AFTER).await;
            while let Ok(job) = jobs.try_recv() {
                waiting.push(job);
            }
            refuse_new_plans(&mut waiting, JournalError::Behind);
        }
        if !waiting.is_empty() {
            readiness.set("journal", true);
        }
        waiting.drain(..).for_each(Job::committed);
    }
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

async fn commit(pool: &SqlitePool, jobs: &[Job]) -> Result<(), JournalError> {
    let mut batch = Rows::default();
    let mut entries = 0;
    for entry in jobs.iter().flat_map(Job::entries) {
        batch.add(entry);
        entries += 1;
    }
    let started = Instant::now();
    let mut connection = pool.acquire().await?;
    write(&mut connection, batch).await?;
    record_histogram(&JOURNAL_COMMIT_SECONDS, started.elapsed().as_secs_f64());
    record_counter(&JOURNAL_ENTRIES, entries);
    Ok(())
}

async fn write(connection: &mut SqliteConnection, batch: Rows) -> Result<(), JournalError> {
    // IMMEDIATE: takes the write lock first, so that a second process waits instead of failing in the middle.
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let statements = [
        (rows::INSERT_PLANS, batch.plans),
        (rows::INSERT_TASKS, batch.tasks),
        (rows::INSERT_ATTEMPTS, batch.attempts),
        (rows::UPDATE_RUNNING, batch.task_steps.clone()),
        (rows::UPDATE_TASKS, batch.task_steps),
        (rows::END_ATTEMPTS, batch.attempt_ends),
        (rows::END_TASKS, batch.task_ends),
        (rows::END_PLANS, batch.plan_ends),
        (rows::INSERT_EVENTS, batch.events),
    ];
    for (statement, rows) in statements {
        if !rows.is_empty() {
            let json = serde_json::Value::Array(rows).to_string();
            sqlx::query(statement).bind(json).execute(&mut *transaction).await?;
        }
    }
    transaction.commit().await?;
    Ok(())
}
