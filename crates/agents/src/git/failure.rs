//! Translation of git's failures into errors of the agent.
//!
//! A git that rejects a request is a 4xx with git's reason, which is final and no evidence against the agent. Only a git
//! that cannot run is a 5xx.

use std::{io, os::unix::process::ExitStatusExt, path::Path};

use super::{
    process::Finished,
    settings::{ROOT_HINT, quoted},
};
use crate::protocol::{ActionError, shortened};

/// Reason why git gave no output. Cases that a caller may treat as success are variants of their own.
#[derive(Debug)]
pub(super) enum GitFailure {
    NoCommits,
    NothingStaged,
    /// Another git holds a lock.
    Locked,
    /// Git failed without a message, as commands do that find nothing.
    Silent,
    /// Any other failure.
    Error(ActionError),
}

impl GitFailure {
    /// The error when no caller treats the failure as success.
    pub(super) fn into_error(self) -> ActionError {
        match self {
            Self::NoCommits => ActionError::new(404, "the repository has no commits yet"),
            Self::NothingStaged => {
                ActionError::new(409, "there is nothing to commit: stage files with git_add first")
            }
            Self::Locked => ActionError::new(
                409,
                "another git is writing to this repository, or crashed while it did; if no git is running, remove its lock file, \
                         such as .git/index.lock",
            ),
            Self::Silent => ActionError::invalid("git failed without giving a reason"),
            Self::Error(error) => error,
        }
    }
}

/// Messages of a git that cannot run, for any request.
const CANNOT_RUN: &[&str] = &[
    "Cannot allocate memory",
    "No space left on device",
    "Out of memory",
    "Resource temporarily unavailable",
    "Too many open files in system",
    "out of memory",
];

/// Messages about permissions. A lock that cannot be created for this reason is held by no other git.
const NOT_PERMITTED: &[&str] =
    &["Operation not permitted", "Permission denied", "Read-only file system", "insufficient permission"];

/// Most lines that are quoted after a message.
const MAX_SUBJECTS: usize = 5;
const MAX_WARNINGS: usize = 20;

const NO_AUTHOR: &str = "git has no author identity; set user.name and user.email in git's configuration";

/// Messages of git, with the code and message of the error.
const KNOWN_FAILURES: &[(&str, u16, &str)] = &[
    ("must be run in a work tree", 404, "this is a git directory, not a work tree"),
    (
        "dubious ownership",
        403,
        "git refuses this repository because another user owns it; see git's safe.directory",
    ),
    ("beyond a symbolic link", 400, "a path leads through a symbolic link, which git does not follow"),
    ("tell me who you are", 400, NO_AUTHOR),
    ("empty ident name", 400, NO_AUTHOR),
    ("no email was given", 400, NO_AUTHOR),
    ("no name was given", 400, NO_AUTHOR),
    ("unmerged files", 409, "a merge is unfinished; resolve its conflicts first"),
];

/// The failure behind a git that ended with an error in `directory`.
pub(super) fn explain(finished: &Finished, root: &Path, directory: &Path) -> GitFailure {
    if let Some(signal) = finished.status.signal() {
        return GitFailure::Error(ActionError::internal(format!("git was ended by signal {signal}")));
    }
    let stderr = String::from_utf8_lossy(&finished.stderr.bytes);
    // Warnings are not the reason of a failure.
    let stderr: String = stderr
        .lines()
        .filter(|line| !line.starts_with("warning: "))
        .map(|line| format!("{line}\n"))
        .collect();
    let stdout = String::from_utf8_lossy(&finished.stdout.bytes);
    let says = |words: &str| stderr.contains(words);
    let reason = || reason(&stderr, root);
    let error = if CANNOT_RUN.iter().any(|words| says(words)) {
        ActionError::internal(format!("git cannot run: {}", reason()))
    } else if NOT_PERMITTED.iter().any(|words| says(words)) {
        let reason = reason();
        ActionError::new(403, format!("the agent's user lacks permission for this repository: {reason}"))
    } else if says(".lock': File exists") {
        return GitFailure::Locked;
    } else if says("does not have any commits yet") {
        return GitFailure::NoCommits;
    } else if ["nothing to commit", "nothing added to commit", "no changes added to commit"]
        .iter()
        .any(|end| stdout.contains(end))
    {
        return GitFailure::NothingStaged;
    } else if stderr.is_empty() {
        return GitFailure::Silent;
    } else if says("not a git repository") {
        no_repository(root, directory)
    } else if says("did not match any files") {
        ActionError::new(404, format!("no such file in the repository: {}", reason()))
    } else if let Some((_, code, message)) = KNOWN_FAILURES.iter().find(|(words, ..)| says(words)) {
        ActionError::new(*code, *message)
    } else {
        ActionError::invalid(format!("git refused: {}", reason()))
    };
    GitFailure::Error(error)
}

/// The error of a search for a repository that ended at the root.
fn no_repository(root: &Path, directory: &Path) -> ActionError {
    let below = directory.strip_prefix(root).ok().and_then(Path::to_str).filter(|below| !below.is_empty());
    let below = below.map(|below| format!("{} below ", quoted(below))).unwrap_or_default();
    ActionError::new(404, format!("there is no git repository at {below}`{}`; {ROOT_HINT}", root.display()))
}

/// Git's first error message, without paths of this machine.
fn reason(stderr: &str, root: &Path) -> String {
    let mut lines = stderr.lines();
    let message =
        lines.find_map(|line| line.strip_prefix("fatal: ").or_else(|| line.strip_prefix("error: ")));
    // Names that the message is about may follow on lines of their own.
    let subjects = lines.take_while(|line| line.starts_with('\t')).take(MAX_SUBJECTS);
    let message = match message {
        Some(message) => [message].into_iter().chain(subjects.map(str::trim)).collect::<Vec<_>>().join(" "),
        None => stderr.lines().next().unwrap_or("no reason given").to_owned(),
    };
    presentable(&message, root)
}

/// Warnings in git's standard error.
pub(super) fn warnings(stderr: &str, root: &Path) -> Vec<String> {
    let warnings = stderr.lines().filter(|line| line.starts_with("warning: "));
    warnings.take(MAX_WARNINGS).map(|warning| presentable(warning, root)).collect()
}

/// Git's message in a form that may be passed on.
fn presentable(message: &str, root: &Path) -> String {
    let message = message.replace(":(literal)", "").replace(&*root.to_string_lossy(), ".");
    let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    shortened(&without_paths(&message), 240)
}

/// `text` without absolute paths: quoted paths entirely, others up to the next space.
fn without_paths(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('/') {
        let (before, path) = rest.split_at(start);
        let opening = before.chars().next_back();
        if opening.is_some_and(|c| !c.is_whitespace() && !"'\"`(=:".contains(c)) {
            kept.push_str(before);
            kept.push('/');
            rest = &path[1..];
            continue;
        }
        let closing = opening.filter(|c| "'\"`".contains(*c));
        let end = path.find(|c: char| closing.map_or(c.is_whitespace(), |closing| c == closing));
        kept.push_str(before);
        kept.push_str("[path]");
        rest = &path[end.unwrap_or(path.len())..];
    }
    kept + rest
}

/// The error of a git that could not be started.
pub(super) fn not_started(problem: &io::Error) -> ActionError {
    match problem.kind() {
        io::ErrorKind::NotFound => {
            ActionError::internal("git is not installed, or not on the PATH of the agent")
        }
        kind => ActionError::internal(format!("git could not be started: {kind}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_contain_no_path_of_this_machine() {
        for (said, reason_given) in [
            ("fatal: cannot open '/home/a b/x': Denied\n", "cannot open '[path]': Denied"),
            ("error: bad file /root/repo/.git/config line 1", "bad file ./.git/config line 1"),
            ("error: open(\"/x/y\"): Denied", "open(\"[path]\"): Denied"),
            ("fatal: pathspec ':(literal)a/b' is odd", "pathspec 'a/b' is odd"),
            ("hint: x\nfatal: a\u{1b}[31mb", "a [31mb"),
            ("fatal: unknown extension:\n\todd\n\teven\nhint: x", "unknown extension: odd even"),
            ("odd words", "odd words"),
            ("", "no reason given"),
        ] {
            assert_eq!(reason(said, Path::new("/root/repo")), reason_given);
        }
    }
}
