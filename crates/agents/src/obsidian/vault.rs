//! Files and directories of a vault, opened without following any link.
//!
//! Every component of a path is opened relative to the directory before it, with `O_NOFOLLOW`. So no link leads out of the
//! vault, not even one that is created while the agent works. (The vault's own directory may be a link: that is the
//! operator's choice.)
//!
//! A note is never half written: new content goes to a hidden file beside it, is synchronized, and then takes the name.

use std::{
    fs::{self, File, Permissions},
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::Path,
    process,
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat, renameat},
    sys::stat::{Mode, fstatat, mkdirat},
    unistd::{UnlinkatFlags, linkat, unlinkat},
};

use super::path::NotePath;
use crate::{names, protocol::ActionError};

/// The variable that names the vault's directory.
pub const ROOT_VARIABLE: &str = "OBSIDIAN_AGENT_VAULT_ROOT";

/// Longest note in bytes.
pub(super) const MAX_NOTE_BYTES: usize = 4 * 1024 * 1024;

/// `O_NONBLOCK`, because opening a named pipe would wait for its other end.
const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_NOFOLLOW).union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC);

/// An open vault.
pub(super) struct Vault {
    root: File,
}

/// Outcome of [`Vault::create`].
pub(super) enum Created {
    New,
    Exists,
    /// A note exists whose path looks the same; with its path as spelled on disk.
    LooksTheSame(NotePath),
}

impl Vault {
    pub(super) fn open(root: &Path) -> Result<Self, ActionError> {
        let open = fs::OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(root);
        open.map(|root| Self { root }).map_err(|problem| match problem.kind() {
            io::ErrorKind::NotFound => ActionError::invalid(format!(
                "the directory that {ROOT_VARIABLE} names does not exist; create it, or name another one"
            )),
            kind => ActionError::invalid(format!(
                "the directory that {ROOT_VARIABLE} names cannot be opened: {kind}"
            )),
        })
    }

    /// The folder of these names, and its names as spelled on disk.
    pub(super) fn folder(&self, names: &[String]) -> Result<(File, Vec<String>), ActionError> {
        self.walk(names, false)
    }

    /// The content of a note, and its path as spelled on disk.
    pub(super) fn read(&self, path: &NotePath) -> Result<(NotePath, String), ActionError> {
        let (folder, path) = self.find(path)?;
        let (content, _) = read_file(&folder, &path)?;
        Ok((path, content))
    }

    /// Writes a new note, and the folders on the way.
    pub(super) fn create(&self, path: &NotePath, content: &str) -> Result<Created, ActionError> {
        check_length(content)?;
        self.locked(path, || {
            let (folder, folders) = self.walk(&path.folders, true)?;
            let draft = Draft::write(&folder, content, None).map_err(|problem| failed(problem, path))?;
            if let Some(name) = look_alike(&folder, &path.name) {
                return Ok(Created::LooksTheSame(NotePath { folders, name }));
            }
            match draft.publish_new(&path.name) {
                Ok(()) => Ok(Created::New),
                Err(Errno::EEXIST) if folders == path.folders => Ok(Created::Exists),
                Err(Errno::EEXIST) => {
                    Ok(Created::LooksTheSame(NotePath { folders, name: path.name.clone() }))
                }
                Err(problem) => Err(failed(problem, path)),
            }
        })
    }

    /// Replaces the content of a note by the result of `change`. Returns its path as spelled on disk.
    pub(super) fn update(
        &self,
        path: &NotePath,
        change: impl FnOnce(String) -> String,
    ) -> Result<NotePath, ActionError> {
        self.locked(path, || {
            let (folder, path) = self.find(path)?;
            let (content, permissions) = read_file(&folder, &path)?;
            let content = change(content);
            check_length(&content)?;
            Draft::write(&folder, &content, Some(permissions))
                .and_then(|draft| draft.publish_over(&path.name))
                .map_err(|problem| failed(problem, &path))?;
            Ok(path)
        })
    }

    /// Serializes changes to a vault across all agents.
    fn locked<T>(
        &self,
        path: &NotePath,
        change: impl FnOnce() -> Result<T, ActionError>,
    ) -> Result<T, ActionError> {
        self.root.lock().map_err(|problem| failed(errno(&problem), path))?;
        let changed = change();
        // The lock also ends with the process.
        let _ = self.root.unlock();
        changed
    }

    /// The folder of a note, and the note's path as spelled on disk. The note itself is not opened.
    fn find(&self, path: &NotePath) -> Result<(File, NotePath), ActionError> {
        let (folder, folders) = self.folder(&path.folders)?;
        let name = match fstatat(&folder, path.name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => look_alike(&folder, &path.name),
            _ => None,
        };
        Ok((folder, NotePath { folders, name: name.unwrap_or_else(|| path.name.clone()) }))
    }

    fn walk(&self, names: &[String], create: bool) -> Result<(File, Vec<String>), ActionError> {
        let mut folder = self.root.try_clone().map_err(|problem| folder_failed(errno(&problem), "."))?;
        let mut spelled = Vec::new();
        for name in names {
            let (inner, name) = match open_folder(&folder, name) {
                Err(Errno::ENOENT) => self.enter_look_alike(&folder, name, create),
                opened => opened.map(|inner| (inner, name.clone())),
            }
            .map_err(|problem| folder_failed(problem, name))?;
            folder = inner;
            spelled.push(name);
        }
        Ok((folder, spelled))
    }

    /// Opens a folder that does not exist by this name: one that looks the same, or else a new one if `create`.
    fn enter_look_alike(&self, parent: &File, name: &str, create: bool) -> Result<(File, String), Errno> {
        let other = look_alike(parent, name);
        let name = match other {
            Some(other) => other,
            None if create => match mkdirat(parent, name, Mode::from_bits_truncate(0o700)) {
                Ok(()) | Err(Errno::EEXIST) => name.to_owned(),
                Err(problem) => return Err(problem),
            },
            None => return Err(Errno::ENOENT),
        };
        open_folder(parent, &name).map(|inner| (inner, name))
    }
}

/// Another name in `folder` that looks the same as `name`.
fn look_alike(folder: &File, name: &str) -> Option<String> {
    // A directory stream moves the offset of its descriptor, so the folder is opened again.
    let own = open_folder(folder, ".").ok()?;
    let mut entries = Dir::from_fd(own.into()).ok()?;
    entries.iter().find_map(|entry| {
        let entry = entry.ok()?;
        let other = entry.file_name().to_str().ok()?;
        (other != name && names::same(other, name)).then(|| other.to_owned())
    })
}

/// Opens the folder `name` in `parent`, unless it is a link.
pub(super) fn open_folder(parent: &File, name: &str) -> Result<File, Errno> {
    openat(parent, name, READ | OFlag::O_DIRECTORY, Mode::empty()).map(File::from)
}

/// Reads at most `limit` bytes of the file `name` in `folder`, unless it is a link or no plain file.
pub(super) fn read_plain_file(
    folder: &File,
    name: &str,
    limit: usize,
) -> Result<(Vec<u8>, Permissions), Errno> {
    let file = openat(folder, name, READ, Mode::empty()).map(File::from)?;
    let metadata = file.metadata().map_err(|problem| errno(&problem))?;
    if !metadata.is_file() {
        return Err(Errno::ELOOP);
    }
    let mut bytes = Vec::new();
    file.take(limit as u64).read_to_end(&mut bytes).map_err(|problem| errno(&problem))?;
    Ok((bytes, metadata.permissions()))
}

fn read_file(folder: &File, path: &NotePath) -> Result<(String, Permissions), ActionError> {
    let (bytes, permissions) =
        read_plain_file(folder, &path.name, MAX_NOTE_BYTES + 1).map_err(|problem| failed(problem, path))?;
    if bytes.len() > MAX_NOTE_BYTES {
        return Err(too_long());
    }
    let content = String::from_utf8(bytes)
        .map_err(|_| ActionError::new(422, format!("the note `{path}` is not UTF-8 text")))?;
    Ok((content, permissions))
}

/// New content under a hidden name, which is removed with this value unless it was published.
struct Draft<'a> {
    folder: &'a File,
    name: String,
}

impl<'a> Draft<'a> {
    fn write(folder: &'a File, content: &str, permissions: Option<Permissions>) -> Result<Self, Errno> {
        let name = format!(".phoenix-{}-{}.tmp", process::id(), uuid::Uuid::new_v4().simple());
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file: OwnedFd = openat(folder, name.as_str(), flags, Mode::from_bits_truncate(0o600))?;
        let draft = Self { folder, name };
        let mut file = File::from(file);
        let filled = permissions.map_or(Ok(()), |permissions| {
            file.set_permissions(Permissions::from_mode(permissions.mode() & 0o777))
        });
        filled
            .and_then(|()| file.write_all(content.as_bytes()))
            .and_then(|()| file.sync_all())
            .map_err(|problem| errno(&problem))?;
        Ok(draft)
    }

    /// Takes `name` if it does not exist: a link, unlike a rename, replaces nothing.
    fn publish_new(self, name: &str) -> Result<(), Errno> {
        linkat(self.folder, self.name.as_str(), self.folder, name, AtFlags::empty())?;
        self.sync()
    }

    fn publish_over(self, name: &str) -> Result<(), Errno> {
        renameat(self.folder, self.name.as_str(), self.folder, name)?;
        self.sync()
    }

    /// Synchronizes the directory, which makes the name durable.
    fn sync(&self) -> Result<(), Errno> {
        self.folder.sync_all().map_err(|problem| errno(&problem))
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        // After a rename there is nothing to remove.
        let _ = unlinkat(self.folder, self.name.as_str(), UnlinkatFlags::NoRemoveDir);
    }
}

fn check_length(content: &str) -> Result<(), ActionError> {
    if content.len() > MAX_NOTE_BYTES { Err(too_long()) } else { Ok(()) }
}

fn too_long() -> ActionError {
    ActionError::new(413, format!("a note is at most {MAX_NOTE_BYTES} bytes long"))
}

fn errno(problem: &io::Error) -> Errno {
    problem.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// The error of an operation on a note. Opening a link fails with `ELOOP` on Linux and with `EMLINK` on some systems.
fn failed(problem: Errno, path: &NotePath) -> ActionError {
    match problem {
        Errno::ENOENT => ActionError::new(404, format!("there is no note `{path}`")),
        Errno::ELOOP | Errno::EMLINK | Errno::EISDIR => ActionError::new(
            403,
            format!("`{path}` is a link or not a plain file; the agent follows no links"),
        ),
        Errno::EACCES | Errno::EPERM | Errno::EROFS => {
            ActionError::new(403, format!("the agent has no permission for `{path}`"))
        }
        Errno::ENOSPC | Errno::EDQUOT => ActionError::new(507, "the file system of the vault is full"),
        other => ActionError::internal(format!("the vault's file system failed: {}", other.desc())),
    }
}

/// The error of an operation on a folder. A link in the place of a folder fails with `ENOTDIR`.
fn folder_failed(problem: Errno, name: &str) -> ActionError {
    match problem {
        Errno::ENOENT => ActionError::new(404, format!("there is no folder `{name}`")),
        Errno::ELOOP | Errno::EMLINK | Errno::ENOTDIR => ActionError::new(
            403,
            format!("`{name}` is not a folder, or is a link; the agent follows no links"),
        ),
        Errno::EACCES | Errno::EPERM | Errno::EROFS => {
            ActionError::new(403, format!("the agent has no permission for `{name}`"))
        }
        other => ActionError::internal(format!("the vault's file system failed: {}", other.desc())),
    }
}
