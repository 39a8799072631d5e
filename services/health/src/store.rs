//! The `agent_health` table, which only this module reads and writes: in a file of SQLite, or in PostgreSQL, where any number of
//! health services share it.
//!
//! The interface is [`Store::read`], and [`Store::update`], which passes the current rows to a closure and writes the changed ones
//! back, in one transaction that holds the rows from its first read. The closure gets the time, too: that of the database, so that
//! processes whose clocks differ agree on every deadline. It returns the changes of circuits, which the same transaction appends to
//! the table `circuit_transitions`; [`Store::transitions`] reads them.

mod error;
mod postgres;
mod row;
mod sqlite;
mod transition;

use std::collections::BTreeSet;

use jiff::Timestamp;
use phoenix_domain::{AgentName, health::Transition};
use phoenix_platform::{
    database_url::DatabaseUrl,
    postgres::{OpenError as PostgresOpenError, Pooler},
    sqlite::OpenError as SqliteOpenError,
};

pub use self::{
    error::StoreError,
    postgres::{ALL_CONNECTIONS as POSTGRES_CONNECTIONS, SCHEMA as POSTGRES_SCHEMA},
};
use self::{
    postgres::{Changes, PostgresStore},
    sqlite::SqliteStore,
};
pub(crate) use self::{
    row::{States, stored_precision},
    transition::Transitions,
};

/// The table.
#[derive(Debug)]
pub(crate) enum Store {
    /// In a file, for one health service.
    Sqlite(SqliteStore),
    /// In PostgreSQL, for any number of health services.
    Postgres(PostgresStore),
}

/// The database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file of SQLite.
    #[error(transparent)]
    Sqlite(#[from] SqliteOpenError),
    /// PostgreSQL.
    #[error(transparent)]
    Postgres(#[from] PostgresOpenError),
}

impl Store {
    /// Opens or creates the database at `url` and migrates its table.
    pub(crate) async fn open(url: &DatabaseUrl, pooler: Pooler) -> Result<Self, OpenError> {
        if url.is_postgres() {
            return Ok(Self::Postgres(PostgresStore::open(url.expose(), pooler).await?));
        }
        Ok(Self::Sqlite(SqliteStore::open(url.expose()).await?))
    }

    /// The health of each agent in `names`. An agent without a row is healthy.
    pub(crate) async fn read(&self, names: &BTreeSet<AgentName>) -> Result<States, StoreError> {
        match self {
            Self::Sqlite(store) => store.read(names).await,
            Self::Postgres(store) => store.read(names).await,
        }
    }

    /// Lets `change` alter the health of `names` atomically, and returns the result. `change` is called again for each attempt, and
    /// returns the changes of circuits. A failed update changes nothing, unless the answer to its commit was lost.
    pub(crate) async fn update(
        &self,
        names: &BTreeSet<AgentName>,
        change: impl FnMut(&mut States, Timestamp) -> Transitions + Send,
    ) -> Result<States, StoreError> {
        match self {
            Self::Sqlite(store) => store.update(names, change).await,
            Self::Postgres(store) => store.update(names, change).await,
        }
    }

    /// The newest changes of an agent's circuit, the newest first.
    pub(crate) async fn transitions(
        &self,
        agent: &AgentName,
        limit: u32,
    ) -> Result<Vec<Transition>, StoreError> {
        match self {
            Self::Sqlite(store) => store.transitions(agent, limit).await,
            Self::Postgres(store) => store.transitions(agent, limit).await,
        }
    }

    /// The time by the clock that decides on deadlines.
    pub(crate) fn now(&self) -> Timestamp {
        match self {
            Self::Sqlite(_) => stored_precision(Timestamp::now()),
            Self::Postgres(store) => store.now(),
        }
    }

    /// Changes by other processes.
    pub(crate) fn changes(&self) -> Changes {
        match self {
            Self::Sqlite(_) => Changes::none(),
            Self::Postgres(store) => store.changes(),
        }
    }

    /// Checks that the table can be written, by writing to it.
    pub(crate) async fn check_writable(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(store) => store.check_writable().await,
            Self::Postgres(store) => store.check_writable().await,
        }
    }

    /// Closes the database.
    pub(crate) async fn close(self) {
        match self {
            Self::Sqlite(store) => store.close().await,
            Self::Postgres(store) => store.close().await,
        }
    }
}
