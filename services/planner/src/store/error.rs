//! Errors of a journal.

use std::time::Duration;

use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use phoenix_platform::{postgres::transient, sqlite::is_damage};
use sqlx::postgres::PgDatabaseError;

/// Reasons why the journal cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The database failed: disk full, locked, damaged.
    #[error("the journal cannot be used: {0}")]
    Database(sqlx::Error),
    /// The connection broke before the database answered: the entries may be durable.
    #[error("the database did not answer a commit: {0}")]
    InDoubt(sqlx::Error),
    /// Earlier entries are not durable yet, so no plan is accepted.
    #[error("the journal is behind: earlier entries are not durable yet")]
    Behind,
    /// Another planner has taken the plans of this one over.
    #[error("another planner has taken over")]
    Fenced,
    /// What the entries reserve is reserved already.
    #[error("another request came first")]
    AlreadyReserved,
    /// The database file is no longer at its path: writes to it are lost.
    #[error("the journal's file is gone: {0}")]
    FileGone(String),
    /// A plan is larger than the largest record of the database.
    #[error("the plan is larger than the journal can hold")]
    TooLarge,
    /// The writer has ended with the process.
    #[error("the journal is closed")]
    Closed,
    /// A record cannot be read by this version, or the file is damaged at that place.
    #[error("the journal holds a damaged record: {0}")]
    Damaged(String),
}

impl JournalError {
    /// Whether a PostgreSQL server may accept the same work later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Database(error) | Self::InDoubt(error) => transient(error).is_some(),
            _ => false,
        }
    }

    /// Whether the database rejected a write because of its size: `SQLITE_TOOBIG`, `program_limit_exceeded` of PostgreSQL.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Database(error)) => {
                matches!(error.code().as_deref(), Some("18" | "54000"))
            }
            _ => false,
        }
    }
}

impl From<sqlx::Error> for JournalError {
    fn from(error: sqlx::Error) -> Self {
        let is_damage = match postgres_code(&error) {
            // Data or an index of the server is corrupted.
            Some(code) => matches!(code, "XX001" | "XX002"),
            None => is_damage(&error),
        };
        if is_damage { Self::Damaged(error.to_string()) } else { Self::Database(error) }
    }
}

/// The code of an error of PostgreSQL.
pub(crate) fn postgres_code(error: &sqlx::Error) -> Option<&str> {
    match error {
        sqlx::Error::Database(error) => {
            error.try_downcast_ref::<PgDatabaseError>().map(PgDatabaseError::code)
        }
        _ => None,
    }
}

impl From<JournalError> for OrchestratorError {
    /// The caller's error says that the journal is unavailable; the writer logs the cause for the operator.
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Damaged(what) => Self::internal(format!(
                "the journal holds a damaged record and cannot answer this from it: {what}"
            )),
            JournalError::TooLarge => {
                Self::invalid("tasks", "hold more than the journal can hold of one plan")
            }
            JournalError::AlreadyReserved => {
                Self::new(OrchestratorErrorCode::Conflict, "another request came first")
            }
            JournalError::Database(_)
            | JournalError::InDoubt(_)
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
