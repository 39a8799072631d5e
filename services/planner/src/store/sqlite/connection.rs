//! The one connection of this process that writes. SQLite has one writer at a time, and retries by polling where a queue
//! would do.

use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::sync::Mutex;

use crate::store::error::JournalError;

/// The writing connection, opened on demand.
#[derive(Debug)]
pub(super) struct WriterConnection {
    options: SqliteConnectOptions,
    connection: Mutex<Option<SqliteConnection>>,
}

impl WriterConnection {
    pub(super) fn new(options: SqliteConnectOptions) -> Self {
        Self { options, connection: Mutex::default() }
    }

    /// Runs `work` on the connection. A connection that failed is not used again: after a full disk SQLite has ended the
    /// transaction itself (<https://sqlite.org/lang_transaction.html#response_to_errors_within_a_transaction>), which sqlx
    /// does not see.
    pub(super) async fn exclusively<T>(
        &self,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        let mut slot = self.connection.lock().await;
        // Taken out, so that it is closed when this future is dropped in the middle.
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => self.options.connect().await?,
        };
        let result = work(&mut connection).await;
        if matches!(result, Ok(_) | Err(JournalError::Fenced)) {
            *slot = Some(connection);
        }
        result
    }

    /// Closes the connection.
    pub(super) async fn close(&self) {
        if let Some(connection) = self.connection.lock().await.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(%error, "the journal could not be closed; its next start tidies up");
        }
    }
}
