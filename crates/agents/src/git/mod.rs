//! The agent that reads, and commits to, git repositories below one directory.
//!
//! | file | content |
//! |---|---|
//! | `chat.rs` | the read command that a chat asks for |
//! | `paths.rs` | repositories and files named by a caller, kept below the root |
//! | `secrets.rs` | files that are neither shown nor staged |
//! | `repository.rs` | the actions, and the checks of a repository before each of them |
//! | `add.rs` | `git_add`, which skips no file silently |
//! | `command.rs` | the command line of git: settings that override every configuration |
//! | `process.rs` | one run of git, ended at the deadline |
//! | `cleanup.rs` | processes and lock files of a git that was killed |
//! | `failure.rs` | translation of git's failures into errors |
//! | `settings.rs` | the settings of the agent |
//!
//! A chat can only read: adding and committing take the explicit actions. Nothing here contacts a remote. Of the
//! repository's own configuration, clean and smudge filters (Git LFS and others) stay in effect: without them file contents
//! would be read incorrectly.

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

use self::{
    chat::{MAX_LOG_ENTRIES, ReadCommand},
    command::Git,
    process::Deadlines,
    repository::Repository,
    settings::EXECUTOR_VARIABLE,
};
use crate::{
    payload::Payload,
    protocol::{ActionError, Agent, deadline},
};

mod add;
mod chat;
mod cleanup;
mod command;
mod failure;
mod paths;
mod process;
mod repository;
mod secrets;
mod settings;

pub use self::settings::ROOT_VARIABLE;

const ACTIONS: &[&str] = &[CHAT_ACTION, "git_status", "git_diff", "git_log", "git_add", "git_commit"];
const DEFAULT_LOG_ENTRIES: usize = 20;

/// Runs git below one directory.
#[derive(Debug)]
pub struct GitAgent {
    root: PathBuf,
    environment: Vec<(OsString, OsString)>,
}

impl GitAgent {
    /// An agent for repositories at or below `root`. Git sees only [`BASE_ENV`], [`GIT_ENV`] and the executor's marker of
    /// `environment`.
    #[must_use]
    pub fn new(
        root: impl Into<PathBuf>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        let environment =
            environment.into_iter().filter(|(name, _)| passed_on(name)).map(without_relative_paths);
        Self { root: root.into(), environment: environment.collect() }
    }

    /// An agent for repositories at or below [`ROOT_VARIABLE`], by default the current directory.
    #[must_use]
    pub fn from_environment() -> Self {
        let root = env::var_os(ROOT_VARIABLE).filter(|root| !root.is_empty()).unwrap_or_else(|| ".".into());
        Self::new(root, env::vars_os())
    }

    fn chat(&self, payload: Payload<'_>, deadlines: Deadlines) -> Result<ActionResult, ActionError> {
        let command = chat::parse(payload.text("message")?)?;
        let repository = self.open("", deadlines)?;
        match command {
            ReadCommand::Status => repository.status(),
            ReadCommand::Diff { staged } => repository.diff(None, staged),
            ReadCommand::Log { limit } => repository.log(limit.unwrap_or(DEFAULT_LOG_ENTRIES), None),
        }
    }

    /// Opens the repository that contains `directory`, a path below the root.
    fn open(&self, directory: &str, deadlines: Deadlines) -> Result<Repository<'_>, ActionError> {
        let root = paths::root(&self.root)?;
        let directory = paths::directory(&root, directory)?;
        Repository::open(Git { root, directory, environment: &self.environment, deadlines })
    }
}

/// Whether git sees this variable of the agent's environment.
fn passed_on(name: &OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| BASE_ENV.contains(&name) || GIT_ENV.contains(&name) || name == EXECUTOR_VARIABLE)
}

/// A search path without relative entries, which would name directories of a repository.
fn without_relative_paths((name, value): (OsString, OsString)) -> (OsString, OsString) {
    if name != "PATH" {
        return (name, value);
    }
    let absolute = env::split_paths(&value).filter(|path| path.is_absolute());
    let path = env::join_paths(absolute).unwrap_or_default();
    (name, path)
}

/// The deadlines of git: early enough that it can remove its locks and the answer is still in time.
fn deadlines(request: &ActionRequest) -> Deadlines {
    let kill = deadline(request);
    let granted = kill.saturating_duration_since(Instant::now());
    let stop = kill.checked_sub((granted / 10).min(Duration::from_millis(250))).unwrap_or(kill);
    Deadlines { stop, kill }
}

impl Agent for GitAgent {
    fn handle(&mut self, request: &ActionRequest) -> Result<ActionResult, ActionError> {
        let deadlines = deadlines(request);
        let payload = Payload::of(request);
        let open = || self.open(payload.optional_text("repo")?.unwrap_or_default(), deadlines);
        match request.action.as_str() {
            CHAT_ACTION => self.chat(payload, deadlines),
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
