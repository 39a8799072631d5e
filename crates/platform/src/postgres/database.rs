//! An open database: connections that are reused only while they are known to be good.

use std::{
    fmt, io,
    ops::{Deref, DerefMut},
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sqlx::{
    Connection, PgConnection, PgPool, Postgres, Transaction,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::{
    failure::transient,
    hints::{self, Hints},
};

/// Longest wait for a connection. While the server refuses connections, the pool tries again within this time.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest wait for open statements when the pool is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a session sets at its start. The server ends a transaction whose process is frozen or unreachable, and with it its
/// locks: a replica that takes over waits for no longer than this.
const SESSION: &str = "SET idle_in_transaction_session_timeout = '3s';
    SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3";

/// The same for the transactions of a pooler, which has no sessions.
const BEGIN_IN_POOLER: &str = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '3s'";

/// The pooler between this process and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pooler {
    /// None, or one that gives each client a session of its own.
    #[default]
    Session,
    /// One that gives each transaction any connection, such as PgBouncer with `pool_mode = transaction`. Named prepared
    /// statements, `LISTEN` and session settings are not used.
    Transaction,
}

/// The value of a setting that names a pooler is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` must be transaction or session")]
pub struct InvalidPooler(String);

impl FromStr for Pooler {
    type Err = InvalidPooler;

    fn from_str(text: &str) -> Result<Self, InvalidPooler> {
        match text {
            "session" => Ok(Self::Session),
            "transaction" => Ok(Self::Transaction),
            other => Err(InvalidPooler(other.to_owned())),
        }
    }
}

/// A PostgreSQL database that is open and migrated.
#[derive(Clone)]
pub struct Database {
    pool: PgPool,
    /// The database as messages show it.
    shown: Arc<str>,
    pooler: Pooler,
    doubts: Arc<Doubts>,
}

/// The last failure after which older connections are useless.
#[derive(Debug, Default)]
struct Doubts(Mutex<Option<Instant>>);

/// A connection of the pool for a few statements. A session that is dropped without [`finish`](Self::finish) closes its
/// connection: an answer may be outstanding.
pub struct Session {
    /// Absent only while it is dropped.
    connection: Option<PoolConnection<Postgres>>,
    pooler: Pooler,
    doubts: Arc<Doubts>,
    is_good: bool,
}

impl Database {
    pub(super) fn new(options: PgConnectOptions, shown: String, pooler: Pooler, connections: u32) -> Self {
        let doubts = Arc::new(Doubts::default());
        let trusted = Arc::clone(&doubts);
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // Its end is an error, which is logged once; sqlx would log every wait of an outage.
            .acquire_slow_threshold(ACQUIRE_TIMEOUT)
            // A round trip per statement. A broken connection is found by its first statement, which is tried again.
            .test_before_acquire(false)
            .before_acquire(move |_, meta| {
                let is_trusted = trusted.trust(meta.age);
                Box::pin(async move { Ok(is_trusted) })
            })
            .after_connect(move |connection, _| {
                Box::pin(async move {
                    if pooler == Pooler::Session {
                        sqlx::raw_sql(SESSION).execute(connection).await?;
                    }
                    Ok(())
                })
            })
            .connect_lazy_with(options);
        Self { pool, shown: shown.into(), pooler, doubts }
    }

    /// The same database, with a pool of its own of so many connections.
    #[must_use]
    pub fn with_own_pool(&self, connections: u32) -> Self {
        let options = (*self.pool.connect_options()).clone();
        Self::new(options, self.shown.to_string(), self.pooler, connections)
    }

    /// A connection of the pool.
    ///
    /// # Errors
    /// When none is available within five seconds.
    pub async fn session(&self) -> Result<Session, sqlx::Error> {
        let acquired = self.pool.acquire().await;
        let connection = acquired.map_err(|error| self.explain(error))?;
        let (pooler, doubts) = (self.pooler, Arc::clone(&self.doubts));
        Ok(Session { connection: Some(connection), pooler, doubts, is_good: false })
    }

    /// Replaces the error of a full wait, which names neither the database nor the time.
    fn explain(&self, error: sqlx::Error) -> sqlx::Error {
        if !matches!(error, sqlx::Error::PoolTimedOut) {
            return error;
        }
        let busy = usize::try_from(self.pool.size()).unwrap_or_default().saturating_sub(self.pool.num_idle());
        let text = format!(
            "no connection to {} within {} s; {busy} of {} connections are in use",
            self.shown,
            ACQUIRE_TIMEOUT.as_secs(),
            self.pool.options().get_max_connections(),
        );
        sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, text))
    }

    /// Whether statements may be prepared under a name, for [`sqlx::query::Query::persistent`].
    #[must_use]
    pub fn persistent(&self) -> bool {
        self.pooler == Pooler::Session
    }

    /// Hints that another process called `pg_notify(channel, …)` with another payload than `own`. There are none behind a pooler
    /// in transaction mode.
    #[must_use]
    pub fn hints(&self, channel: &'static str, own: String) -> Hints {
        match self.pooler {
            Pooler::Session => hints::listen(self.pool.connect_options(), channel, own),
            Pooler::Transaction => Hints::none(),
        }
    }

    /// Closes every connection, after its statement. A statement that takes long is not waited for.
    pub async fn close(&self) {
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.pool.close()).await;
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Database").field(&self.shown).finish()
    }
}

impl Session {
    /// Begins a transaction. `COMMIT` succeeds without effect after a statement whose error was ignored, so no error may be.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn begin(&mut self) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
        match self.pooler {
            Pooler::Session => Connection::begin(&mut **self).await,
            Pooler::Transaction => Connection::begin_with(&mut **self, BEGIN_IN_POOLER).await,
        }
    }

    /// Returns the connection to the pool, unless `result` shows that it is broken.
    ///
    /// # Errors
    /// The error of `result`.
    pub fn finish<T>(mut self, result: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        self.is_good = match &result {
            Ok(_) => true,
            Err(error) => transient(error).is_none_or(|kind| !kind.spoils_connections()),
        };
        result
    }
}

impl Deref for Session {
    type Target = PgConnection;

    #[expect(clippy::expect_used, reason = "only `drop` takes the connection")]
    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect("a session has a connection")
    }
}

impl DerefMut for Session {
    #[expect(clippy::expect_used, reason = "only `drop` takes the connection")]
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("a session has a connection")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.is_good {
            return;
        }
        self.doubts.raise();
        if let Some(connection) = &mut self.connection {
            // The pool would wait for an answer that may never come.
            connection.close_on_drop();
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Doubts {
    /// Doubts every connection that exists now.
    fn raise(&self) {
        *self.0.lock() = Some(Instant::now());
    }

    /// Whether a connection of this age was made after the last failure.
    fn trust(&self, age: Duration) -> bool {
        self.0.lock().is_none_or(|failed_at| age < failed_at.elapsed())
    }
}
