//! Errors of a journal.

use std::time::Duration;

use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use phoenix_platform::{postgres::transient, sqlite::is_damage};
use sqlx::postgres::PgDatabaseError;

/// Longest reason of a rejection in messages, in characters.
const MAX_REASON_CHARS: usize = 300;

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
    /// The database rejects the content of an entry, as it would reject it again.
    #[error("the database rejects a record: {0}")]
    Rejected(String),
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

    /// Whether the database rejected a write for its content: the same write is rejected again, and writes without that content
    /// are not. Nothing was written.
    #[must_use]
    pub fn is_rejection(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Encode(_)) => true,
            Self::Database(sqlx::Error::Database(error)) => {
                match error.try_downcast_ref::<PgDatabaseError>() {
                    Some(error) => is_rejection(error.code(), error.constraint()),
                    None => error.code().is_some_and(|code| is_sqlite_rejection(&code)),
                }
            }
            _ => false,
        }
    }

    /// Why the database rejected a write, in one line: its message, without the rows that it may show in details.
    #[must_use]
    pub fn rejection(&self) -> String {
        let text = match self {
            Self::Database(sqlx::Error::Database(error)) => match error.code() {
                Some(code) => format!("{} (code {code})", error.message()),
                None => error.message().to_owned(),
            },
            other => other.to_string(),
        };
        text.chars().filter(|char| !char.is_control()).take(MAX_REASON_CHARS).collect()
    }
}

/// Whether an extended result code of SQLite is of `SQLITE_TOOBIG` or `SQLITE_CONSTRAINT` (<https://sqlite.org/rescode.html>).
fn is_sqlite_rejection(code: &str) -> bool {
    code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 18 | 19))
}

/// Whether PostgreSQL reports a problem of the data that were written: the classes of
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html> that depend on them. The other classes are conditions of the
/// connection, the server, its configuration or its schema, which pass or which an operator ends.
fn is_rejection(code: &str, constraint: Option<&str>) -> bool {
    match code.get(..2) {
        // Of several requests with one key, or redrives of one plan, the first one wins.
        Some("23") => !matches!(constraint, Some("idempotency_keys_pkey" | "plans_by_redrive")),
        // Unsupported feature, cardinality, data exception, triggers and functions, check option, program limit, RAISE.
        Some("0A" | "21" | "22" | "27" | "2F" | "38" | "39" | "44" | "54" | "P0") => true,
        _ => false,
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
            JournalError::Rejected(reason) => Self::internal(format!(
                "the journal's database rejects a record of the plan: {reason}; the planner's log names the plan"
            )),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejection_is_a_problem_of_the_data() {
        for (code, constraint, expected) in [
            ("22P05", None, true),
            ("22003", None, true),
            ("23514", Some("a_check"), true),
            ("23505", Some("plans_pkey"), true),
            ("23505", Some("idempotency_keys_pkey"), false),
            ("54000", None, true),
            ("P0001", None, true),
            // A conflict, a lost connection, a full disk, missing rights, a missing table, a fence.
            ("40001", None, false),
            ("08006", None, false),
            ("53100", None, false),
            ("42501", None, false),
            ("42P01", None, false),
            ("57P01", None, false),
            ("25006", None, false),
            ("PX001", None, false),
            ("XX000", None, false),
        ] {
            assert_eq!(is_rejection(code, constraint), expected, "{code}");
        }
        for (code, expected) in
            [("18", true), ("1811", true), ("275", true), ("13", false), ("10", false), ("5", false)]
        {
            assert_eq!(is_sqlite_rejection(code), expected, "{code}");
        }
    }
}
