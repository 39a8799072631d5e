//! What can go wrong with a journal.

use std::time::Duration;

use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use phoenix_platform::sqlite::is_damage;

/// The journal can't take an entry, or can't be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The database said no: disk full, locked, damaged.
    #[error("the journal cannot be used: {0}")]
    Database(sqlx::Error),
    /// Earlier entries could not be made durable yet, so no plan is accepted.
    #[error("the journal is behind: earlier entries are not durable yet")]
    Behind,
    /// Another planner has taken this one for dead and its plans over.
    #[error("another planner has taken over")]
    Fenced,
    /// What the entries claim was claimed before.
    #[error("another request came first")]
    Taken,
    /// The database file is not at its path any more: what is written to it is lost.
    #[error("the journal's file is gone: {0}")]
    FileGone(String),
    /// A plan is larger than the database can hold in one record.
    #[error("the plan is larger than the journal can hold")]
    TooLarge,
    /// The writer has ended, with the process.
    #[error("the journal is closed")]
    Closed,
    /// A row holds something this version can't read, or the file is damaged where it lies.
    #[error("the journal holds a damaged record: {0}")]
    Damaged(String),
}

impl JournalError {
    /// Whether the database refuses what is to be written for its size (`SQLITE_TOOBIG`).
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Database(error)) => error.code().as_deref() == Some("18"),
            _ => false,
        }
    }
}

impl From<sqlx::Error> for JournalError {
    fn from(error: sqlx::Error) -> Self {
        if is_damage(&error) { Self::Damaged(error.to_string()) } else { Self::Database(error) }
    }
}

impl From<JournalError> for OrchestratorError {
    /// Callers are told that the journal is in trouble, operators what the trouble is (it is logged by the writer).
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Damaged(what) => Self::internal(format!(
                "the journal holds a damaged record and cannot answer this from it: {what}"
            )),
            JournalError::TooLarge => {
                Self::invalid("tasks", "hold more than the journal can hold of one plan")
            }
            JournalError::Taken => Self::new(OrchestratorErrorCode::Conflict, "another request came first"),
            JournalError::Database(_)
            | JournalError::Behind
            | JournalError::FileGone(_)
            | JournalError::Closed
            | JournalError::Fenced => Self::new(
                OrchestratorErrorCode::Unavailable,
                "the planner cannot use its journal at the moment, so no plan is accepted or shown",
            )
            .with_retry_after(Duration::from_secs(5)),
        }
    }
}
