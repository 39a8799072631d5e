//! The real `git`, started so that it asks nothing, runs nothing of a repository, and answers the same whatever the
//! configuration is.
//!
//! A submodule is a repository with a configuration of its own, which none of the settings below reaches: git clears
//! them before it runs itself in there. So every command here is one that does not (`--ignore-submodules=dirty`), and
//! `git add` leaves submodules out.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{
    failure::{self, Failed},
    leftovers::RUN_VARIABLE,
    process::{self, Finished, Limits, Times},
};
use crate::ActionError;

/// The most that is returned of what git writes; beyond it the text ends with a note.
const MAX_OUTPUT_BYTES: usize = 256 * 1024;
/// The most that is read of a list of files.
const MAX_LIST_BYTES: usize = 64 * 1024 * 1024;
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// How long a lock of another git is waited for.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// Configuration that outranks the repository's, the user's and the system's. What a file contains and what is ignored
/// stays with them (`filter.*`, `core.autocrlf`, `core.excludesFile`, attributes), as do the author and `safe.directory`.
const SETTINGS: &[&str] = &[
    // Programs.
    "commit.gpgSign=false",
    "core.alternateRefsCommand=true",
    "core.askPass=true",
    "core.editor=true",
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.pager=cat",
    "core.sshCommand=false",
    "credential.helper=",
    "gc.auto=0",
    "log.showSignature=false",
    "maintenance.auto=false",
    "protocol.allow=never",
    "rerere.enabled=false",
    "safe.bareRepository=explicit",
    "submodule.recurse=false",
    // Form of the output.
    "add.ignoreErrors=false",
    "advice.statusAheadBehind=false",
    "advice.statusHints=false",
    "advice.statusUoption=false",
    "color.diff=false",
    "color.status=false",
    "color.ui=false",
    "column.status=never",
    "column.ui=never",
    "commit.verbose=false",
    "core.abbrev=auto",
    "core.bigFileThreshold=512m",
    "core.commentChar=#",
    "core.quotePath=false",
    "core.warnAmbiguousRefs=false",
    "diff.algorithm=default",
    "diff.autoRefreshIndex=true",
    "diff.colorMoved=no",
    "diff.context=3",
    "diff.dstPrefix=b/",
    "diff.ignoreSubmodules=dirty",
    "diff.indentHeuristic=true",
    "diff.interHunkContext=0",
    "diff.mnemonicPrefix=false",
    "diff.noPrefix=false",
    "diff.orderFile=/dev/null",
    "diff.relative=false",
    "diff.renameLimit=1000",
    "diff.renames=true",
    "diff.srcPrefix=a/",
    "diff.submodule=short",
    "diff.suppressBlankEmpty=false",
    "format.pretty=medium",
    "i18n.commitEncoding=UTF-8",
    "i18n.logOutputEncoding=UTF-8",
    "log.date=default",
    "log.decorate=false",
    "log.follow=false",
    "log.mailmap=true",
    "status.aheadBehind=true",
    "status.branch=false",
    "status.displayCommentPrefix=false",
    "status.relativePaths=true",
    "status.renameLimit=1000",
    "status.renames=true",
    "status.short=false",
    "status.showStash=false",
    "status.submoduleSummary=false",
];

/// The same through the environment.
const VARIABLES: &[(&str, &str)] = &[
    ("GIT_ADVICE", "0"),
    ("GIT_ALLOW_PROTOCOL", ""),
    ("GIT_ASKPASS", "true"),
    ("GIT_EDITOR", "true"),
    ("GIT_NO_LAZY_FETCH", "1"),
    ("GIT_PAGER", "cat"),
    ("GIT_SSH_COMMAND", "false"),
    ("GIT_TERMINAL_PROMPT", "0"),
    // The user's configuration may send traces to standard error.
    ("GIT_TRACE2", "0"),
    ("GIT_TRACE2_EVENT", "0"),
    ("GIT_TRACE2_PERF", "0"),
    // Messages are matched, so they must be the untranslated ones.
    ("LC_ALL", "C"),
];

/// How to run git in one directory.
pub(super) struct Git<'a> {
    /// The directory that everything is below, without links.
    pub(super) root: PathBuf,
    /// Where git runs, at or below the root, without links.
    pub(super) directory: PathBuf,
    pub(super) environment: &'a [(OsString, OsString)],
    pub(super) times: Times,
}

/// What a successful git wrote.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) text: String,
    pub(super) truncated: bool,
    /// The warnings of its standard error.
    pub(super) warnings: Vec<String>,
}

/// What distinguishes one run from another.
struct Run {
    writes: bool,
    stdout: usize,
    settings: Vec<(String, &'static str)>,
}

impl Run {
    const fn reading(stdout: usize) -> Self {
        Self { writes: false, stdout, settings: Vec::new() }
    }
}

impl Git<'_> {
    /// The same in another directory.
    pub(super) fn in_directory(&self, directory: PathBuf) -> Self {
        Self { root: self.root.clone(), directory, environment: self.environment, times: self.times }
    }

    /// Runs a command that only reads. It takes no lock, so it never stands in the way of another git.
    pub(super) fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Output, Failed> {
        self.finish(arguments, &Run::reading(MAX_OUTPUT_BYTES)).map(|finished| output(&finished, &self.root))
    }

    /// Runs a command that lists names, each followed by a NUL.
    pub(super) fn list<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Vec<OsString>, Failed> {
        let finished = self.finish(arguments, &Run::reading(MAX_LIST_BYTES))?;
        if finished.stdout.truncated {
            let problem = "the repository has too many files to list; name fewer of them";
            return Err(Failed::Otherwise(ActionError::new(413, problem)));
        }
        let names = finished.stdout.bytes.split(|byte| *byte == 0);
        Ok(names.filter(|name| !name.is_empty()).map(|name| OsString::from_vec(name.to_vec())).collect())
    }

    /// Runs a command that writes. It waits a while for another git that holds a lock.
    pub(super) fn write<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Output, Failed> {
        let run = Run { writes: true, stdout: MAX_OUTPUT_BYTES, settings: self.without_hooks()? };
        let patience = Instant::now() + LOCK_PATIENCE;
        loop {
            match self.finish(arguments, &run) {
                Err(Failed::Locked) if Instant::now() < patience.min(self.times.stop) => pause(),
                finished => return finished.map(|finished| output(&finished, &self.root)),
            }
        }
    }

    /// Makes the agents of this machine write to a repository one after the other, for as long as the value is kept.
    pub(super) fn writing(&self, git_directory: &Path) -> Result<Option<File>, ActionError> {
        // A file system that knows no locks has none to wait for.
        let Ok(directory) = File::open(git_directory) else { return Ok(None) };
        loop {
            match directory.try_lock() {
                Ok(()) => return Ok(Some(directory)),
                Err(std::fs::TryLockError::Error(_)) => return Ok(None),
                Err(std::fs::TryLockError::WouldBlock) if Instant::now() < self.times.stop => pause(),
                Err(std::fs::TryLockError::WouldBlock) => {
                    return Err(ActionError::timeout("another request is still writing to this repository"));
                }
            }
        }
    }

    /// Settings that switch off hooks which the configuration defines. `core.hooksPath` does not concern them.
    fn without_hooks(&self) -> Result<Vec<(String, &'static str)>, Failed> {
        let names = match self.list(&["config", "--null", "--name-only", "--get-regexp", r"^hook\."]) {
            Err(Failed::Silent) => return Ok(Vec::new()),
            names => names?,
        };
        let hooks = names.iter().filter_map(|name| Some(name.to_str()?.rsplit_once('.')?.0));
        Ok(hooks
            .flat_map(|hook| [(format!("{hook}.enabled"), "false"), (format!("{hook}.command"), "true")])
            .collect())
    }

    fn finish<S: AsRef<OsStr>>(&self, arguments: &[S], run: &Run) -> Result<Finished, Failed> {
        let mark = Uuid::new_v4().to_string();
        let mut command = self.command(arguments, run);
        command.env(RUN_VARIABLE, &mark);
        let limits = Limits { stdout: run.stdout, stderr: MAX_ERROR_BYTES };
        let finished = process::run(&mut command, &mark, limits, self.times)
            .map_err(|problem| Failed::Otherwise(failure::not_started(&problem)))?
            .ok_or_else(|| Failed::Otherwise(ActionError::timeout("git did not finish in time")))?;
        // A git whose output was cut short ends as it likes.
        if finished.status.success() || finished.stdout.truncated {
            return Ok(finished);
        }
        Err(failure::explain(&finished, self))
    }

    /// The process stays in the agent's process group, so that whatever ends the agent ends git with it.
    fn command<S: AsRef<OsStr>>(&self, arguments: &[S], run: &Run) -> Command {
        let mut command = Command::new("git");
        command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.envs(VARIABLES.iter().copied());
        if !run.writes {
            command.env("GIT_OPTIONAL_LOCKS", "0");
        }
        // A search for the repository that starts below the root does not go on above it.
        command.env("GIT_CEILING_DIRECTORIES", self.root.parent().unwrap_or(&self.root));
        // Names of hooks may hold `=`, which `-c` does not take.
        command.env("GIT_CONFIG_COUNT", run.settings.len().to_string());
        for (index, (name, value)) in run.settings.iter().enumerate() {
            command
                .env(format!("GIT_CONFIG_KEY_{index}"), name)
                .env(format!("GIT_CONFIG_VALUE_{index}"), value);
        }
        command.arg("--no-pager").arg("-C").arg(&self.directory);
        command.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        command.args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

fn output(finished: &Finished, root: &Path) -> Output {
    let mut text = String::from_utf8_lossy(&finished.stdout.bytes).into_owned();
    let truncated = finished.stdout.truncated;
    if truncated {
        text.push_str(&format!("\n[truncated: only the first {MAX_OUTPUT_BYTES} bytes are shown]"));
    }
    let warnings = failure::warnings(&String::from_utf8_lossy(&finished.stderr.bytes), root);
    Output { text, truncated, warnings }
}

#[expect(clippy::disallowed_methods, reason = "an agent has no runtime")]
fn pause() {
    std::thread::sleep(PAUSE);
}
