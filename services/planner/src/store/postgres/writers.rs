//! Connections of the writers, and what an error says about the fate of a batch.

use std::time::{Duration, Instant};

use phoenix_platform::postgres::{Database, Session};
use sqlx::{
    PgConnection,
    postgres::{PgDatabaseError, PgQueryResult, PgSeverity},
};
use tokio::sync::Mutex;

use crate::store::{
    error::JournalError,
    postgres::tables::{lost_connection, no_answer},
};

/// Longest wait for the answer to a commit. Afterwards it is in doubt, and is sent again on another connection.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Silence after which the server is asked whether it still works on a statement, and the pause before it is asked again. A
/// connection whose server or network is gone without a word is silent, and so is a disk that is slow.
const ASK_AFTER: Duration = Duration::from_millis(1500);

/// Longest wait for that answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// One connection for each writer, opened on demand and kept: a connection of the pool costs a round trip more.
#[derive(Debug)]
pub(super) struct Writers {
    database: Database,
    sessions: Vec<Mutex<Option<Connected>>>,
}

/// The connection of a writer.
#[derive(Debug)]
struct Connected {
    session: Session,
    /// Process of the server that serves it; none behind a pooler that gives each transaction another one.
    backend: Option<i32>,
}

/// Error of an attempt to write.
#[derive(Debug)]
pub(super) struct WriteError {
    pub(super) error: sqlx::Error,
    /// Whether everything may have been written.
    pub(super) is_in_doubt: bool,
}

impl WriteError {
    /// An error before anything was sent, or after it was rolled back.
    pub(super) const fn certain(error: sqlx::Error) -> Self {
        Self { error, is_in_doubt: false }
    }

    /// The error of a statement that commits.
    pub(super) fn of_commit(error: sqlx::Error) -> Self {
        let is_in_doubt = match &error {
            // The server has rolled the transaction back, unless the session ends with the error.
            sqlx::Error::Database(error) => match error.try_downcast_ref::<PgDatabaseError>() {
                Some(error) => {
                    matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic)
                        || error.code().starts_with("08")
                        || error.code() == "40003"
                }
                None => true,
            },
            // Not sent.
            sqlx::Error::Encode(_) => false,
            _ => true,
        };
        Self { error, is_in_doubt }
    }
}

impl From<WriteError> for JournalError {
    fn from(WriteError { error, is_in_doubt }: WriteError) -> Self {
        if is_in_doubt { Self::InDoubt(error) } else { error.into() }
    }
}

impl Connected {
    /// Whether no connection has failed since this one was made. One that is not trusted is closed with the session.
    fn is_trusted(&self) -> bool {
        self.session.is_trusted()
    }
}

impl Writers {
    pub(super) fn new(database: Database, count: u32) -> Self {
        Self { database, sessions: (0..count).map(|_| Mutex::default()).collect() }
    }

    /// Runs `work` on the connection of a writer.
    pub(super) async fn run<T>(
        &self,
        writer: u32,
        work: impl AsyncFnOnce(&mut Session) -> Result<T, WriteError>,
    ) -> Result<T, WriteError> {
        let index = writer as usize % self.sessions.len();
        let mut slot = self.sessions[index].lock().await;
        // Taken out, so that it is closed when this future is dropped in the middle.
        let Connected { mut session, backend } = match slot.take().filter(Connected::is_trusted) {
            Some(connected) => connected,
            None => self.connect().await.map_err(WriteError::certain)?,
        };
        let result = tokio::select! {
            biased;
            result = work(&mut session) => result,
            error = self.silence(backend) => Err(WriteError { error, is_in_doubt: true }),
        };
        match result {
            Ok(done) => {
                *slot = Some(Connected { session, backend });
                Ok(done)
            }
            Err(WriteError { error, is_in_doubt }) => match session.finish(Err(error)) {
                Ok(done) => Ok(done),
                Err(error) => Err(WriteError { error, is_in_doubt }),
            },
        }
    }

    async fn connect(&self) -> Result<Connected, sqlx::Error> {
        let mut session = self.database.session().await?;
        if !self.database.persistent() {
            return Ok(Connected { session, backend: None });
        }
        let asked = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *session);
        let asked = tokio::time::timeout(ASK_TIMEOUT, asked).await;
        match asked.unwrap_or_else(|_| Err(no_answer(ASK_TIMEOUT))) {
            Ok(backend) => Ok(Connected { session, backend: Some(backend) }),
            Err(error) => session.finish(Err(error)),
        }
    }

    /// Waits until the answer to a statement can no longer be expected: the server does not work on it, or does so for too
    /// long. Returns the error.
    async fn silence(&self, backend: Option<i32>) -> sqlx::Error {
        let begun = Instant::now();
        while begun.elapsed() + ASK_AFTER < COMMIT_TIMEOUT {
            tokio::time::sleep(ASK_AFTER).await;
            let Some(backend) = backend else { continue };
            let asked = tokio::time::timeout(ASK_TIMEOUT, self.database.works_for(backend)).await;
            if matches!(asked, Ok(Ok(false))) {
                return lost_connection();
            }
        }
        tokio::time::sleep(COMMIT_TIMEOUT.saturating_sub(begun.elapsed())).await;
        no_answer(COMMIT_TIMEOUT)
    }

    /// Executes a statement that may be executed twice, on the connection of the first writer.
    pub(super) async fn execute(
        &self,
        statement: impl AsyncFnOnce(&mut PgConnection) -> Result<PgQueryResult, sqlx::Error>,
    ) -> Result<PgQueryResult, JournalError> {
        let is_single = self.database.persistent();
        let work = async |session: &mut Session| {
            if is_single {
                return statement(session).await.map_err(WriteError::certain);
            }
            let mut transaction = session.begin().await.map_err(WriteError::certain)?;
            let done = statement(&mut transaction).await.map_err(WriteError::certain)?;
            transaction.commit().await.map_err(WriteError::certain)?;
            Ok(done)
        };
        self.run(0, work).await.map_err(|WriteError { error, .. }| error.into())
    }

    /// Returns the connections to the pool, which closes them.
    pub(super) async fn close(&self) {
        for slot in &self.sessions {
            if let Some(Connected { session, backend: _ }) = slot.lock().await.take() {
                // There is no error to return.
                let _ = session.finish(Ok(()));
            }
        }
        self.database.close().await;
    }
}
