//! An open database: connections that are reused only while they are known to be good.

use std::{
    fmt, io,
    ops::{Deref, DerefMut},
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use sqlx::{
    Connection, PgConnection, PgPool, Postgres, Transaction,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::sync::watch;

use super::{
    failure::transient,
    hints::{self, Hints},
};

/// Longest wait for a connection. While the server refuses connections, the pool tries again within this time.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// The same for writers, which try again themselves: an attempt to connect that began before the end of an outage must not
/// outlast it for long.
const WRITER_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a statement may still be answered after another connection has failed.
const LOST_AFTER: Duration = Duration::from_secs(1);

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
#[derive(Debug)]
struct Doubts(watch::Sender<Option<Instant>>);

impl Default for Doubts {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

/// A connection of the pool for a few statements. A session that is dropped without [`finish`](Self::finish) closes its
/// connection: an answer may be outstanding.
pub struct Session {
    /// Absent only while it is dropped.
    connection: Option<PoolConnection<Postgres>>,
    pooler: Pooler,
    doubts: Arc<Doubts>,
    acquired_at: Instant,
    is_good: bool,
    /// Whether its failure says something about other connections.
    is_broken: bool,
}

impl Database {
    pub(super) fn new(options: PgConnectOptions, shown: String, pooler: Pooler, connections: u32) -> Self {
        Self::open(options, shown.into(), pooler, (connections, ACQUIRE_TIMEOUT), Arc::default())
    }

    /// A database with so many connections, of which each is waited for no longer than the given time.
    fn open(
        options: PgConnectOptions,
        shown: Arc<str>,
        pooler: Pooler,
        (connections, longest_wait): (u32, Duration),
        doubts: Arc<Doubts>,
    ) -> Self {
        let trusted = Arc::clone(&doubts);
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(longest_wait)
            // Its end is an error, which is logged once; sqlx would log every wait of an outage.
            .acquire_slow_threshold(longest_wait)
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
        Self { pool, shown, pooler, doubts }
    }

    /// The same database, with a pool of so many connections for writers, which try again when none is available within two
    /// seconds. A failure of one pool's connection makes those of both suspect.
    #[must_use]
    pub fn for_writers(&self, connections: u32) -> Self {
        let options = (*self.pool.connect_options()).clone();
        let (shown, doubts) = (Arc::clone(&self.shown), Arc::clone(&self.doubts));
        Self::open(options, shown, self.pooler, (connections, WRITER_ACQUIRE_TIMEOUT), doubts)
    }

    /// Whether the server still works on a statement of the session with this process id. Asked on a connection of its own,
    /// since an answer on the session's own one may never come.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn works_for(&self, backend: i32) -> Result<bool, sqlx::Error> {
        let mut connection = PgConnection::connect_with(&self.pool.connect_options()).await?;
        let state = sqlx::query_scalar("SELECT state FROM pg_stat_activity WHERE pid = $1").bind(backend);
        let state: Option<Option<String>> = state.fetch_optional(&mut connection).await?;
        connection.close().await?;
        // Without a state, the server does not say.
        Ok(state.is_some_and(|state| !state.is_some_and(|state| state.starts_with("idle"))))
    }

    /// A connection of the pool.
    ///
    /// # Errors
    /// When none is available within five seconds, for writers within two.
    pub async fn session(&self) -> Result<Session, sqlx::Error> {
        let acquired = self.pool.acquire().await;
        let connection = acquired.map_err(|error| self.explain(error))?;
        let (pooler, doubts) = (self.pooler, Arc::clone(&self.doubts));
        Ok(Session {
            connection: Some(connection),
            pooler,
            doubts,
            acquired_at: Instant::now(),
            is_good: false,
            is_broken: false,
        })
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
            self.pool.options().get_acquire_timeout().as_secs(),
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

    /// Whether no connection has failed since this one was taken from the pool. After a restart of the server one failure tells
    /// that every older connection is useless.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.doubts.trust(self.acquired_at.elapsed())
    }

    /// Waits until another connection has failed since this one was taken from the pool, and then for as long as an answer may
    /// still take.
    pub fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        let (mut failures, acquired_at) = (self.doubts.0.subscribe(), self.acquired_at);
        async move {
            let is_later = |failed_at: &Option<Instant>| failed_at.is_some_and(|at| at > acquired_at);
            let is_closed = failures.wait_for(is_later).await.is_err();
            if is_closed {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(LOST_AFTER).await;
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
        self.is_broken = !self.is_good;
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
        if self.is_broken {
            self.doubts.raise();
        }
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
        self.0.send_replace(Some(Instant::now()));
    }

    /// Whether a connection of this age was made after the last failure.
    fn trust(&self, age: Duration) -> bool {
        self.0.borrow().is_none_or(|failed_at| age < failed_at.elapsed())
    }
}
