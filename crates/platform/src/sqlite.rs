//! Opening of SQLite databases: WAL, a busy timeout, foreign keys, migrations on start.

pub mod backup;
mod inspect;

use std::{
    io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use sqlx::{
    Connection, SqliteConnection, SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub use self::inspect::{Inspection, inspect};
use crate::privacy;

/// Suffixes of the files that SQLite keeps beside an open database.
pub const WAL_SUFFIXES: [&str; 2] = ["-wal", "-shm"];

/// Error of opening a database.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is not valid.
    #[error("DATABASE_URL must look like sqlite://path/to/file.db: {0}")]
    Url(String),
    /// SQLite accepts file names in UTF-8 only.
    #[error("the path of the database {0} is not UTF-8; choose another folder")]
    NotUtf8(String),
    /// The file cannot be opened or created.
    #[error("the database {path} cannot be opened: {cause}")]
    Open {
        /// Path of the file.
        path: String,
        /// Error of SQLite or the system.
        cause: sqlx::Error,
    },
    /// A newer version of this program has written the database.
    #[error(
        "the database {path} was written by a newer version (its schema is {schema}); start that version or a newer one"
    )]
    Newer {
        /// Path of the file.
        path: String,
        /// Number of its last migration.
        schema: i64,
    },
    /// A process of an older version works with the database, which has to be migrated.
    #[error(
        "the database {path} is in use by a planner of an older version and has to be migrated; stop that planner, then start \
         this one again"
    )]
    InUse {
        /// Path of the file.
        path: String,
    },
    /// A migration failed.
    #[error("the database {path} cannot be migrated: {cause}")]
    Migrate {
        /// Path of the file.
        path: String,
        /// Error of the migration.
        cause: MigrateError,
    },
}

/// Durability of commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Commits survive a power failure (`synchronous=FULL`).
    Full,
    /// Commits survive a crash of the process; a power failure may lose the last ones (`synchronous=NORMAL`).
    Process,
}

impl From<Durability> for SqliteSynchronous {
    fn from(durability: Durability) -> Self {
        match durability {
            Durability::Full => Self::Full,
            Durability::Process => Self::Normal,
        }
    }
}

/// Opens or creates the database at `url`, including its folder, and applies migrations. Other users can read neither.
///
/// # Errors
/// When the file cannot be opened or created, or belongs to a newer version.
pub async fn open(
    url: &str,
    durability: Durability,
    connections: u32,
    migrator: &Migrator,
) -> Result<SqlitePool, OpenError> {
    let options = options(url, durability)?;
    let file = options.get_filename().to_owned();
    let path = file.display().to_string();
    let prepared = tokio::task::spawn_blocking(move || prepare(&file)).await;
    prepared
        .map_err(io::Error::other)
        .flatten()
        .map_err(|cause| OpenError::Open { path: path.clone(), cause: cause.into() })?;
    let pool = SqlitePoolOptions::new()
        .max_connections(connections)
        // A connection to a file does not break while it is idle.
        .test_before_acquire(false)
        .after_release(|connection, _| Box::pin(is_usable(connection)))
        .connect_with(options.clone())
        .await
        .map_err(|cause| OpenError::Open { path: path.clone(), cause })?;
    // A new connection must not recreate a file that was removed meanwhile.
    pool.set_connect_options(options.create_if_missing(false));
    match migrator.run(&pool).await {
        Ok(()) => Ok(pool),
        Err(MigrateError::VersionMissing(schema)) => Err(OpenError::Newer { path, schema }),
        Err(cause) => Err(OpenError::Migrate { path, cause }),
    }
}

/// Creates the file and its folder for this user only, and tightens the modes of existing files. SQLite creates the files
/// beside a database with the mode of the database.
fn prepare(file: &Path) -> io::Result<()> {
    if let Some(folder) = file.parent().filter(|folder| !folder.exists()) {
        privacy::create_folder(folder)?;
        privacy::keep_out_of_git(folder, "*")?;
    }
    if !file.exists() {
        // An empty file is a database without tables.
        privacy::create_file(file)?;
    }
    for path in [file.to_owned()].into_iter().chain(WAL_SUFFIXES.map(|suffix| companion(file, suffix))) {
        if let Err(error) = privacy::tighten(&path) {
            tracing::warn!(file = %path.display(), %error, "other users may read a database");
        }
    }
    Ok(())
}

/// Path of the file beside `database` with `suffix`.
#[must_use]
pub fn companion(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// URL of the database in `file`, whose path may have any characters.
///
/// # Errors
/// When the path is not UTF-8 or the current folder is gone.
pub fn file_url(file: &Path) -> Result<String, OpenError> {
    let not_utf8 = || OpenError::NotUtf8(file.display().to_string());
    let absolute = std::path::absolute(file).map_err(|error| OpenError::Url(error.to_string()))?;
    let path = absolute.to_str().ok_or_else(not_utf8)?;
    Ok(format!("sqlite://{}", path.replace('%', "%25").replace('?', "%3F")))
}

/// Absolute path of the database at `url`, such as `sqlite://data/planner.db`. The path in a URL may be percent-encoded: `%25`
/// is a percent sign, `%3F` a question mark.
///
/// # Errors
/// When the URL is not valid, or names a database without a file.
pub fn file_from_url(url: &str) -> Result<PathBuf, OpenError> {
    let wrong = |problem: &str| OpenError::Url(problem.to_owned());
    if !url.starts_with("sqlite:") {
        // sqlx accepts any text as a file name.
        return Err(wrong("it does not begin with sqlite:"));
    }
    let (path, parameters) = url.split_once('?').unwrap_or((url, ""));
    if path.ends_with(":memory:") || parameters.split('&').any(|pair| pair == "mode=memory") {
        return Err(wrong("a database in memory is lost with its process; name a file"));
    }
    let options = parse(url)?;
    let file = options.get_filename();
    if file.as_os_str().is_empty() {
        return Err(wrong("it names no file"));
    }
    // An absolute path is never a special name of SQLite, such as `file:…`.
    std::path::absolute(file).map_err(|error| OpenError::Url(error.to_string()))
}

fn parse(url: &str) -> Result<SqliteConnectOptions, OpenError> {
    SqliteConnectOptions::from_str(url).map_err(|error| match error {
        sqlx::Error::Configuration(problem) => OpenError::Url(problem.to_string()),
        other => OpenError::Url(other.to_string()),
    })
}

/// Options of every connection to the database at `url`.
///
/// # Errors
/// When the URL is not valid.
pub fn options(url: &str, durability: Durability) -> Result<SqliteConnectOptions, OpenError> {
    Ok(parse(url)?
        .filename(file_from_url(url)?)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(durability.into())
        .busy_timeout(Duration::from_secs(5))
        .foreign_keys(true)
        // Kibibytes. Most writes touch recently written pages, which the default of 2 MB would read from the file again.
        .pragma("cache_size", "-16384")
        // Bytes. A long read, such as a backup, makes the write-ahead log grow; this is its size after a checkpoint.
        .pragma("journal_size_limit", "33554432"))
}

/// Whether `error` reports a damaged file, which a retry does not change.
#[must_use]
pub fn is_damage(error: &sqlx::Error) -> bool {
    const CORRUPT: u32 = 11;
    const NOT_A_DATABASE: u32 = 26;
    match error {
        sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => true,
        sqlx::Error::Database(error) => {
            // The low byte of an extended result code is the primary one (https://sqlite.org/rescode.html).
            let code = error.code().and_then(|code| code.parse::<u32>().ok()).map(|code| code & 0xff);
            matches!(code, Some(CORRUPT | NOT_A_DATABASE))
        }
        _ => false,
    }
}

/// Whether a connection may be reused. SQLite rolls a transaction back when the disk is full or fails
/// (<https://sqlite.org/lang_transaction.html#response_to_errors_within_a_transaction>); sqlx's own rollback then fails, and
/// sqlx counts a transaction that does not exist and rejects every further one.
async fn is_usable(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    // Queued after the rollback.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use proptest::prelude::*;

    use super::*;

    fn migrator() -> Migrator {
        Migrator::with_migrations(Vec::new())
    }

    /// Folder names, among them those with a meaning in a URL or for SQLite.
    fn folder_names() -> impl Strategy<Value = String> {
        let odd = prop::sample::select(vec![
            "percent%20sign",
            "%",
            "100%",
            "%2e%2e",
            "question?mark",
            "?mode=memory",
            "hash#",
            "file:x",
            "file:x?mode=ro",
            "sqlite:",
            "sqlite:x",
            ":memory:",
            "a b",
            "a&b=c",
            "a+b",
            "ünïcode",
            "\\",
            "'quote'",
            "\"",
            "-dash",
            "new\nline",
        ]);
        prop_oneof![odd.prop_map(str::to_owned), "[^/\\x00]{1,40}"]
            .prop_filter("a name of its own", |name| !matches!(name.as_str(), "." | ".."))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn database_path_with_any_characters_is_literal(name in folder_names()) {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join(&name).join("planner.db");
            let url = file_url(&file).unwrap();
            prop_assert_eq!(file_from_url(&url).unwrap(), file.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                open(&url, Durability::Process, 1, &migrator()).await.unwrap().close().await;
            });
            prop_assert!(std::fs::read(&file).unwrap().starts_with(b"SQLite format 3"), "{}", url);
            let made: Vec<_> = folder.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
            prop_assert_eq!(made, [name.as_str()], "and nothing else");
        }
    }

    #[test]
    fn database_url_must_name_a_file() {
        for url in [
            "planner.db",
            "postgres://x/y",
            "sqlite::memory:",
            "sqlite://",
            "sqlite://x.db?mode=memory",
            "sqlite:?cache=shared",
        ] {
            assert!(file_from_url(url).is_err(), "{url}");
            assert!(options(url, Durability::Full).is_err(), "{url}");
        }
        let file = std::path::absolute("data/100%.db").unwrap();
        assert_eq!(file_from_url("sqlite://data/100%25.db").unwrap(), file);
        assert_eq!(file_from_url("sqlite:data/100%25.db?mode=rwc").unwrap(), file);
    }

    #[tokio::test]
    async fn database_files_are_private_on_creation_and_upgrade() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new/planner.db");
        let url = file_url(&file).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
        let files = [file.clone(), companion(&file, "-wal"), companion(&file, "-shm")];
        let pool = open(&url, Durability::Full, 1, &migrator()).await.unwrap();
        sqlx::query("CREATE TABLE t (n)").execute(&pool).await.unwrap();
        assert_eq!(mode(file.parent().unwrap()), 0o700);
        assert_eq!(files.each_ref().map(|file| mode(file)), [0o600; 3]);
        // The modes of an older version.
        for file in &files {
            std::fs::set_permissions(file, PermissionsExt::from_mode(0o644)).unwrap();
        }
        let other = open(&url, Durability::Full, 1, &migrator()).await.unwrap();
        assert_eq!(files.each_ref().map(|file| mode(file)), [0o600; 3]);
        other.close().await;
        pool.close().await;
    }
}
