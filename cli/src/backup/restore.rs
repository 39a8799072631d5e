//! Restore: a backup is verified completely and then moved to its target, which must not be in use. Existing files are renamed.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use phoenix_platform::sqlite::{
    WAL_SUFFIXES,
    backup::{self, Check},
    companion,
};

use super::{
    copies::{self, Copies, PartialCopy, folder_of, is_occupied, sync_folder},
    error::BackupError,
    location::{Contents, Location, VAULT},
};
use crate::args::RestoreArgs;

/// The result of a restore.
pub(super) struct Restored {
    to: PathBuf,
    copies: Copies,
    /// New names of the files that existed before.
    kept: Vec<PathBuf>,
}

pub(super) async fn run(args: RestoreArgs) -> Result<Restored, BackupError> {
    let RestoreArgs { from, target, force } = args;
    let target = Location::resolve(target)?;
    let contents = match (&target, from.is_dir()) {
        (Location::Folder(_), true) => Contents::of_folder(&from)?,
        (Location::Database { .. }, false) => Contents::of_file(&from)?,
        (Location::Folder(_), false) if !from.exists() => {
            return Err(BackupError::failed(format_args!("there is no backup {}", from.display())));
        }
        (Location::Folder(_), false) => {
            return Err(BackupError::Usage(format!(
                "{} is a backup of one database; name its target with --database-url",
                from.display()
            )));
        }
        (Location::Database { .. }, true) => {
            return Err(BackupError::Usage(format!(
                "{} is a backup of a data folder; name its target with --data-dir",
                from.display()
            )));
        }
    };
    let path_of = |name: &str| match &target {
        Location::Folder(folder) => folder.join(name),
        Location::Database { file, .. } => file.clone(),
    };
    let names = contents.databases.iter().map(|(name, _)| name.as_str());
    let paths: Vec<PathBuf> = names.chain(contents.vault.as_ref().map(|_| VAULT)).map(path_of).collect();
    check_targets(&paths, force).await?;

    let partials = paths.iter().map(|path| PartialCopy::beside(path)).collect::<Result<Vec<_>, _>>()?;
    let partial_of = |name: &str| {
        let index = paths.iter().position(|path| *path == path_of(name));
        index.map(|index| partials[index].path().to_owned()).unwrap_or_default()
    };
    let copies = copies::copy(&contents, partial_of, Check::Full).await?;
    // A service may have been started meanwhile.
    check_targets(&paths, force).await?;
    let mut kept = Vec::new();
    for (path, partial) in paths.iter().zip(&partials) {
        kept.extend(rename_existing(path)?);
        fs::rename(partial.path(), path).map_err(|error| BackupError::file(path, error))?;
        sync_folder(&folder_of(path))?;
    }
    Ok(Restored { to: target.path().to_owned(), copies, kept })
}

/// Checks that no service uses the files at `paths`, and that they may be renamed.
async fn check_targets(paths: &[PathBuf], force: bool) -> Result<(), BackupError> {
    for path in paths.iter().filter(|path| path.is_file()) {
        if !backup::is_free(path).await {
            return Err(BackupError::failed(format_args!(
                "the database {} is in use; stop phoenix first",
                path.display()
            )));
        }
    }
    let occupied = paths.iter().find(|path| is_occupied(path));
    match occupied.filter(|_| !force) {
        None => Ok(()),
        Some(path) => Err(BackupError::failed(format_args!(
            "{} exists already; restore into a new folder, or rename existing files with --force",
            path.display()
        ))),
    }
}

/// Renames the file or folder at `path`, and the files that belong to it. Returns its new name, if it existed.
fn rename_existing(path: &Path) -> Result<Option<PathBuf>, BackupError> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let renamed = companion(path, &format!(".replaced-{seconds}"));
    let existed = is_occupied(path);
    if existed {
        fs::rename(path, &renamed).map_err(|error| BackupError::file(path, error))?;
    }
    // A journal file must never be applied to another database.
    for suffix in WAL_SUFFIXES {
        let leftover = companion(path, suffix);
        if leftover.exists() {
            fs::rename(&leftover, companion(&renamed, suffix))
                .map_err(|error| BackupError::file(&leftover, error))?;
        }
    }
    Ok(existed.then_some(renamed))
}

impl fmt::Display for Restored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { to, copies, kept } = self;
        write!(f, "restored {}: {copies}", to.display())?;
        for (n, path) in kept.iter().enumerate() {
            let separator = if n == 0 { "; what was there before is kept as " } else { ", " };
            write!(f, "{separator}{}", path.display())?;
        }
        Ok(())
    }
}
