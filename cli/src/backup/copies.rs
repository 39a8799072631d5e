//! Writing copies: beside their place first, and there when they are whole.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use phoenix_platform::{
    privacy,
    sqlite::backup::{self, Check},
};

use super::{
    Refusal,
    bar::Bar,
    place::{Contents, VAULT},
};

/// What was copied.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Databases by name, and their bytes.
    pub(super) databases: Vec<(String, u64)>,
    /// The notes, if there is a folder for them.
    pub(super) notes: Option<Notes>,
}

/// What was copied of the notes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Notes {
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// A file or folder that is being written. Removed when it is dropped.
pub(super) struct Partial(PathBuf);

impl Partial {
    /// A name of its own in the folder of `place`, which is made if there is none.
    pub(super) fn beside(place: &Path) -> Result<Self, Refusal> {
        let folder = folder_of(place);
        fs::create_dir_all(&folder).map_err(|error| Refusal::file(&folder, error))?;
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let partial = Self(folder.join(format!(".{name}.partial-{}", std::process::id())));
        // Of an earlier process with the same id, which was killed.
        partial.remove();
        Ok(partial)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    fn remove(&self) {
        // One of the two is what there is, if there is anything.
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Copies `contents`, each part to where `place` says, and makes it durable.
pub(super) async fn copy(
    contents: &Contents,
    place: impl Fn(&str) -> PathBuf,
    check: Check,
) -> Result<Copies, Refusal> {
    let mut copies = Copies::default();
    for (name, source) in &contents.databases {
        let bar = Bar::of(name);
        let copied = backup::copy(source, &place(name), check, &|progress| bar.show(progress)).await;
        copies.databases.push((name.clone(), copied.map_err(Refusal::machine)?));
    }
    if let Some(vault) = contents.vault.clone() {
        let target = place(VAULT);
        // Files may be many, and somebody may want to interrupt this.
        let copied = tokio::task::spawn_blocking(move || copy_folder(&vault, &target)).await;
        copies.notes = Some(copied.map_err(Refusal::machine)??);
    }
    Ok(copies)
}

/// Copies a folder with everything in it. What is removed meanwhile is left out; what is neither a file, a folder nor a link
/// too.
fn copy_folder(source: &Path, target: &Path) -> Result<Notes, Refusal> {
    let mut notes = Notes::default();
    fs::create_dir(target).map_err(|error| Refusal::file(target, error))?;
    for entry in fs::read_dir(source).map_err(|error| Refusal::file(source, error))? {
        let entry = entry.map_err(|error| Refusal::file(source, error))?;
        let (from, to) = (entry.path(), target.join(entry.file_name()));
        let kind = entry.file_type().map_err(|error| Refusal::file(&from, error))?;
        if kind.is_dir() {
            let Notes { files, bytes } = copy_folder(&from, &to)?;
            (notes.files, notes.bytes) = (notes.files + files, notes.bytes + bytes);
        } else if kind.is_file() || kind.is_symlink() {
            match copy_file(&from, &to, kind.is_symlink()) {
                Ok(bytes) => (notes.files, notes.bytes) = (notes.files + 1, notes.bytes + bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Refusal::file(&from, error)),
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

/// Moves what is whole to its place. What was there before goes: a file at that moment, a folder right after it.
pub(super) fn publish(partial: Partial, place: &Path) -> Result<(), Refusal> {
    let failed = |error| Refusal::file(place, error);
    if partial.path().is_dir() {
        sync_folder(partial.path())?;
    }
    let replaced = if partial.path().is_dir() && is_occupied(place) {
        let old = Partial::beside(&place.with_extension("replaced"))?;
        fs::rename(place, old.path()).map_err(failed)?;
        Some(old)
    } else {
        None
    };
    if let Err(error) = fs::rename(partial.path(), place) {
        if let Some(old) = &replaced {
            fs::rename(old.path(), place).map_err(failed)?;
        }
        return Err(failed(error));
    }
    sync_folder(&folder_of(place))
}

/// Whether there is something that a copy would take the place of. An empty folder is none.
pub(super) fn is_occupied(place: &Path) -> bool {
    match fs::read_dir(place) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => fs::symlink_metadata(place).is_ok(),
    }
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> Result<(), Refusal> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| Refusal::file(folder, error))
}

pub(super) fn folder_of(place: &Path) -> PathBuf {
    let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).to_owned()
}
