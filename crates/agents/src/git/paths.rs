//! Paths that callers name, kept below the root.
//!
//! Checked before git runs, which leaves a moment in which a process that can write to the disk could swap a directory
//! for a link. The defence is against callers' words, not against other processes of the same user.

use std::{
    fs, io,
    path::{Component, Path, PathBuf},
};

use super::{ROOT_SETTINGS, ROOT_VARIABLE, quoted};
use crate::{ActionError, names};

/// The longest path and the longest name that file systems take.
const MAX_PATH_BYTES: usize = 4095;
const MAX_NAME_BYTES: usize = 255;

/// A file or folder that a caller names.
#[derive(Debug)]
pub(super) struct FilePath {
    /// Relative to the directory git runs in, as the disk spells it.
    pub(super) relative: String,
    pub(super) absolute: PathBuf,
}

impl FilePath {
    /// The path as an argument of git: no option, no pattern, no magic of its own.
    pub(super) fn pathspec(&self) -> String {
        format!(":(literal){}", self.relative)
    }

    /// Whether it is there, as whatever it may be.
    pub(super) fn exists(&self) -> bool {
        self.absolute.symlink_metadata().is_ok()
    }

    /// Whether it is a folder, and no link to one.
    pub(super) fn is_folder(&self) -> bool {
        self.absolute.symlink_metadata().is_ok_and(|about| about.is_dir())
    }
}

/// The root without links in it.
pub(super) fn root(root: &Path) -> Result<PathBuf, ActionError> {
    let resolved =
        root.canonicalize().and_then(|resolved| fs::metadata(&resolved).map(|about| (resolved, about)));
    let problem = match resolved {
        Ok((resolved, about)) if about.is_dir() => return Ok(resolved),
        Ok(_) => "is not a directory",
        Err(problem) if problem.kind() == io::ErrorKind::PermissionDenied => {
            "can't be entered by the agent's user"
        }
        Err(_) => "does not exist",
    };
    let root = root.display();
    Err(ActionError::invalid(format!("the directory of the git agent, `{root}`, {problem}; {ROOT_SETTINGS}")))
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
                format!("there is no directory {shown} below `{}`; {ROOT_SETTINGS}", root.display()),
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
/// file itself may be a link, since git works with the link and never with what it points to.
pub(super) fn file(root: &Path, directory: &Path, file: &str) -> Result<FilePath, ActionError> {
    if file.is_empty() {
        return Err(ActionError::invalid("a path must not be empty"));
    }
    check_words(file, "path")?;
    let shown = quoted(file);
    if Path::new(file).components().any(|name| name.as_os_str().eq_ignore_ascii_case(".git")) {
        return Err(ActionError::invalid(format!(
            "path {shown} is inside git's own directory, which is not versioned"
        )));
    }
    if file.len() > MAX_PATH_BYTES || file.split('/').any(|name| name.len() > MAX_NAME_BYTES) {
        return Err(ActionError::invalid(format!(
            "path {shown} can't be the path of a file: it is too long"
        )));
    }
    let relative = spelled(directory, file);
    let absolute: PathBuf = directory.join(&relative).components().collect();
    // The directory itself is the root, or below it.
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
            Err(_) => return Err(ActionError::invalid(format!("path {shown} can't be the path of a file"))),
        }
    }
    Err(outside())
}

fn is_missing(problem: &io::Error) -> bool {
    matches!(problem.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// `path` below `directory` as the disk spells it: a name that is not there stands for one that looks the same.
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

/// Checks a resolved path.
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
    ActionError::new(403, format!("this path leads out of {ROOT_VARIABLE}"))
}
