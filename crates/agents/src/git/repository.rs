//! A repository below the root, and the actions on it.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    path::{Path, PathBuf},
};

use phoenix_domain::action::ActionResult;

use super::{
    command::{Git, Output},
    failure::GitFailure,
    paths::{self, FilePath},
    secrets::holds_secrets,
    settings::quoted,
};
use crate::protocol::ActionError;

/// Longest commit message.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// Parts of a git directory; each may be a link.
const INNER_PATHS: &[&str] = &[
    "--git-path",
    "objects",
    "--git-path",
    "refs",
    "--git-path",
    "packed-refs",
    "--git-path",
    "HEAD",
    "--git-path",
    "index",
    "--git-path",
    "config",
    "--git-path",
    "logs",
];

/// A repository whose work tree and git directories are below the root.
pub(super) struct Repository<'a> {
    pub(super) git: Git<'a>,
    pub(super) top: PathBuf,
    common_directory: PathBuf,
}

impl<'a> Repository<'a> {
    /// Opens the repository that contains the directory of `git`.
    pub(super) fn open(git: Git<'a>) -> Result<Self, ActionError> {
        let questions = ["rev-parse", "--show-toplevel", "--absolute-git-dir", "--git-common-dir"];
        let answer = git.run(&[&questions[..], INNER_PATHS].concat()).map_err(GitFailure::into_error)?.text;
        let mut answers =
            answer.trim_end_matches('\n').split('\n').map(|path| git.directory.join(path).canonicalize());
        let (Some(Ok(top)), Some(Ok(git_directory)), Some(Ok(common_directory))) =
            (answers.next(), answers.next(), answers.next())
        else {
            return Err(ActionError::invalid(
                "the git directory of this repository cannot be found; run `git rev-parse --git-dir` there",
            ));
        };
        paths::check_below(&git.root, &top)?;
        let is_root = top == git.root;
        let is_elsewhere = is_root && names_work_tree(&git_directory, &common_directory, &top);
        // A part that does not exist leads nowhere.
        let mut inner = answers.filter_map(Result::ok).chain([git_directory, common_directory.clone()]);
        let home =
            |path: &Path| path.starts_with(&git.root) || is_elsewhere && path.starts_with(&common_directory);
        if !inner.all(|path| home(&path)) {
            return Err(paths::outside());
        }
        // The operator decides from where a repository at the root borrows objects.
        if !is_root {
            check_alternates(&git.root, &common_directory.join("objects"))?;
        }
        Ok(Self { git, top, common_directory })
    }

    pub(super) fn status(&self) -> Result<ActionResult, ActionError> {
        let arguments = [
            "status",
            "--long",
            "--untracked-files=normal",
            "--ignore-submodules=dirty",
            "--no-column",
            "--find-renames",
        ];
        Ok(text(self.git.run(&arguments).map_err(GitFailure::into_error)?, ""))
    }

    /// The difference, without the contents of files that hold secrets; they are named at its end.
    pub(super) fn diff(&self, path: Option<&str>, staged: bool) -> Result<ActionResult, ActionError> {
        let mut arguments: Vec<OsString> = [
            "diff",
            "--no-color",
            "--no-ext-diff",
            "--no-textconv",
            "--ignore-submodules=dirty",
            "--submodule=short",
        ]
        .map(Into::into)
        .into();
        arguments.extend(staged.then(|| "--cached".into()));
        let paths = self.readable_path(path)?;
        let mut names = arguments.clone();
        names.extend(["--name-only", "--no-renames", "-z", "--"].map(Into::into));
        names.extend(paths.clone());
        let hidden = self.git.list(&names).map_err(GitFailure::into_error)?;
        let hidden: Vec<OsString> = hidden.into_iter().filter(|name| is_secret(name)).collect();
        arguments.push("--".into());
        arguments.extend(paths);
        arguments.extend(hidden.iter().map(|name| excluded(name)));
        let mut output = self.git.run(&arguments).map_err(GitFailure::into_error)?;
        for name in hidden {
            output.text.push_str(&format!("[{} is not shown: it may contain secrets]\n", shown(&name)));
        }
        Ok(text(output, if staged { "Nothing is staged." } else { "No unstaged changes to tracked files." }))
    }

    pub(super) fn log(&self, limit: usize, path: Option<&str>) -> Result<ActionResult, ActionError> {
        let mut arguments: Vec<OsString> = [
            "log",
            "--no-color",
            "--no-decorate",
            "--no-notes",
            "--no-show-signature",
            "--no-patch",
            "--encoding=UTF-8",
            "--date=short",
            "--format=%h %ad %an: %s",
        ]
        .map(Into::into)
        .into();
        arguments.push(format!("--max-count={limit}").into());
        arguments.push("--".into());
        arguments.extend(self.readable_path(path)?);
        match self.git.run(&arguments) {
            Err(GitFailure::NoCommits) => Ok(ActionResult::text("No commits yet.")),
            output => Ok(text(output.map_err(GitFailure::into_error)?, "No commits.")),
        }
    }

    /// Commits the staged changes. A retry that finds nothing staged, and its own message on the last commit, succeeds: the
    /// first attempt committed and its answer was lost.
    pub(super) fn commit(&self, message: &str, repeated: bool) -> Result<ActionResult, ActionError> {
        if message.trim().is_empty() || message.len() > MAX_MESSAGE_BYTES {
            let problem =
                format!("`payload.message` must be 1 to {MAX_MESSAGE_BYTES} bytes long and not blank");
            return Err(ActionError::invalid(problem));
        }
        let _lock = self.lock_writes()?;
        let output = match self.commit_staged(message) {
            Err(GitFailure::NothingStaged) if repeated && self.last_message()?.trim() == message.trim() => {
                Output {
                    text: "Committed by an earlier attempt.".into(),
                    truncated: false,
                    warnings: Vec::new(),
                }
            }
            committed => committed.map_err(GitFailure::into_error)?,
        };
        let hash = self.git.run(&["rev-parse", "HEAD"]).map_err(GitFailure::into_error)?.text;
        let mut result = text(output, "");
        result.metadata.insert("commit".into(), hash.trim().into());
        Ok(result)
    }

    /// Commits the staged changes after a check of them: a commit of nothing would read the work trees of submodules.
    fn commit_staged(&self, message: &str) -> Result<Output, GitFailure> {
        let staged = self.git.list(&[
            "diff",
            "--cached",
            "--no-ext-diff",
            "--no-textconv",
            "--ignore-submodules=dirty",
            "--name-status",
            "--no-renames",
            "-z",
            "--",
        ])?;
        // A status and a name, alternating.
        let secret = staged.chunks_exact(2).find(|change| change[0] != "D" && is_secret(&change[1]));
        if let Some([_, name]) = secret {
            let problem = format!("{} is staged and may contain secrets; unstage it with git", shown(name));
            return Err(GitFailure::Error(ActionError::new(403, problem)));
        }
        if staged.is_empty() {
            match self.git.run(&["rev-parse", "--quiet", "--verify", "MERGE_HEAD"]) {
                Err(GitFailure::Silent) => return Err(GitFailure::NothingStaged),
                merging => merging?,
            };
        }
        let argument = format!("--message={message}");
        let commit = [
            "commit",
            "--no-verify",
            "--no-gpg-sign",
            "--no-edit",
            "--no-status",
            "--cleanup=whitespace",
            &argument,
        ];
        self.git.write(&commit)
    }

    fn last_message(&self) -> Result<String, ActionError> {
        let last =
            ["log", "--no-show-signature", "--no-patch", "--encoding=UTF-8", "--max-count=1", "--format=%B"];
        match self.git.run(&last) {
            Err(GitFailure::NoCommits) => Ok(String::new()),
            output => Ok(output.map_err(GitFailure::into_error)?.text),
        }
    }

    /// Excludes writes of other agents to the repository until the returned value is dropped.
    pub(super) fn lock_writes(&self) -> Result<Option<File>, ActionError> {
        self.git.lock_writes(&self.common_directory)
    }

    /// A path to show, as arguments of git.
    fn readable_path(&self, path: Option<&str>) -> Result<Vec<OsString>, ActionError> {
        let Some(path) = path else { return Ok(Vec::new()) };
        let file = self.path(path)?;
        if holds_secrets(path) {
            let problem = format!("{} may contain secrets; the git agent does not show it", quoted(path));
            return Err(ActionError::new(403, problem));
        }
        Ok(vec![file.pathspec().into()])
    }

    /// A path that belongs to this repository, and not to another one inside its work tree.
    pub(super) fn path(&self, path: &str) -> Result<FilePath, ActionError> {
        let file = paths::file(&self.git.root, &self.git.directory, path)?;
        let between = file.absolute.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.top));
        for folder in between.filter(|folder| *folder != self.top) {
            let Ok(marker) = folder.join(".git").symlink_metadata() else { continue };
            let inner = self.git.in_directory(folder.to_path_buf());
            let top = inner.run(&["rev-parse", "--show-toplevel"]);
            if top.is_ok_and(|top| Path::new(top.text.trim_end_matches('\n')) == folder) {
                let kind = if marker.is_file() { "submodule" } else { "the nested repository" };
                let name = quoted(&folder.strip_prefix(&self.git.root).unwrap_or(folder).to_string_lossy());
                let path = quoted(path);
                return Err(ActionError::invalid(format!(
                    "path {path} is in {kind} {name}; pass that one as `repo`"
                )));
            }
        }
        Ok(file)
    }
}

/// Whether git directories outside the root are those of a linked work tree or a submodule whose work tree is the root.
/// Both name their work tree, so the operator created them for it. A `.git` file alone may name any repository.
fn names_work_tree(git_directory: &Path, common: &Path, top: &Path) -> bool {
    if !git_directory.starts_with(common) {
        return false;
    }
    let back = |file: &str| fs::read_to_string(git_directory.join(file)).unwrap_or_default();
    let is_top = |path: PathBuf| path.canonicalize().is_ok_and(|path| path == top);
    if git_directory == common {
        let configured = back("config");
        let work_tree = configured.lines().find_map(|line| line.trim().strip_prefix("worktree = "));
        return work_tree.is_some_and(|path| is_top(git_directory.join(path.trim_matches('"'))));
    }
    back("gitdir").trim_end().strip_suffix("/.git").is_some_and(|path| is_top(git_directory.join(path)))
}

/// Checks that a repository borrows no objects from outside the root.
fn check_alternates(root: &Path, objects: &Path) -> Result<(), ActionError> {
    let mut open = vec![objects.to_path_buf()];
    let mut seen = Vec::new();
    while let Some(objects) = open.pop().filter(|objects| !seen.contains(objects)) {
        for line in fs::read_to_string(objects.join("info/alternates")).unwrap_or_default().lines() {
            // A missing directory provides no objects. Git writes unusual names in quotes.
            let Ok(borrowed) = objects.join(line.trim_matches('"')).canonicalize() else { continue };
            paths::check_below(root, &borrowed)?;
            open.push(borrowed);
        }
        seen.push(objects);
    }
    Ok(())
}

/// A pathspec that excludes a file, named relative to the top of the work tree.
pub(super) fn excluded(name: &OsStr) -> OsString {
    let mut argument = OsString::from(":(exclude,top,literal)");
    argument.push(name);
    argument
}

pub(super) fn is_secret(name: &OsStr) -> bool {
    holds_secrets(&name.to_string_lossy())
}

/// A file's name in a form that a message may quote.
pub(super) fn shown(name: &OsStr) -> String {
    quoted(&name.to_string_lossy())
}

/// The output of git, or `if_empty` when there is none.
pub(super) fn text(output: Output, if_empty: &str) -> ActionResult {
    let text = if output.text.trim().is_empty() { if_empty } else { output.text.trim_end_matches('\n') };
    let mut result = ActionResult::text(text);
    result.metadata.insert("truncated".into(), output.truncated.into());
    result
}
