//! PostgreSQL: opening of databases, connections, migrations, failures that a retry may end, notifications.
//!
//! Each role with a database has a schema of its own, so that several roles may share one database. Every statement names the
//! schema of its tables: a pooler in transaction mode forgets `search_path`.
//!
//! | concern | module |
//! |---|---|
//! | URLs, without the password in any message | `url` |
//! | the first connection, the version of the server, migrations | `open`, `migrate` |
//! | connections of the pool | `database` |
//! | failures that a retry may end | `failure` |
//! | `LISTEN` | `hints` |
//! | a look at a server | `inspect` |
//!
//! **Poolers in transaction mode** ([`Pooler::Transaction`]) give a transaction a connection, not a session. sqlx prepares each
//! statement with parameters in one round trip and executes it in another, so outside a transaction the two may reach
//! different servers. Therefore every statement with parameters runs inside [`Session::begin`], and is
//! [persistent](sqlx::query::Query::persistent) only if [`Database::persistent`] allows it.

mod database;
mod failure;
mod hints;
mod inspect;
mod migrate;
mod open;
mod url;

pub use self::{
    database::{Database, InvalidPooler, Pooler, Session},
    failure::{Transient, transient},
    hints::Hints,
    inspect::{Inspection, ReadOnly, SchemaRight, inspect},
    open::{OpenError, OpenOptions, PATIENCE, open},
    url::{InvalidUrl, check_url, is_postgres_url},
};
