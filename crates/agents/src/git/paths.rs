//! Paths that callers name, kept below the root.
//!
//! They are checked before git runs, so a process that writes to the disk could replace a directory by a link in between.
//! The check protects against callers, not against other processes of the same user.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use super::settings::{ROOT_HINT, ROOT_VARIABLE, quoted};
use crate::{names, protocol::ActionError};

/// Longest path and longest name of file systems.
const MAX_PATH_BYTES: usize = 4095;
const MAX_NAME_BYTES: usize = 255;

/// A file or folder that a caller names.
#[derive(Debug)]
pub(super) struct FilePath {
    /// Path relative to the directory git runs in, as spelled on disk.
    pub(super) relative: String,
    pub(super) absolute: PathBuf,
}

impl FilePath {
    /// The path as an argument of git, without the meaning of an option, a pattern or pathspec magic.
    pub(super) fn pathspec(&self) -> String {
        format!(":(literal){}", self.relative)
    }

    /// Whether an entry of any kind exists there.
    pub(super) fn exists(&self) -> bool {
        self.absolute.symlink_metadata().is_ok()
    }

    /// Whether it is a folder and not a link to one.
    pub(super) fn is_folder(&self) -> bool {
        self.absolute.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
    }
}

/// The root with its links resolved.
pub(super) fn root(root: &Path) -> Result<PathBuf, ActionError> {
    let resolved =
        root.canonicalize().and_then(|resolved| fs::metadata(&resolved).map(|metadata| (resolved, metadata)));
    let problem = match resolved {
        Ok((resolved, metadata)) if metadata.is_dir() => return Ok(resolved),
        Ok(_) => "is not a directory",
        Err(problem) if problem.kind() == io::ErrorKind::PermissionDenied => {
            "cannot be entered by the agent's user"
        }
        Err(_) => "does not exist",
    };
    let root = root.display();
    Err(ActionError::invalid(format!("the directory of the git agent, `{root}`, {problem}; {ROOT_HINT}")))
}

/// The directory `below` the root, links resolved.
pub(super) fn directory(root: &Path, below: &str) -> Result<PathBuf, ActionError> {
    check_words(below, "repo")?;
    let shown = quoted(below);
    let directory =
        root.join(spelled(root, below)).canonicalize().map_err(|problem| match problem.kind() {
            io::ErrorKind::NotADirectory => not_a_directory(&shown),
            io::ErrorKind::PermissionDenied => {
                ActionError::new(403, format!("the agent has no permission for {shown}"))
            }
            _ => ActionError::new(
                404,
                format!("there is no directory {shown} below `{}`; {ROOT_HINT}", root.display()),
            ),
        })?;
    check_below(root, &directory)?;
    if !directory.is_dir() {
        return Err(not_a_directory(&shown));
    }
    Ok(directory)
}

fn not_a_directory(shown: &str) -> ActionError {
    ActionError::invalid(format!("repo {shown} is not a directory"))
}

/// A file named relative to `directory`, below the root. It need not exist: a deleted file can be diffed and added. The
/// file itself may be a link: git works with the link and never with its target.
pub(super) fn file(root: &Path, directory: &Path, file: &str) -> Result<FilePath, ActionError> {
    if file.is_empty() {
        return Err(ActionError::invalid("a path must not be empty"));
    }
    check_words(file, "path")?;
    let shown = quoted(file);
    if Path::new(file).components().any(|name| name.as_os_str().eq_ignore_ascii_case(".git")) {
        return Err(ActionError::invalid(format!(
            "path {shown} is inside the git directory, which is not versioned"
        )));
    }
    if file.len() > MAX_PATH_BYTES || file.split('/').any(|name| name.len() > MAX_NAME_BYTES) {
        return Err(ActionError::invalid(format!("path {shown} is too long for a file")));
    }
    let relative = spelled(directory, file);
    let absolute: PathBuf = directory.join(&relative).components().collect();
    // The directory itself is at or below the root.
    let mut parent = if absolute == directory { Some(directory) } else { absolute.parent() };
    while let Some(existing) = parent {
        match existing.canonicalize() {
            Ok(resolved) => {
                check_below(root, &resolved)?;
                return Ok(FilePath { relative, absolute });
            }
            Err(missing) if is_missing(&missing) => parent = existing.parent(),
            Err(problem) if problem.kind() == io::ErrorKind::PermissionDenied => {
                return Err(ActionError::new(403, format!("the agent has no permission for {shown}")));
            }
            Err(_) => return Err(ActionError::invalid(format!("path {shown} is not a valid file path"))),
        }
    }
    Err(outside())
}

fn is_missing(problem: &io::Error) -> bool {
    matches!(problem.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// `path` below `directory` as spelled on disk: a name that does not exist stands for one that looks the same.
fn spelled(directory: &Path, path: &str) -> String {
    if path.is_ascii() || directory.join(path).symlink_metadata().is_ok() {
        return path.into();
    }
    let mut spelled: Vec<String> = Vec::new();
    for name in path.split('/') {
        let folder = directory.join(spelled.join("/"));
        let found =
            if folder.join(name).symlink_metadata().is_ok() { None } else { look_alike(&folder, name) };
        spelled.push(found.unwrap_or_else(|| name.into()));
    }
    spelled.join("/")
}

fn look_alike(folder: &Path, name: &str) -> Option<String> {
    let entries = fs::read_dir(folder).ok()?;
    let mut names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.find(|entry| names::same(entry, name))
}

/// Checks that a resolved path is below the root.
pub(super) fn check_below(root: &Path, resolved: &Path) -> Result<(), ActionError> {
    if resolved.starts_with(root) { Ok(()) } else { Err(outside()) }
}

fn check_words(path: &str, field: &str) -> Result<(), ActionError> {
    let plain = |component| matches!(component, Component::Normal(_) | Component::CurDir);
    if Path::new(path).components().all(plain) {
        return Ok(());
    }
    let path = quoted(path);
    Err(ActionError::invalid(format!("{field} {path} must be relative and must not contain `..`")))
}

pub(super) fn outside() -> ActionError {
    ActionError::new(403, format!("the path leads out of {ROOT_VARIABLE}"))
}
