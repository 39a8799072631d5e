//! Copies of databases, including databases in use.
//!
//! A copy uses `VACUUM INTO`: SQLite reads one snapshot while other connections write, and creates one file without free
//! pages. SQLite's backup interface restarts at every commit of another process, and so would not finish under load. The
//! cost of a snapshot is that the source's write-ahead log grows until the copy is complete.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteLockingMode},
};

/// Interval of progress reports.
const REPORT_EVERY: Duration = Duration::from_millis(200);

/// Verification of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Checks every page and every row, which finds damage by disk or memory.
    Quick,
    /// Also checks every index against its table; takes several times as long.
    Full,
}

/// Progress of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Bytes written, of an estimated total.
    Written {
        /// Bytes.
        bytes: u64,
        /// Bytes.
        of: u64,
    },
    /// The copy is written and being verified.
    Checking,
}

/// Error of a copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source cannot be read.
    #[error("the database {path} cannot be read: {cause}")]
    Source {
        /// Path of the source.
        path: String,
        /// Error of SQLite or the system.
        cause: sqlx::Error,
    },
    /// The source is a database of another program.
    #[error("the database {path} was not made by phoenix")]
    Foreign {
        /// Path of the source.
        path: String,
    },
    /// The copy cannot be written, or the source is damaged.
    #[error("the database {path} cannot be copied to {target}: {cause}")]
    Copy {
        /// Path of the source.
        path: String,
        /// Path of the copy.
        target: String,
        /// Error of SQLite or the system.
        cause: sqlx::Error,
    },
    /// The source is damaged, and so is the copy.
    #[error("the database {path} is damaged, and so is a copy of it: {what}")]
    Damaged {
        /// Path of the source.
        path: String,
        /// First problem that SQLite reports.
        what: String,
    },
}

/// Copies the database `source`, which may be in use, into the new file `target`. The copy has every commit from before the
/// call and no partial commit; it is durable and verified. The source is not modified. Returns the size of the copy in bytes.
///
/// # Errors
/// When the source cannot be read or is damaged, or the copy cannot be written. A file left at `target` is then invalid.
pub async fn copy(
    source: &Path,
    target: &Path,
    check: Check,
    progress: &(impl Fn(Progress) + Sync),
) -> Result<u64, CopyError> {
    let path = source.display().to_string();
    // SQLite reads a relative name such as `file:x` as a URL.
    let target = &std::path::absolute(target).map_err(|error| CopyError::Copy {
        path: path.clone(),
        target: target.display().to_string(),
        cause: error.into(),
    })?;
    let unreadable = |cause| CopyError::Source { path: path.clone(), cause };
    let uncopied =
        |cause| CopyError::Copy { path: path.clone(), target: target.display().to_string(), cause };
    let mut database = read_only(source).connect().await.map_err(unreadable)?;
    // Every database of this program has a migration history.
    let tables: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE name = '_sqlx_migrations'")
            .fetch_one(&mut database)
            .await
            .map_err(unreadable)?;
    if tables == 0 {
        return Err(CopyError::Foreign { path });
    }
    let of: i64 = sqlx::query_scalar(
        "SELECT (page_count - freelist_count) * page_size
         FROM pragma_page_count, pragma_freelist_count, pragma_page_size",
    )
    .fetch_one(&mut database)
    .await
    .map_err(unreadable)?;
    let of = u64::try_from(of).unwrap_or(0);
    let into =
        target.to_str().ok_or_else(|| uncopied(std::io::Error::other("its name is not UTF-8").into()))?;
    let written = sqlx::query("VACUUM INTO ?").bind(into).execute(&mut database);
    let written = tokio::select! {
        written = written => written,
        never = report(target, of, progress) => match never {},
    };
    written.map_err(uncopied)?;
    let _ = database.close().await;
    let durable = async {
        let file = tokio::fs::OpenOptions::new().write(true).open(target).await?;
        file.sync_all().await?;
        Ok(file.metadata().await?.len())
    };
    let bytes = durable.await.map_err(|error: std::io::Error| uncopied(error.into()))?;
    progress(Progress::Checking);
    match first_problem(target, check).await {
        Ok(None) => Ok(bytes),
        Ok(Some(what)) => Err(CopyError::Damaged { path, what }),
        Err(cause) => Err(uncopied(cause)),
    }
}

/// Whether no process, including this one, has the database `file` open. A file that cannot be opened as a database is free.
pub async fn is_free(file: &Path) -> bool {
    const BUSY: &str = "5";
    // Every open connection to a database with a write-ahead log holds a shared lock, even when idle.
    let options = SqliteConnectOptions::new()
        .filename(literal(file))
        .create_if_missing(false)
        .locking_mode(SqliteLockingMode::Exclusive)
        .busy_timeout(Duration::ZERO)
        .disable_statement_logging();
    let tried = async {
        let mut database = options.connect().await?;
        let locked = sqlx::query("BEGIN EXCLUSIVE").execute(&mut database).await;
        // Also checkpoints a remaining write-ahead log.
        let _ = database.close().await;
        locked
    };
    match tried.await {
        Err(sqlx::Error::Database(error)) => error.code().as_deref() != Some(BUSY),
        Ok(_) | Err(_) => true,
    }
}

/// Reports the size of `target` periodically. Never returns.
async fn report(target: &Path, of: u64, progress: &(impl Fn(Progress) + Sync)) -> Infallible {
    let mut every = tokio::time::interval(REPORT_EVERY);
    loop {
        every.tick().await;
        let bytes = tokio::fs::metadata(target).await.map_or(0, |file| file.len());
        progress(Progress::Written { bytes, of });
    }
}

async fn first_problem(file: &Path, check: Check) -> Result<Option<String>, sqlx::Error> {
    let mut database: SqliteConnection = read_only(file).connect().await?;
    let statement = match check {
        Check::Quick => "PRAGMA quick_check(1)",
        Check::Full => "PRAGMA integrity_check(1)",
    };
    let answer: String = sqlx::query_scalar(statement).fetch_one(&mut database).await?;
    database.close().await?;
    Ok((answer != "ok").then_some(answer))
}

/// `file` as an absolute path, which has no special meaning for SQLite. Without a current folder the path stays relative.
fn literal(file: &Path) -> PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned())
}

pub(super) fn read_only(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(literal(file))
        .read_only(true)
        .busy_timeout(Duration::from_secs(5))
        .disable_statement_logging()
}

#[cfg(test)]
mod tests {
    use std::{
        borrow::Cow,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };

    use sqlx::{
        SqlSafeStr, SqlitePool,
        migrate::{Migration, MigrationType, Migrator},
    };

    use super::*;
    use crate::sqlite::{self, Durability};

    async fn database(file: &Path) -> SqlitePool {
        let table = "CREATE TABLE numbers (pair INTEGER, n INTEGER)";
        let migration =
            Migration::new(1, Cow::Borrowed("numbers"), MigrationType::Simple, table.into_sql_str(), false);
        let migrator = Migrator::with_migrations(vec![migration]);
        sqlite::open(&format!("sqlite://{}", file.display()), Durability::Full, 2, &migrator).await.unwrap()
    }

    #[tokio::test]
    async fn copy_under_load_has_every_earlier_commit_completely() {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("source.db"), folder.path().join("copy.db"));
        let pool = database(&source).await;
        let insert = "INSERT INTO numbers (pair, n) VALUES (?1, 1), (?1, 2)";
        for pair in 0..1000 {
            sqlx::query(insert).bind(pair).execute(&pool).await.unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let writing = {
            let (stop, pool) = (stop.clone(), pool.clone());
            tokio::spawn(async move {
                for pair in 1000.. {
                    sqlx::query(insert).bind(pair).execute(&pool).await.unwrap();
                    if stop.load(Ordering::Relaxed) {
                        return pair;
                    }
                }
                unreachable!("the loop ends on `stop`")
            })
        };
        let bytes = copy(&source, &target, Check::Full, &|_| {}).await.unwrap();
        stop.store(true, Ordering::Relaxed);
        let last = writing.await.unwrap();
        assert_eq!(bytes, std::fs::metadata(&target).unwrap().len());
        let copied = database(&target).await;
        let (pairs, halves): (i64, i64) = sqlx::query_as(
            "SELECT count(*), coalesce(sum(size <> 2), 0)
             FROM (SELECT count(*) AS size FROM numbers GROUP BY pair)",
        )
        .fetch_one(&copied)
        .await
        .unwrap();
        assert!((1000..=last + 1).contains(&pairs), "{pairs} of {last}");
        assert_eq!(halves, 0);
    }

    #[tokio::test]
    async fn failed_copy_names_the_cause() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let refusal = async |source: &Path, target: &Path| {
            copy(source, target, Check::Quick, &|_| {}).await.unwrap_err().to_string()
        };
        let missing = refusal(&at("missing.db"), &at("copy.db")).await;
        assert!(missing.contains("missing.db cannot be read"), "{missing}");

        std::fs::write(at("text.db"), "no database ".repeat(1000)).unwrap();
        let text = refusal(&at("text.db"), &at("copy.db")).await;
        assert!(text.contains("not a database"), "{text}");

        let url = format!("sqlite://{}?mode=rwc", at("foreign.db").display());
        let mut foreign = SqliteConnection::connect(&url).await.unwrap();
        sqlx::query("CREATE TABLE t (n)").execute(&mut foreign).await.unwrap();
        let foreign = refusal(&at("foreign.db"), &at("copy.db")).await;
        assert!(foreign.contains("not made by phoenix"), "{foreign}");

        database(&at("source.db")).await.close().await;
        std::fs::write(at("copy.db"), "in the way").unwrap();
        let taken = refusal(&at("source.db"), &at("copy.db")).await;
        assert!(taken.contains("cannot be copied to"), "{taken}");
        assert_eq!(std::fs::read(at("copy.db")).unwrap(), b"in the way");
        let nowhere = refusal(&at("source.db"), &at("no/folder/copy.db")).await;
        assert!(nowhere.contains("cannot be copied to"), "{nowhere}");
    }

    #[tokio::test]
    async fn database_is_free_when_it_is_not_open() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("source.db");
        assert!(is_free(&file).await, "the file does not exist");
        let pool = database(&file).await;
        assert!(!is_free(&file).await, "an idle connection counts");
        pool.close().await;
        assert!(is_free(&file).await);
        std::fs::write(&file, "no database ".repeat(1000)).unwrap();
        assert!(is_free(&file).await, "a file of another kind is free");
    }
}
