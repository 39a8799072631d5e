//! Copies of databases, also of those that are in use.
//!
//! A copy is made by `VACUUM INTO`: SQLite reads one snapshot while others go on writing, and what it writes is whole, without
//! free pages, and one file. SQLite's backup interface would begin again with every commit of another process, and so never
//! end under load. The price of a snapshot is that the write-ahead log of the source grows until the copy is made.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteLockingMode},
};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// How thoroughly a copy is looked at before it counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Every page and every row: what the disk or the memory may have spoilt.
    Quick,
    /// Every index against its table, too; takes several times as long.
    Full,
}

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes are written of about so many.
    Written {
        /// Bytes.
        bytes: u64,
        /// Bytes.
        of: u64,
    },
    /// All is written and looked at.
    Checking,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source can't be read.
    #[error("the database {path} cannot be read: {cause}")]
    Source {
        /// The file, for the operator.
        path: String,
        /// What SQLite or the system said.
        cause: sqlx::Error,
    },
    /// It is a database, but none of ours.
    #[error("the database {path} was not made by phoenix")]
    Foreign {
        /// The file, for the operator.
        path: String,
    },
    /// The copy can't be written, or the source turned out to be damaged on the way.
    #[error("the database {path} cannot be copied to {target}: {cause}")]
    Copy {
        /// The source, for the operator.
        path: String,
        /// The copy.
        target: String,
        /// What SQLite or the system said.
        cause: sqlx::Error,
    },
    /// The copy is as damaged as the source is.
    #[error("the database {path} is damaged, and so is a copy of it: {what}")]
    Damaged {
        /// The source, for the operator.
        path: String,
        /// The first problem that SQLite found.
        what: String,
    },
}

/// Copies the database `source`, which may be in use, into the new file `target`: what was committed before this was called
/// is in it, and no half of a commit. The copy is durable and has been read again; the source is not touched. Gives the bytes
/// of the copy.
///
/// # Errors
/// When the source can't be read or is damaged, or the copy can't be written. What is left at `target` then is of no use.
pub async fn copy(
    source: &Path,
    target: &Path,
    check: Check,
    progress: &(impl Fn(Progress) + Sync),
) -> Result<u64, CopyError> {
    let path = source.display().to_string();
    // SQLite takes a relative name such as `file:x` for a URL.
    let target = &std::path::absolute(target).map_err(|error| CopyError::Copy {
        path: path.clone(),
        target: target.display().to_string(),
        cause: error.into(),
    })?;
    let unreadable = |cause| CopyError::Source { path: path.clone(), cause };
    let uncopied =
        |cause| CopyError::Copy { path: path.clone(), target: target.display().to_string(), cause };
    let mut database = read_only(source).connect().await.map_err(unreadable)?;
    // Every database of ours has a history of migrations.
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
        never = tell(target, of, progress) => match never {},
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

/// Whether no process, this one included, has the database `file` open. One that can't be opened at all is free.
pub async fn is_free(file: &Path) -> bool {
    const BUSY: &str = "5";
    // Whoever has a database with a write-ahead log open holds a shared lock on it, however long it does nothing.
    let options = SqliteConnectOptions::new()
        .filename(literal(file))
        .create_if_missing(false)
        .locking_mode(SqliteLockingMode::Exclusive)
        .busy_timeout(Duration::ZERO)
        .disable_statement_logging();
    let tried = async {
        let mut database = options.connect().await?;
        let locked = sqlx::query("BEGIN EXCLUSIVE").execute(&mut database).await;
        // Also folds what is left of a write-ahead log into the file.
        let _ = database.close().await;
        locked
    };
    match tried.await {
        Err(sqlx::Error::Database(error)) => error.code().as_deref() != Some(BUSY),
        Ok(_) | Err(_) => true,
    }
}

/// Tells how large `target` is, for ever.
async fn tell(target: &Path, of: u64, progress: &(impl Fn(Progress) + Sync)) -> Infallible {
    let mut every = tokio::time::interval(TELL_EVERY);
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

/// `file` as a path that SQLite cannot take for anything else. When the current folder is gone, nothing there can be opened.
fn literal(file: &Path) -> PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned())
}

fn read_only(file: &Path) -> SqliteConnectOptions {
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
    async fn a_copy_under_load_holds_every_earlier_commit_and_no_half_of_one() {
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
                unreachable!("it was told to stop")
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
    async fn what_cannot_be_copied_says_why() {
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
    async fn a_database_is_free_when_nobody_has_it_open() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("source.db");
        assert!(is_free(&file).await, "there is none");
        let pool = database(&file).await;
        assert!(!is_free(&file).await, "also while nobody does anything with it");
        pool.close().await;
        assert!(is_free(&file).await);
        std::fs::write(&file, "no database ".repeat(1000)).unwrap();
        assert!(is_free(&file).await, "what is no database is nobody's");
    }
}
