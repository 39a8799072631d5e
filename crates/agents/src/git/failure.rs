//! What a git that failed means to the caller.
//!
//! A git that says no is the caller's business, whatever its reason: a 4xx with that reason, which is not tried again
//! and says nothing against the agent. Only a git that can't run is a 5xx.

use std::{io, os::unix::process::ExitStatusExt, path::Path};

use super::{ROOT_SETTINGS, command::Git, process::Finished, quoted};
use crate::{ActionError, protocol::shortened};

/// Why git gave no output. Cases that a caller of [`Git`] may treat as success have names.
#[derive(Debug)]
pub(super) enum Failed {
    NoCommits,
    NothingStaged,
    /// Another git holds a lock.
    Locked,
    /// It said nothing: how commands answer that look for something.
    Silent,
    Otherwise(ActionError),
}

impl Failed {
    /// The failure as it is when no caller treats it as success.
    pub(super) fn into_error(self) -> ActionError {
        match self {
            Self::NoCommits => ActionError::new(404, "the repository has no commits yet"),
            Self::NothingStaged => {
                ActionError::new(409, "there is nothing to commit: stage files with git_add first")
            }
            Self::Locked => ActionError::new(
                409,
                "another git is writing to this repository, or died while it did; remove its lock file, such as \
                 .git/index.lock, if no git is running",
            ),
            Self::Silent => ActionError::invalid("git refused and gave no reason"),
            Self::Otherwise(error) => error,
        }
    }
}

/// Complaints of a git that can't run, whatever it was asked for.
const CANNOT_RUN: &[&str] = &[
    "Cannot allocate memory",
    "No space left on device",
    "Out of memory",
    "Resource temporarily unavailable",
    "Too many open files in system",
    "out of memory",
];

/// Complaints about permission. A lock that can't be created for this reason is held by no other git.
const NOT_PERMITTED: &[&str] =
    &["Operation not permitted", "Permission denied", "Read-only file system", "insufficient permission"];

/// How many of the names that follow a complaint are repeated.
const MAX_SUBJECTS: usize = 5;
const MAX_WARNINGS: usize = 20;

const NO_AUTHOR: &str = "git does not know who commits; set user.name and user.email in git's configuration";

/// What git complains with, and what that means to the caller.
const KNOWN_FAILURES: &[(&str, u16, &str)] = &[
    ("must be run in a work tree", 404, "this is the inside of a git directory, not a work tree"),
    (
        "dubious ownership",
        403,
        "git refuses this repository because another user owns it; see git's safe.directory",
    ),
    ("did not match any files", 404, "no such file in the repository"),
    ("beyond a symbolic link", 400, "a path leads through a symbolic link, which git does not follow"),
    ("tell me who you are", 400, NO_AUTHOR),
    ("empty ident name", 400, NO_AUTHOR),
    ("no email was given", 400, NO_AUTHOR),
    ("no name was given", 400, NO_AUTHOR),
    ("unmerged files", 409, "a merge is unfinished; resolve its conflicts first"),
];

/// The failure in the caller's terms.
pub(super) fn explain(finished: &Finished, git: &Git<'_>) -> Failed {
    if let Some(signal) = finished.status.signal() {
        return Failed::Otherwise(ActionError::internal(format!("git was ended by signal {signal}")));
    }
    let stderr = String::from_utf8_lossy(&finished.stderr.bytes);
    // A warning is no reason to fail.
    let stderr: String = stderr
        .lines()
        .filter(|line| !line.starts_with("warning: "))
        .map(|line| format!("{line}\n"))
        .collect();
    let stdout = String::from_utf8_lossy(&finished.stdout.bytes);
    let says = |words: &str| stderr.contains(words);
    let reason = || reason(&stderr, &git.root);
    let error = if CANNOT_RUN.iter().any(|words| says(words)) {
        ActionError::internal(format!("git can't run: {}", reason()))
    } else if NOT_PERMITTED.iter().any(|words| says(words)) {
        let reason = reason();
        ActionError::new(403, format!("the agent's user has no permission for this repository: {reason}"))
    } else if says(".lock': File exists") {
        return Failed::Locked;
    } else if says("does not have any commits yet") {
        return Failed::NoCommits;
    } else if ["nothing to commit", "nothing added to commit", "no changes added to commit"]
        .iter()
        .any(|end| stdout.contains(end))
    {
        return Failed::NothingStaged;
    } else if stderr.is_empty() {
        return Failed::Silent;
    } else if says("not a git repository") {
        no_repository(git)
    } else if let Some((_, code, message)) = KNOWN_FAILURES.iter().find(|(words, ..)| says(words)) {
        ActionError::new(*code, *message)
    } else {
        ActionError::invalid(format!("git refused: {}", reason()))
    };
    Failed::Otherwise(error)
}

/// The search for a repository ended at the root.
fn no_repository(git: &Git<'_>) -> ActionError {
    let root = git.root.display();
    let below =
        git.directory.strip_prefix(&git.root).ok().and_then(Path::to_str).filter(|below| !below.is_empty());
    let place = below.map(|below| format!("{} below ", quoted(below))).unwrap_or_default();
    ActionError::new(404, format!("there is no git repository at {place}`{root}`; {ROOT_SETTINGS}"))
}

/// Git's own first complaint, without the places on this machine that it names.
fn reason(stderr: &str, root: &Path) -> String {
    let mut lines = stderr.lines();
    let complaint =
        lines.find_map(|line| line.strip_prefix("fatal: ").or_else(|| line.strip_prefix("error: ")));
    // What it is about may follow on lines of their own.
    let subjects = lines.take_while(|line| line.starts_with('\t')).take(MAX_SUBJECTS);
    let complaint = match complaint {
        Some(complaint) => {
            [complaint].into_iter().chain(subjects.map(str::trim)).collect::<Vec<_>>().join(" ")
        }
        None => stderr.lines().next().unwrap_or("it did not say why").to_owned(),
    };
    presentable(&complaint, root)
}

/// The warnings among what git wrote to its standard error.
pub(super) fn warnings(stderr: &str, root: &Path) -> Vec<String> {
    let warnings = stderr.lines().filter(|line| line.starts_with("warning: "));
    warnings.take(MAX_WARNINGS).map(|warning| presentable(warning, root)).collect()
}

/// Git's words as they may be passed on.
fn presentable(words: &str, root: &Path) -> String {
    let words = words.replace(":(literal)", "").replace(&*root.to_string_lossy(), ".");
    let words: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    shortened(&without_paths(&words), 240)
}

/// `text` without absolute paths: quoted ones as a whole, others up to the next space.
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

/// Why git could not be started.
pub(super) fn not_started(problem: &io::Error) -> ActionError {
    match problem.kind() {
        io::ErrorKind::NotFound => {
            ActionError::internal("git is not installed, or not on the PATH, where the agent runs")
        }
        kind => ActionError::internal(format!("git could not be started: {kind}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_name_no_path_of_this_machine() {
        for (said, reason_given) in [
            ("fatal: cannot open '/home/a b/x': Denied\n", "cannot open '[path]': Denied"),
            ("error: bad file /root/repo/.git/config line 1", "bad file ./.git/config line 1"),
            ("error: open(\"/x/y\"): Denied", "open(\"[path]\"): Denied"),
            ("fatal: pathspec ':(literal)a/b' is odd", "pathspec 'a/b' is odd"),
            ("hint: x\nfatal: a\u{1b}[31mb", "a [31mb"),
            ("fatal: unknown extension:\n\todd\n\teven\nhint: x", "unknown extension: odd even"),
            ("odd words", "odd words"),
            ("", "it did not say why"),
        ] {
            assert_eq!(reason(said, Path::new("/root/repo")), reason_given);
        }
    }
}
