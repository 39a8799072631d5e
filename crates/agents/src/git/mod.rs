//! The agent that looks at, and commits to, git repositories below one directory.
//!
//! | file | what |
//! |---|---|
//! | `sentence.rs` | which reading command a chat asks for |
//! | `paths.rs` | a repository or file named by a caller, kept below the root |
//! | `secrets.rs` | files that are neither shown nor staged |
//! | `repository.rs` | the actions, and the checks of a repository before any of them |
//! | `adding.rs` | `git_add`, which passes over nothing in silence |
//! | `command.rs` | how git is started: what outranks every configuration |
//! | `process.rs` | one run of git, ended at the deadline |
//! | `leftovers.rs` | the processes and lock files of a git that was ended |
//! | `failure.rs` | what a git that failed means to the caller |
//!
//! A chat can look, but not touch: adding and committing take the explicit actions. Nothing here speaks to a remote.
//! What stays in effect of the repository's own configuration are clean and smudge filters (Git LFS and the like),
//! without which file contents would be read wrongly.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
    time::{Duration, Instant},
};

use phoenix_domain::{
    action::{ActionRequest, ActionResult, CHAT_ACTION},
    builtin::{BASE_ENV, GIT_ENV},
};

use self::{command::Git, process::Times, repository::Repository, sentence::Reading};
use crate::{
    ActionError, Agent, Payload,
    protocol::{deadline, shortened},
};

mod adding;
mod command;
mod failure;
mod leftovers;
mod paths;
mod process;
mod repository;
mod secrets;
mod sentence;

/// The variable that names the directory all repositories are below.
pub const ROOT_VARIABLE: &str = "GIT_AGENT_REPO_ROOT";

/// Where to look when that directory is not the right one.
const ROOT_SETTINGS: &str =
    "GIT_AGENT_REPO_ROOT (in docker-compose.yml: PHOENIX_REPO) names the directory of the git agent";

/// By which an executor finds the processes of its agents; all that an agent starts has to carry it.
const EXECUTOR_VARIABLE: &str = "PHOENIX_EXECUTOR";

const ACTIONS: &[&str] = &[CHAT_ACTION, "git_status", "git_diff", "git_log", "git_add", "git_commit"];
const DEFAULT_LOG_ENTRIES: usize = 20;
const MAX_LOG_ENTRIES: usize = 1000;
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// Runs git below one directory.
#[derive(Debug)]
pub struct GitAgent {
    root: PathBuf,
    environment: Vec<(OsString, OsString)>,
}

impl GitAgent {
    /// The agent for repositories at or below `root`. Of `environment`, git sees only
    /// [`BASE_ENV`], [`GIT_ENV`] and the executor's mark.
    #[must_use]
    pub fn new(
        root: impl Into<PathBuf>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        let environment =
            environment.into_iter().filter(|(name, _)| passed_on(name)).map(without_relative_paths);
        Self { root: root.into(), environment: environment.collect() }
    }

    /// The agent for repositories at or below [`ROOT_VARIABLE`], or else the current directory.
    #[must_use]
    pub fn from_environment() -> Self {
        let root = env::var_os(ROOT_VARIABLE).filter(|root| !root.is_empty()).unwrap_or_else(|| ".".into());
        Self::new(root, env::vars_os())
    }

    fn chat(&self, payload: Payload<'_>, times: Times) -> Result<ActionResult, ActionError> {
        let reading = sentence::understand(payload.text("message")?)?;
        let repository = self.open("", times)?;
        match reading {
            Reading::Status => repository.status(),
            Reading::Diff { staged } => repository.diff(None, staged),
            Reading::Log { limit } => repository.log(limit.unwrap_or(DEFAULT_LOG_ENTRIES), None),
        }
    }

    /// The repository that holds `directory`, a path below the root.
    fn open(&self, directory: &str, times: Times) -> Result<Repository<'_>, ActionError> {
        let root = paths::root(&self.root)?;
        let directory = paths::directory(&root, directory)?;
        Repository::open(Git { root, directory, environment: &self.environment, times })
    }
}

/// Whether git sees this variable of the agent's environment.
fn passed_on(name: &OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| BASE_ENV.contains(&name) || GIT_ENV.contains(&name) || name == EXECUTOR_VARIABLE)
}

/// A search path without the entries that are relative to a directory, which would be one of a repository.
fn without_relative_paths((name, value): (OsString, OsString)) -> (OsString, OsString) {
    if name != "PATH" {
        return (name, value);
    }
    let absolute = env::split_paths(&value).filter(|path| path.is_absolute());
    let path = env::join_paths(absolute).unwrap_or_default();
    (name, path)
}

/// When git ends at the latest: early enough that it can remove its locks, and the answer still be in time.
fn times(request: &ActionRequest) -> Times {
    let kill = deadline(request);
    let granted = kill.saturating_duration_since(Instant::now());
    Times { stop: kill.checked_sub((granted / 10).min(Duration::from_millis(250))).unwrap_or(kill), kill }
}

impl Agent for GitAgent {
    fn handle(&mut self, request: &ActionRequest) -> Result<ActionResult, ActionError> {
        let times = times(request);
        let payload = Payload::of(request);
        let open = || self.open(payload.optional_text("repo")?.unwrap_or_default(), times);
        match request.action.as_str() {
            CHAT_ACTION => self.chat(payload, times),
            "git_status" => {
                payload.only(&["repo"])?;
                open()?.status()
            }
            "git_diff" => {
                let payload = payload.only(&["repo", "path", "staged"])?;
                open()?.diff(payload.optional_text("path")?, payload.flag("staged")?)
            }
            "git_log" => {
                let payload = payload.only(&["repo", "path", "limit"])?;
                let limit = payload.count("limit", DEFAULT_LOG_ENTRIES, MAX_LOG_ENTRIES)?;
                open()?.log(limit, payload.optional_text("path")?)
            }
            "git_add" => open()?.add(&payload.only(&["repo", "paths"])?.texts("paths")?),
            "git_commit" => {
                let message = payload.only(&["repo", "message"])?.text("message")?;
                open()?.commit(message, request.meta.attempt > 1)
            }
            other => Err(ActionError::unknown_action(other, ACTIONS)),
        }
    }
}

/// The refusal of a chat: what can be asked for instead.
fn not_understood(what: &str) -> ActionError {
    ActionError::invalid(format!(
        "{what}. A chat can ask for `git status`, `git diff` (or `git diff staged`) and `git log` (or `git log 5`); \
         changes, and the history or diff of one file, take the actions of a plan: git_add {{paths}}, git_commit \
         {{message}}, git_log {{path}}, git_diff {{path}}"
    ))
}

/// A caller's text as it may be repeated in a message.
fn quoted(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    format!("`{}`", shortened(&text, 128))
}
