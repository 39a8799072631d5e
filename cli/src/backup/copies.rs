//! Writes copies under temporary names and renames them when they are complete.

use std::{
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use indicatif::DecimalBytes;

use phoenix_platform::{
    privacy,
    sqlite::backup::{self, Check},
};

use super::{
    error::BackupError,
    location::{Contents, VAULT},
    progress_bar::CopyBar,
};

/// The result of a copy.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Databases by name, with their sizes in bytes.
    pub(super) databases: Vec<(String, u64)>,
    /// The notes, if the source has a folder for them.
    pub(super) notes: Option<Notes>,
}

/// Copied notes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Notes {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// A file or folder that is being written. Dropping it removes what was not published.
pub(super) struct PartialCopy(PathBuf);

impl PartialCopy {
    /// A temporary name in the folder of `target`, which is created if it does not exist.
    pub(super) fn beside(target: &Path) -> Result<Self, BackupError> {
        let folder = folder_of(target);
        fs::create_dir_all(&folder).map_err(|error| BackupError::file(&folder, error))?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let partial = Self(folder.join(format!(".{name}.partial-{}", std::process::id())));
        // Left by an earlier process with the same id that was killed.
        partial.remove();
        Ok(partial)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    fn remove(&self) {
        // It is either a file or a folder, or does not exist.
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Drop for PartialCopy {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Copies each part of `contents` to the path that `target` returns for it, and makes it durable.
pub(super) async fn copy(
    contents: &Contents,
    target: impl Fn(&str) -> PathBuf,
    check: Check,
) -> Result<Copies, BackupError> {
    let mut copies = Copies::default();
    for (name, source) in &contents.databases {
        let bar = CopyBar::new(name);
        let copied = backup::copy(source, &target(name), check, &|progress| bar.update(progress)).await;
        copies.databases.push((name.clone(), copied.map_err(BackupError::failed)?));
    }
    if let Some(vault) = contents.vault.clone() {
        let target = target(VAULT);
        // On another thread, because there may be many files and the copy must stay interruptible.
        let copied = tokio::task::spawn_blocking(move || copy_folder(&vault, &target)).await;
        copies.notes = Some(copied.map_err(BackupError::failed)??);
    }
    Ok(copies)
}

/// Copies a folder recursively, without entries that are removed meanwhile and without entries that are neither a file, a
/// folder nor a link.
fn copy_folder(source: &Path, target: &Path) -> Result<Notes, BackupError> {
    let mut notes = Notes::default();
    fs::create_dir(target).map_err(|error| BackupError::file(target, error))?;
    for entry in fs::read_dir(source).map_err(|error| BackupError::file(source, error))? {
        let entry = entry.map_err(|error| BackupError::file(source, error))?;
        let (from, to) = (entry.path(), target.join(entry.file_name()));
        let kind = entry.file_type().map_err(|error| BackupError::file(&from, error))?;
        if kind.is_dir() {
            let Notes { files, bytes } = copy_folder(&from, &to)?;
            (notes.files, notes.bytes) = (notes.files + files, notes.bytes + bytes);
        } else if kind.is_file() || kind.is_symlink() {
            match copy_file(&from, &to, kind.is_symlink()) {
                Ok(bytes) => (notes.files, notes.bytes) = (notes.files + 1, notes.bytes + bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(BackupError::file(&from, error)),
            }
        }
    }
    sync_folder(target)?;
    Ok(notes)
}

fn copy_file(from: &Path, to: &Path, is_link: bool) -> io::Result<u64> {
    if is_link {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
        return Ok(0);
    }
    let bytes = fs::copy(from, to)?;
    // A copy has the mode of its source, which may be open to others.
    privacy::tighten(to)?;
    // Not through a handle that writes: notes may be read-only.
    File::open(to)?.sync_all()?;
    Ok(bytes)
}

/// Renames a complete copy to `target`. An existing file is replaced by that; an existing folder is removed afterwards.
pub(super) fn publish(partial: PartialCopy, target: &Path) -> Result<(), BackupError> {
    let failed = |error| BackupError::file(target, error);
    if partial.path().is_dir() {
        sync_folder(partial.path())?;
    }
    let replaced = if partial.path().is_dir() && is_occupied(target) {
        let old = PartialCopy::beside(&target.with_extension("replaced"))?;
        fs::rename(target, old.path()).map_err(failed)?;
        Some(old)
    } else {
        None
    };
    if let Err(error) = fs::rename(partial.path(), target) {
        if let Some(old) = &replaced {
            fs::rename(old.path(), target).map_err(failed)?;
        }
        return Err(failed(error));
    }
    sync_folder(&folder_of(target))
}

/// Whether a copy would replace something at `target`. An empty folder does not count.
pub(super) fn is_occupied(target: &Path) -> bool {
    match fs::read_dir(target) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => fs::symlink_metadata(target).is_ok(),
    }
}

/// Makes the entries of a folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), BackupError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| BackupError::file(folder, error))
}

pub(super) fn folder_of(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).to_owned()
}

impl fmt::Display for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { databases, notes } = self;
        for (n, (name, bytes)) in databases.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{name} ({})", DecimalBytes(*bytes))?;
        }
        match notes {
            None => Ok(()),
            Some(notes) => {
                let s = if notes.files == 1 { "" } else { "s" };
                write!(f, ", {VAULT} ({} file{s}, {})", notes.files, DecimalBytes(notes.bytes))
            }
        }
    }
}
