//! The table in PostgreSQL. An update locks the rows of its agents, so that the updates of all health services follow one
//! another. A failure that may pass is tried again for a few seconds; whether a commit without an answer has succeeded is asked,
//! so that no change is applied twice.

mod statements;

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use phoenix_domain::{AgentName, health::Transition};
use phoenix_platform::postgres::{self, Database, Hints, OpenError, OpenOptions, PATIENCE, Pooler, Session};
use sqlx::migrate::Migrator;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use uuid::Uuid;

use self::statements::{Locked, XactStatus};
use super::{error::StoreError, row::States, transition::Transitions};

/// Migrations of the table.
static MIGRATOR: Migrator = sqlx::migrate!("migrations/postgres");

/// Connections of one service: one for updates, and one while the fate of a commit is asked.
const CONNECTIONS: u32 = 2;

/// Most connections of one service, with one for hints.
pub const ALL_CONNECTIONS: u32 = CONNECTIONS + 1;

pub use self::statements::SCHEMA;

/// Longest wait for the answer to one statement or one transaction without its commit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Time after which no further attempt is made.
const RETRY_TIME: Duration = Duration::from_secs(4);

/// First and longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// Interval at which the table is read again, in case that a notification was lost.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The table in PostgreSQL.
#[derive(Debug)]
pub(crate) struct PostgresStore {
    database: Database,
    /// Names this process in notifications.
    id: String,
    /// Microseconds by which the clock of the server is ahead of this one.
    clock_offset: AtomicI64,
    /// Agents whose rows exist.
    existing: Mutex<BTreeSet<AgentName>>,
}

/// Changes by other processes.
#[derive(Debug)]
pub(crate) struct Changes(Option<(Hints, Interval)>);

/// Result of one attempt to update.
enum Attempt {
    Done(States),
    /// A row was missing, and exists now.
    Missing,
    /// The commit got no answer.
    Unanswered {
        xid: String,
        states: States,
        cause: sqlx::Error,
    },
}

/// Time and pauses of the attempts of one operation.
struct Retries {
    started_at: Instant,
    pause: Duration,
}

impl Changes {
    /// No changes.
    pub(super) const fn none() -> Self {
        Self(None)
    }

    /// Waits until another process may have changed the table.
    pub(crate) async fn next(&mut self) {
        match &mut self.0 {
            Some((hints, poll)) => tokio::select! {
                () = hints.next() => {}
                _ = poll.tick() => {}
            },
            None => std::future::pending().await,
        }
    }
}

impl PostgresStore {
    pub(super) async fn open(url: &str, pooler: Pooler) -> Result<Self, OpenError> {
        let options = OpenOptions {
            role: "health",
            schema: SCHEMA,
            pooler,
            connections: CONNECTIONS,
            patience: PATIENCE,
        };
        let database = postgres::open(url, options, &MIGRATOR).await?;
        let (clock_offset, existing) = (AtomicI64::new(0), Mutex::default());
        Ok(Self { database, id: Uuid::new_v4().to_string(), clock_offset, existing })
    }

    pub(super) fn changes(&self) -> Changes {
        let mut poll = tokio::time::interval(POLL_INTERVAL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Changes(Some((self.database.hints(statements::CHANNEL, self.id.clone()), poll)))
    }

    /// The time by the clock of the server.
    pub(super) fn now(&self) -> Timestamp {
        let offset = SignedDuration::from_micros(self.clock_offset.load(Ordering::Relaxed));
        Timestamp::now().checked_add(offset).unwrap_or(Timestamp::MAX)
    }

    pub(super) async fn read(&self, names: &BTreeSet<AgentName>) -> Result<States, StoreError> {
        let mut retries = Retries::begin();
        loop {
            match self.try_read(names).await {
                Err(error) if retries.again(&error).await => {}
                done => return done,
            }
        }
    }

    async fn try_read(&self, names: &BTreeSet<AgentName>) -> Result<States, StoreError> {
        let mut session = self.database.session().await?;
        let read = answered(statements::read(&mut session, names, self.database.persistent())).await;
        let read = session.finish(read)?;
        self.set_clock(read.now);
        read.decode(names)
    }

    pub(super) async fn update(
        &self,
        names: &BTreeSet<AgentName>,
        mut change: impl FnMut(&mut States, Timestamp) -> Transitions + Send,
    ) -> Result<States, StoreError> {
        let mut retries = Retries::begin();
        loop {
            let attempt = match self.ensure_rows(names).await {
                Ok(()) => self.try_update(names, &mut change).await,
                Err(error) => Err(error.into()),
            };
            let failed = match attempt {
                Ok(Attempt::Done(states)) => return Ok(states),
                Ok(Attempt::Missing) => continue,
                Ok(Attempt::Unanswered { xid, states, cause }) => {
                    match self.is_committed(&xid, &mut retries).await {
                        Ok(true) => return Ok(states),
                        Ok(false) => cause.into(),
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => error,
            };
            if !retries.again(&failed).await {
                return Err(failed);
            }
        }
    }

    /// Creates rows that do not exist, so that they can be locked.
    async fn ensure_rows(&self, names: &BTreeSet<AgentName>) -> Result<(), sqlx::Error> {
        let missing: Vec<_> = {
            let existing = self.existing.lock();
            names.difference(&existing).cloned().collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        let mut session = self.database.session().await?;
        let created = answered(statements::create(&mut session, &missing, self.database.persistent())).await;
        session.finish(created)?;
        self.existing.lock().extend(missing);
        Ok(())
    }

    async fn try_update(
        &self,
        names: &BTreeSet<AgentName>,
        change: &mut (impl FnMut(&mut States, Timestamp) -> Transitions + Send),
    ) -> Result<Attempt, StoreError> {
        let mut session = self.database.session().await?;
        match self.attempt(&mut session, names, change).await {
            Ok(Attempt::Unanswered { xid, states, cause }) => {
                // The connection is closed with the session.
                drop(session);
                Ok(Attempt::Unanswered { xid, states, cause })
            }
            Ok(done) => session.finish(Ok(done)).map_err(StoreError::from),
            Err(StoreError::Database(error)) => session.finish(Err(error)).map_err(StoreError::from),
            Err(corrupt) => Err(corrupt),
        }
    }

    async fn attempt(
        &self,
        session: &mut Session,
        names: &BTreeSet<AgentName>,
        change: &mut (impl FnMut(&mut States, Timestamp) -> Transitions + Send),
    ) -> Result<Attempt, StoreError> {
        let persistent = self.database.persistent();
        let mut transaction = answered(session.begin()).await?;
        let locked = answered(statements::lock(&mut transaction, names, persistent)).await?;
        let Some(Locked { rows, xid }) = locked else {
            self.existing.lock().retain(|agent| !names.contains(agent));
            answered(transaction.rollback()).await?;
            return Ok(Attempt::Missing);
        };
        self.set_clock(rows.now);
        let now = rows.now;
        let before = rows.decode(names)?;
        let mut after = before.clone();
        let transitions = change(&mut after, now);
        let changed: Vec<_> =
            after.iter().filter(|(agent, health)| before.get(*agent) != Some(health)).collect();
        if changed.is_empty() {
            answered(transaction.rollback()).await?;
            return Ok(Attempt::Done(after));
        }
        answered(statements::write(&mut transaction, &changed, &self.id, persistent)).await?;
        answered(statements::append(&mut transaction, &transitions, persistent)).await?;
        match answered(transaction.commit()).await {
            Ok(()) => Ok(Attempt::Done(after)),
            Err(cause) => Ok(Attempt::Unanswered { xid, states: after, cause }),
        }
    }

    /// Whether the transaction `xid` was committed.
    async fn is_committed(&self, xid: &str, retries: &mut Retries) -> Result<bool, StoreError> {
        loop {
            let asked = async {
                let mut session = self.database.session().await?;
                let status = answered(statements::status(&mut session, xid)).await;
                session.finish(status)
            };
            match asked.await {
                Ok(XactStatus::Committed) => return Ok(true),
                Ok(XactStatus::Aborted) => return Ok(false),
                // The server ends it soon: its client is gone.
                Ok(XactStatus::InProgress) if retries.has_time() => retries.pause().await,
                Ok(XactStatus::InProgress) => return Err(no_answer().into()),
                Err(error) => {
                    let error = error.into();
                    if !retries.again(&error).await {
                        return Err(error);
                    }
                }
            }
        }
    }

    pub(super) async fn transitions(
        &self,
        agent: &AgentName,
        limit: u32,
    ) -> Result<Vec<Transition>, StoreError> {
        let mut session = self.database.session().await?;
        let persistent = self.database.persistent();
        let read = answered(statements::transitions(&mut session, agent, limit, persistent)).await;
        session.finish(read)?.into_iter().map(|row| row.decode(agent)).collect()
    }

    pub(super) async fn check_writable(&self) -> Result<(), StoreError> {
        let mut session = self.database.session().await?;
        let written = answered(statements::touch(&mut session)).await;
        Ok(session.finish(written)?)
    }

    pub(super) async fn close(self) {
        self.database.close().await;
    }

    fn set_clock(&self, now: Timestamp) {
        let offset = now.duration_since(Timestamp::now()).as_micros();
        self.clock_offset.store(i64::try_from(offset).unwrap_or_default(), Ordering::Relaxed);
    }
}

impl Retries {
    fn begin() -> Self {
        Self { started_at: Instant::now(), pause: PAUSES.0 }
    }

    fn has_time(&self) -> bool {
        self.started_at.elapsed() < RETRY_TIME
    }

    /// Whether there is another attempt after `error`. Waits for its time.
    async fn again(&mut self, error: &StoreError) -> bool {
        let is_worthwhile = error.is_transient() && self.has_time();
        if is_worthwhile {
            tracing::debug!(%error, "trying again");
            self.pause().await;
        }
        is_worthwhile
    }

    async fn pause(&mut self) {
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSES.1);
    }
}

/// Waits no longer than [`ANSWER_TIMEOUT`].
async fn answered<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    tokio::time::timeout(ANSWER_TIMEOUT, work).await.unwrap_or_else(|_| Err(no_answer()))
}

fn no_answer() -> sqlx::Error {
    let text = format!("the database does not answer within {} s", ANSWER_TIMEOUT.as_secs());
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
}
