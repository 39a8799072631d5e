//! The installed `git`, started so that it never prompts, runs no program that a repository names, and behaves the same
//! under every configuration.
//!
//! A submodule is a repository with its own configuration, which none of the settings below reaches: git clears them
//! before it runs itself in the submodule. So every command here avoids that (`--ignore-submodules=dirty`), and `git add`
//! excludes submodules.

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
    cleanup::RUN_VARIABLE,
    failure::{self, GitFailure},
    process::{self, Deadlines, Finished, Limits},
};
use crate::protocol::ActionError;

/// Most bytes of git's output that are returned; a note follows truncated output.
const MAX_OUTPUT_BYTES: usize = 256 * 1024;
/// Most bytes of a list of files.
const MAX_LIST_BYTES: usize = 64 * 1024 * 1024;
const MAX_ERROR_BYTES: usize = 64 * 1024;

/// Time that a command waits for the lock of another git.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Settings that override the repository's, the user's and the system's configuration. Content filters, ignore rules
/// (`filter.*`, `core.autocrlf`, `core.excludesFile`, attributes), the author and `safe.directory` stay configurable.
const SETTINGS: &[&str] = &[
    // Programs that git would run, in the background too: a run that is over must leave no process behind.
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
    // Format of the output.
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

/// Environment variables with the same purpose.
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
    // Messages are matched, so they must be untranslated.
    ("LC_ALL", "C"),
];

/// A directory and the environment to run git in.
pub(super) struct Git<'a> {
    /// The root directory, links resolved.
    pub(super) root: PathBuf,
    /// The directory that git runs in, at or below the root, links resolved.
    pub(super) directory: PathBuf,
    pub(super) environment: &'a [(OsString, OsString)],
    pub(super) deadlines: Deadlines,
}

/// Output of a successful git.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) text: String,
    pub(super) truncated: bool,
    /// Warnings on its standard error.
    pub(super) warnings: Vec<String>,
}

/// Options of one run.
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
    /// The same git in another directory.
    pub(super) fn in_directory(&self, directory: PathBuf) -> Self {
        Self { root: self.root.clone(), directory, environment: self.environment, deadlines: self.deadlines }
    }

    /// Runs a command that only reads. It takes no lock, so it never blocks another git.
    pub(super) fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Output, GitFailure> {
        self.finish(arguments, &Run::reading(MAX_OUTPUT_BYTES)).map(|finished| output(&finished, &self.root))
    }

    /// Runs a command that lists names, each followed by a NUL.
    pub(super) fn list<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Vec<OsString>, GitFailure> {
        let finished = self.finish(arguments, &Run::reading(MAX_LIST_BYTES))?;
        if finished.stdout.truncated {
            let problem = "the repository has too many files to list; name fewer of them";
            return Err(GitFailure::Error(ActionError::new(413, problem)));
        }
        let names = finished.stdout.bytes.split(|byte| *byte == 0);
        Ok(names.filter(|name| !name.is_empty()).map(|name| OsString::from_vec(name.to_vec())).collect())
    }

    /// Runs a command that writes. It waits up to [`LOCK_TIMEOUT`] for another git that holds a lock.
    pub(super) fn write<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Output, GitFailure> {
        let run = Run { writes: true, stdout: MAX_OUTPUT_BYTES, settings: self.without_hooks()? };
        let wait_until = (Instant::now() + LOCK_TIMEOUT).min(self.deadlines.stop);
        loop {
            match self.finish(arguments, &run) {
                Err(GitFailure::Locked) if Instant::now() < wait_until => pause(),
                finished => return finished.map(|finished| output(&finished, &self.root)),
            }
        }
    }

    /// Serializes the writes of this machine's agents to a repository, until the returned value is dropped.
    pub(super) fn lock_writes(&self, git_directory: &Path) -> Result<Option<File>, ActionError> {
        // A file system without locks has none to wait for.
        let Ok(directory) = File::open(git_directory) else { return Ok(None) };
        loop {
            match directory.try_lock() {
                Ok(()) => return Ok(Some(directory)),
                Err(std::fs::TryLockError::Error(_)) => return Ok(None),
                Err(std::fs::TryLockError::WouldBlock) if Instant::now() < self.deadlines.stop => pause(),
                Err(std::fs::TryLockError::WouldBlock) => {
                    let message = "another request is still writing to this repository; retry later";
                    return Err(ActionError::timeout(message));
                }
            }
        }
    }

    /// Settings that disable hooks defined in the configuration, which `core.hooksPath` does not cover.
    fn without_hooks(&self) -> Result<Vec<(String, &'static str)>, GitFailure> {
        let names = match self.list(&["config", "--null", "--name-only", "--get-regexp", r"^hook\."]) {
            Err(GitFailure::Silent) => return Ok(Vec::new()),
            names => names?,
        };
        let hooks = names.iter().filter_map(|name| Some(name.to_str()?.rsplit_once('.')?.0));
        Ok(hooks
            .flat_map(|hook| [(format!("{hook}.enabled"), "false"), (format!("{hook}.command"), "true")])
            .collect())
    }

    fn finish<S: AsRef<OsStr>>(&self, arguments: &[S], run: &Run) -> Result<Finished, GitFailure> {
        let run_id = Uuid::new_v4().to_string();
        let mut command = self.command(arguments, run);
        command.env(RUN_VARIABLE, &run_id);
        let limits = Limits { stdout: run.stdout, stderr: MAX_ERROR_BYTES };
        let finished = process::run(&mut command, &run_id, limits, self.deadlines)
            .map_err(|problem| GitFailure::Error(failure::not_started(&problem)))?
            .ok_or_else(|| GitFailure::Error(ActionError::timeout("git did not finish in time")))?;
        // A git whose output was truncated may fail because of that.
        if finished.status.success() || finished.stdout.truncated {
            return Ok(finished);
        }
        Err(failure::explain(&finished, &self.root, &self.directory))
    }

    /// The process stays in the agent's process group, so that it ends with the agent.
    fn command<S: AsRef<OsStr>>(&self, arguments: &[S], run: &Run) -> Command {
        let mut command = Command::new("git");
        command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.envs(VARIABLES.iter().copied());
        if !run.writes {
            command.env("GIT_OPTIONAL_LOCKS", "0");
        }
        // The search for a repository does not leave the root.
        command.env("GIT_CEILING_DIRECTORIES", self.root.parent().unwrap_or(&self.root));
        // Passed as variables, because names of hooks may contain `=`, which `-c` does not accept.
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
    std::thread::sleep(LOCK_POLL_INTERVAL);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Contents whose object ids begin with 17: git estimates the number of loose objects by those.
    const COUNTED: [&str; 2] = ["32", "119"];

    /// A repository whose configuration makes every automatic garbage collection pack its objects.
    fn repository(root: &Path) {
        let git = |arguments: &[&str]| {
            let author = ["-c", "user.name=t", "-c", "user.email=t@t.example"];
            let done = Command::new("git").current_dir(root).args(author).args(arguments).output().unwrap();
            assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        };
        git(&["init", "--quiet"]);
        git(&["config", "gc.auto", "1"]);
        git(&["config", "gc.autoDetach", "false"]);
        for content in COUNTED {
            std::fs::write(root.join(content), content).unwrap();
        }
        git(&["add", "."]);
        git(&["-c", "maintenance.auto=false", "-c", "gc.auto=0", "commit", "--quiet", "--message", "first"]);
    }

    fn packs(root: &Path) -> usize {
        std::fs::read_dir(root.join(".git/objects/pack")).map_or(0, Iterator::count)
    }

    /// Versions of git before 2.29 collect after a commit without regard to `maintenance.auto`.
    #[test]
    fn automatic_garbage_collection_of_a_repository_is_disabled() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        repository(&root);
        let environment = [("PATH", std::env::var_os("PATH").unwrap()), ("HOME", root.clone().into())];
        let environment = environment.map(|(name, value)| (OsString::from(name), value));
        let stop = Instant::now() + Duration::from_secs(60);
        let deadlines = Deadlines { stop, kill: stop };
        let git = Git { root: root.clone(), directory: root.clone(), environment: &environment, deadlines };
        git.write(&["gc", "--auto"]).unwrap();
        assert_eq!(packs(&root), 0);
        let plain =
            Command::new("git").current_dir(&root).args(["gc", "--auto", "--quiet"]).status().unwrap();
        assert!(plain.success());
        assert!(packs(&root) > 0, "the check itself must be able to fail");
    }
}
