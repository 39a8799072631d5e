//! Errors of the table.

use std::time::Duration;

use phoenix_domain::{AgentName, OrchestratorError, OrchestratorErrorCode};
use phoenix_platform::postgres::transient;

/// Wait that callers are asked for when the disk is full, the server is down, or another process holds the file.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Reason why the table cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A row holds a value that this service never writes.
    #[error("the row of agent `{agent}` is corrupt: {column} is out of range")]
    CorruptRow {
        /// Agent of the row.
        agent: AgentName,
        /// Column with the value.
        column: &'static str,
    },
    /// The database failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

impl StoreError {
    /// Whether the failure may pass without repair: the server is down, the file is locked, the disk is full or unavailable.
    pub(crate) fn is_transient(&self) -> bool {
        const BUSY: u32 = 5;
        const LOCKED: u32 = 6;
        const READ_ONLY: u32 = 8;
        const IO: u32 = 10;
        const FULL: u32 = 13;
        const CANT_OPEN: u32 = 14;
        match self {
            Self::CorruptRow { .. } => false,
            Self::Database(error) if transient(error).is_some() => true,
            Self::Database(sqlx::Error::Database(error)) => {
                // The low byte of an extended result code of SQLite is the primary one (https://sqlite.org/rescode.html).
                let code = error.try_downcast_ref::<sqlx::sqlite::SqliteError>().and_then(|error| {
                    use sqlx::error::DatabaseError;
                    error.code()?.parse::<u32>().ok()
                });
                let code = code.map(|code| code & 0xff);
                matches!(code, Some(BUSY | LOCKED | READ_ONLY | IO | FULL | CANT_OPEN))
            }
            Self::Database(error) => matches!(error, sqlx::Error::Io(_)),
        }
    }
}

/// The error that callers get. The cause is for the operator's log.
impl From<&StoreError> for OrchestratorError {
    fn from(error: &StoreError) -> Self {
        if error.is_transient() {
            let message = "agents' health cannot be recorded at the moment; retry after 1 s";
            Self::new(OrchestratorErrorCode::Unavailable, message).with_retry_after(RETRY_AFTER)
        } else {
            Self::internal("agents' health cannot be recorded")
        }
    }
}
