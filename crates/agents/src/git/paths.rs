//! Paths that callers name, kept below the root.
//!
//! Checked before git runs, which leaves a moment in which someone who can write to the disk could swap a directory for a
//! link. The defence is against callers' words, not against other processes of the same user.

use std::{
    io,
    path::{Component, Path, PathBuf},
};

use super::{ROOT_VARIABLE, quoted};
use crate::ActionError;

/// The root without links in it.
pub(super) fn root(root: &Path) -> Result<PathBuf, ActionError> {
    root.canonicalize().map_err(|_| {
        ActionError::invalid(format!(
            "{ROOT_VARIABLE} names a directory that does not exist or can't be entered"
        ))
    })
}

/// The directory `below` the root, links resolved.
pub(super) fn directory(root: &Path, below: &str) -> Result<PathBuf, ActionError> {
    check_words(below, "repo")?;
    let missing =
        |_| ActionError::new(404, format!("there is no directory {} below {ROOT_VARIABLE}", quoted(below)));
    let directory = root.join(below).canonicalize().map_err(missing)?;
    check_below(root, &directory)?;
    Ok(directory)
}

/// Checks that a file named relative to `directory` is below the root. It need not exist: a deleted file can be
/// diffed and added. The file itself may be a link, since git works with the link and never with what it points to.
pub(super) fn file(root: &Path, directory: &Path, file: &str) -> Result<(), ActionError> {
    if file.is_empty() {
        return Err(ActionError::invalid("a path must not be empty"));
    }
    check_words(file, "path")?;
    let path = directory.join(file);
    let mut parent = path.parent();
    while let Some(existing) = parent {
        match existing.canonicalize() {
            Ok(resolved) => return check_below(root, &resolved),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => parent = existing.parent(),
            Err(_) => break,
        }
    }
    Err(outside())
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

fn outside() -> ActionError {
    ActionError::new(403, format!("this path leads out of {ROOT_VARIABLE}"))
}
