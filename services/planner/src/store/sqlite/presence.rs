//! Presence of the database file at its path. Writes to a file that was removed are lost, and SQLite does not detect that.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::store::error::JournalError;

/// Identity of an open database file.
#[derive(Debug)]
pub(super) struct Presence {
    path: PathBuf,
    /// Device and inode; absent for a database in memory.
    identity: Option<(u64, u64)>,
}

impl Presence {
    /// Identity of the file at `path`, which was just opened.
    pub(super) async fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), identity: identity(path).await.ok() }
    }

    /// Checks that the file is still at its path.
    ///
    /// # Errors
    /// [`JournalError::FileGone`] when it was removed or replaced.
    pub(super) async fn check(&self) -> Result<(), JournalError> {
        match (self.identity, identity(&self.path).await) {
            (None, _) => Ok(()),
            (Some(opened), Ok(found)) if opened == found => Ok(()),
            (Some(_), Ok(_)) => Err(self.gone(&self.path, "was replaced")),
            (Some(_), Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                Err(self.gone(&self.path, "was removed"))
            }
            (Some(_), Err(error)) => Err(JournalError::Database(error.into())),
        }
    }

    /// Checks that the write-ahead log is at its path. Called while a connection has it open.
    ///
    /// # Errors
    /// [`JournalError::FileGone`] when it was removed.
    pub(super) async fn check_log(&self) -> Result<(), JournalError> {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        let log = PathBuf::from(log);
        match identity(&log).await {
            Err(error) if self.identity.is_some() && error.kind() == io::ErrorKind::NotFound => {
                Err(self.gone(&log, "was removed"))
            }
            _ => Ok(()),
        }
    }

    fn gone(&self, path: &Path, what: &str) -> JournalError {
        let (path, database) = (path.display(), self.path.display());
        JournalError::FileGone(format!(
            "{path} {what} while the planner uses it; stop the planner, put the files of {database} back or restore a backup, and start it again"
        ))
    }
}

async fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = tokio::fs::metadata(path).await?;
    Ok((file.dev(), file.ino()))
}
