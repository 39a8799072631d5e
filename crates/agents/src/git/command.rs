//! The real `git`, started so that it asks nobody, pages nothing, runs no hook, and ends in time.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Read},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::Instant,
};

use crate::{ActionError, protocol::shortened};

/// The most that is returned of what git writes; beyond it the text ends with a note.
const MAX_OUTPUT_BYTES: usize = 256 * 1024;
const MAX_ERROR_BYTES: usize = 8 * 1024;

/// Configuration that outranks the repository's, the user's and the system's: each line takes away a way to run a
/// program, to ask something, or to make output depend on who runs it.
const SETTINGS: &[&str] = &[
    "advice.statusHints=false",
    "color.ui=false",
    "core.editor=true",
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.pager=cat",
    "core.quotePath=false",
    "gc.auto=0",
    "log.showSignature=false",
    "maintenance.auto=false",
    "safe.bareRepository=explicit",
];

/// The same through the environment. Callers' paths are paths, never pathspec magic such as `:(top)` or `*`.
const VARIABLES: &[(&str, &str)] = &[
    ("GIT_ASKPASS", "true"),
    ("GIT_LITERAL_PATHSPECS", "1"),
    ("GIT_NO_LAZY_FETCH", "1"),
    ("GIT_PAGER", "cat"),
    ("GIT_TERMINAL_PROMPT", "0"),
    // Messages are matched below, so they must be the untranslated ones.
    ("LC_ALL", "C"),
];

/// How to run git in one directory.
pub(super) struct Git<'a> {
    pub(super) root: PathBuf,
    pub(super) directory: PathBuf,
    pub(super) environment: &'a [(OsString, OsString)],
    pub(super) until: Instant,
}

/// What a successful git wrote to its standard output.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) text: String,
    pub(super) truncated: bool,
}

/// Why git gave no output. Cases that a caller of [`Git`] may treat as success have names.
#[derive(Debug)]
pub(super) enum Failed {
    NoCommits,
    NothingStaged,
    Otherwise(ActionError),
}

impl Git<'_> {
    /// Runs a command that only reads. It takes no lock, so it never stands in the way of somebody else's git.
    pub(super) fn run<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Output, Failed> {
        self.finish(self.command(arguments).env("GIT_OPTIONAL_LOCKS", "0"))
    }

    /// Runs a command that writes.
    pub(super) fn write<S: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Output, Failed> {
        self.finish(&mut self.command(arguments))
    }

    /// The process stays in the agent's process group, so that whoever kills the agent kills git with it.
    fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("git");
        command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.envs(VARIABLES.iter().copied());
        // A search for the repository that starts below the root does not go on above it.
        command.env("GIT_CEILING_DIRECTORIES", self.root.parent().unwrap_or(&self.root));
        command.arg("--no-pager").arg("-C").arg(&self.directory);
        command.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        command.args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn finish(&self, command: &mut Command) -> Result<Output, Failed> {
        let mut child = command.spawn().map_err(not_started)?;
        let stdout = child.stdout.take().map(|pipe| collect(pipe, MAX_OUTPUT_BYTES));
        let stderr = child.stderr.take().map(|pipe| collect(pipe, MAX_ERROR_BYTES));
        let captured = self.await_end(stdout).and_then(|out| Ok((out, self.await_end(stderr)?)));
        let Ok(((stdout, truncated), (stderr, _))) = captured else {
            end(&mut child);
            return Err(Failed::Otherwise(ActionError::timeout("git did not finish in time")));
        };
        let status = child.wait().map_err(not_started)?;
        let mut text = String::from_utf8_lossy(&stdout).into_owned();
        // A git whose output was cut short ends as it likes.
        if !status.success() && !truncated {
            return Err(self.explain(&text, &String::from_utf8_lossy(&stderr)));
        }
        if truncated {
            text.push_str(&format!("\n[truncated: only the first {MAX_OUTPUT_BYTES} bytes are shown]"));
        }
        Ok(Output { text, truncated })
    }

    /// What a pipe gave until its end, or an error at the deadline.
    fn await_end(&self, pipe: Option<Receiver<Captured>>) -> Result<Captured, RecvTimeoutError> {
        let Some(pipe) = pipe else { return Ok(Captured::default()) };
        pipe.recv_timeout(self.until.saturating_duration_since(Instant::now()))
    }

    /// The failure in the caller's terms.
    fn explain(&self, stdout: &str, stderr: &str) -> Failed {
        if stderr.contains("does not have any commits yet") {
            return Failed::NoCommits;
        }
        if ["nothing to commit", "nothing added to commit", "no changes added to commit"]
            .iter()
            .any(|end| stdout.contains(end))
        {
            return Failed::NothingStaged;
        }
        let known = KNOWN_FAILURES.iter().find(|(words, ..)| stderr.contains(words));
        let error = match known {
            Some((_, code, message)) => ActionError::new(*code, *message),
            None => ActionError::internal(format!("git failed: {}", self.without_paths(stderr))),
        };
        Failed::Otherwise(error)
    }

    /// Git's own first complaint, without the places on this machine that it names.
    fn without_paths(&self, stderr: &str) -> String {
        let complaint = stderr.lines().find(|line| line.starts_with("fatal:") || line.starts_with("error:"));
        let complaint = complaint.or_else(|| stderr.lines().next()).unwrap_or("it did not say why");
        let complaint = complaint.replace(&*self.root.to_string_lossy(), ".");
        let words = complaint
            .split_whitespace()
            .map(|word| if word.trim_start_matches(['\'', '"']).starts_with('/') { "[path]" } else { word });
        shortened(&words.collect::<Vec<_>>().join(" "), 240)
    }
}

/// What git complains with, and what that means to the caller.
const KNOWN_FAILURES: &[(&str, u16, &str)] = &[
    (
        "not a git repository",
        404,
        "there is no git repository here; GIT_AGENT_REPO_ROOT says where the agent looks",
    ),
    ("must be run in a work tree", 404, "this is the inside of a git directory, not a work tree"),
    (
        "dubious ownership",
        403,
        "git refuses this repository because another user owns it; see git's safe.directory",
    ),
    ("did not match any files", 404, "no such file in the repository"),
    ("beyond a symbolic link", 400, "a path leads through a symbolic link, which git does not follow"),
    ("paths are ignored by one of your .gitignore", 400, "a path is ignored by the repository's .gitignore"),
    (
        "tell me who you are",
        400,
        "git does not know who commits; set user.name and user.email in git's configuration",
    ),
    (
        "empty ident name",
        400,
        "git does not know who commits; set user.name and user.email in git's configuration",
    ),
    ("unmerged files", 409, "a merge is unfinished; resolve its conflicts first"),
    ("index.lock", 503, "another git is writing to this repository, or died while it did"),
];

impl Failed {
    /// The failure as it is when no caller treats it as success.
    pub(super) fn into_error(self) -> ActionError {
        match self {
            Self::NoCommits => ActionError::new(404, "the repository has no commits yet"),
            Self::NothingStaged => {
                ActionError::new(409, "there is nothing to commit: stage files with git_add first")
            }
            Self::Otherwise(error) => error,
        }
    }
}

/// Bytes of a pipe, and whether there were more than wanted.
type Captured = (Vec<u8>, bool);

/// Reads a pipe on a thread of its own, up to a limit. Past it the pipe is closed, which ends a git that still writes.
fn collect(pipe: impl Read + Send + 'static, limit: usize) -> Receiver<Captured> {
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // An error of a pipe is its end.
        let _ = pipe.take(limit as u64 + 1).read_to_end(&mut bytes);
        let truncated = bytes.len() > limit;
        bytes.truncate(limit);
        // Nobody listens any more when the deadline has passed.
        let _ = sender.send((bytes, truncated));
    });
    receiver
}

/// Kills and reaps. Both fail only when the process is gone already.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

#[expect(clippy::needless_pass_by_value, reason = "the argument of map_err")]
fn not_started(problem: io::Error) -> Failed {
    Failed::Otherwise(match problem.kind() {
        io::ErrorKind::NotFound => {
            ActionError::internal("git is not installed, or not on the PATH, where the agent runs")
        }
        kind => ActionError::internal(format!("git could not be started: {kind}")),
    })
}
