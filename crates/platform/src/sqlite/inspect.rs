//! A look at a database that may be in use, without a change.

use std::path::Path;

use sqlx::{ConnectOptions, Connection, Row};

use super::backup::read_only;

/// Largest database whose pages are all checked, in bytes.
const MAX_CHECKED_BYTES: u64 = 512 * 1024 * 1024;

/// What a look at a database found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Its size in bytes, without the write-ahead log.
    pub bytes: u64,
    /// Number of its last migration; absent in a database of another program, or in one that was never started.
    pub schema: Option<i64>,
    /// First problem that SQLite reports; absent when there is none, or when the database is too large to be checked.
    pub problem: Option<String>,
    /// Whether all pages were checked.
    pub is_checked: bool,
}

/// Reads the state of the database in `file`.
///
/// # Errors
/// When it cannot be read.
pub async fn inspect(file: &Path) -> Result<Inspection, sqlx::Error> {
    let bytes = file.metadata()?.len();
    let mut database = read_only(file).connect().await?;
    let is_ours: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'")
            .fetch_one(&mut database)
            .await?;
    let schema = match is_ours {
        0 => None,
        _ => sqlx::query("SELECT max(version) FROM _sqlx_migrations")
            .fetch_one(&mut database)
            .await?
            .try_get(0)?,
    };
    let is_checked = bytes <= MAX_CHECKED_BYTES;
    let problem = if is_checked {
        let found: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut database).await?;
        (found != "ok").then_some(found)
    } else {
        None
    };
    let _ = database.close().await;
    Ok(Inspection { bytes, schema, problem, is_checked })
}
