//! Access to the tables: snapshots for readers, single statements for rare writes.
//!
//! A write is one statement wherever that is possible. Without a pooler it is a transaction of its own then: a planner that is
//! frozen in the middle holds no lock.

use std::time::Duration;

use phoenix_platform::postgres::{Database, Session, Transient, transient};
use sqlx::{
    FromRow, PgConnection, Postgres,
    postgres::{PgArguments, PgRow},
    query::{Query, QueryAs, QueryScalar},
};

use crate::store::error::JournalError;

/// Begins the transaction of a reader: one snapshot, without a lock that outlives its process.
const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
    SET LOCAL idle_in_transaction_session_timeout = '10s'";

/// Connections that a reader tries.
const ATTEMPTS: u32 = 3;

/// Longest wait for the answer to a read or a rare write.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The tables of a database. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Tables {
    pub(super) database: Database,
}

/// Makes statements.
#[derive(Debug, Clone, Copy)]
pub(super) struct Statements {
    /// Whether they stay prepared.
    persistent: bool,
}

impl Statements {
    pub(super) fn query<'q>(self, sql: &'static str) -> Query<'q, Postgres, PgArguments> {
        sqlx::query(sql).persistent(self.persistent)
    }

    pub(super) fn rows<'q, T>(self, sql: &'static str) -> QueryAs<'q, Postgres, T, PgArguments>
    where
        T: for<'r> FromRow<'r, PgRow>,
    {
        sqlx::query_as(sql).persistent(self.persistent)
    }

    pub(super) fn values<'q, T>(self, sql: &'static str) -> QueryScalar<'q, Postgres, T, PgArguments>
    where
        (T,): for<'r> FromRow<'r, PgRow>,
    {
        sqlx::query_scalar(sql).persistent(self.persistent)
    }
}

impl Tables {
    pub(super) fn statements(&self) -> Statements {
        Statements { persistent: self.database.persistent() }
    }

    /// Reads from one snapshot.
    pub(super) async fn read<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        let mut session = self.snapshot().await?;
        let read = answered(session.lost(), async {
            let found = work(&mut session).await?;
            sqlx::raw_sql("COMMIT").execute(&mut *session).await?;
            Ok(found)
        });
        let result = read.await;
        finish(session, result)
    }

    /// A connection in a transaction of a reader. Connections that turn out to be broken are replaced.
    async fn snapshot(&self) -> Result<Session, JournalError> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let mut session = self.database.session().await?;
            match answered(session.lost(), sqlx::raw_sql(SNAPSHOT).execute(&mut *session)).await {
                Ok(_) => return Ok(session),
                Err(error) if attempts < ATTEMPTS && transient(&error) == Some(Transient::Unreachable) => {
                    let _ = session.finish::<()>(Err(error));
                }
                Err(error) => {
                    session.finish::<()>(Err(error))?;
                }
            }
        }
    }

    /// Writes with one statement. After an error it may have been executed.
    pub(super) async fn write<T>(
        &self,
        statement: impl AsyncFnOnce(&mut PgConnection) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        let mut session = self.database.session().await?;
        let is_single = self.database.persistent();
        let written = answered(session.lost(), async {
            if is_single {
                return statement(&mut session).await;
            }
            let mut transaction = session.begin().await?;
            let done = statement(&mut transaction).await?;
            transaction.commit().await?;
            Ok(done)
        });
        let result = written.await;
        finish(session, result)
    }
}

/// The result of `work`, unless its connection is `lost` or its answer takes too long.
async fn answered<T, E: From<sqlx::Error>>(
    lost: impl Future<Output = ()>,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    tokio::select! {
        biased;
        result = work => result,
        () = lost => Err(lost_connection().into()),
        () = tokio::time::sleep(TIMEOUT) => Err(no_answer(TIMEOUT).into()),
    }
}

/// The error of an answer that did not arrive in time.
pub(super) fn no_answer(limit: Duration) -> sqlx::Error {
    let text = format!("no answer within {} s", limit.as_secs());
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
}

/// The error of a connection on which no answer can be expected any more.
pub(super) fn lost_connection() -> sqlx::Error {
    let text = "the connection to the server is lost";
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::ConnectionReset, text))
}

/// Returns the connection of a session to the pool, unless the result shows that it is broken.
fn finish<T>(session: Session, result: Result<T, JournalError>) -> Result<T, JournalError> {
    match result {
        Err(JournalError::Database(error)) => Ok(session.finish(Err(error))?),
        other => {
            session.finish(Ok(()))?;
            other
        }
    }
}
