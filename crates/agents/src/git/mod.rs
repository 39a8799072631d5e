//! The agent that works with git repositories below one directory.
//!
//! | file | what |
//! |---|---|
//! | `sentence.rs` | which reading command a chat asks for |
//! | `paths.rs` | a repository or file named by a caller, kept below the root |
//! | `command.rs` | the real `git`, started so that it asks nobody, runs nothing of the repository's, and ends in time |
//!
//! A chat can look, but not touch: adding and committing take the explicit actions. Nothing here speaks to a remote.
//! What stays in effect of the repository's own configuration are clean and smudge filters (Git LFS and the like),
//! without which file contents would be read wrongly.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    time::Instant,
};

use phoenix_domain::{
    action::{ActionRequest, ActionResult, CHAT_ACTION},
    builtin::{BASE_ENV, GIT_ENV},
    json::{Json, Object},
};

use self::{
    command::{Failed, Git, Output},
    sentence::Reading,
};
use crate::{
    ActionError, Agent, Payload,
    protocol::{deadline, shortened},
};

mod command;
mod paths;
mod sentence;

/// The variable that names the directory all repositories are below.
pub const ROOT_VARIABLE: &str = "GIT_AGENT_REPO_ROOT";

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
    /// [`BASE_ENV`] and [`GIT_ENV`].
    #[must_use]
    pub fn new(
        root: impl Into<PathBuf>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        let environment = environment.into_iter().filter(|(name, _)| passed_on(name)).collect();
        Self { root: root.into(), environment }
    }

    /// The agent for repositories at or below [`ROOT_VARIABLE`], or else the current directory.
    #[must_use]
    pub fn from_environment() -> Self {
        let root = env::var_os(ROOT_VARIABLE).filter(|root| !root.is_empty()).unwrap_or_else(|| ".".into());
        Self::new(root, env::vars_os())
    }

    fn chat(&self, payload: Payload<'_>, until: Instant) -> Result<ActionResult, ActionError> {
        let reading = sentence::understand(payload.text("message")?)?;
        let repository = self.open("", until)?;
        match reading {
            Reading::Status => repository.status(),
            Reading::Diff { staged } => repository.diff(None, staged),
            Reading::Log { limit } => {
                repository.log(limit.unwrap_or(DEFAULT_LOG_ENTRIES).clamp(1, MAX_LOG_ENTRIES), None)
            }
        }
    }

    /// The repository that holds `directory`, a path below the root.
    fn open(&self, directory: &str, until: Instant) -> Result<Repository<'_>, ActionError> {
        let root = paths::root(&self.root)?;
        let directory = paths::directory(&root, directory)?;
        let git = Git { root, directory, environment: &self.environment, until };
        let top = git.run(["rev-parse", "--show-toplevel"]).map_err(Failed::into_error)?;
        paths::check_below(&git.root, Path::new(top.text.trim_end_matches('\n')))?;
        Ok(Repository(git))
    }
}

/// Whether git sees this variable of the agent's environment.
fn passed_on(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| BASE_ENV.contains(&name) || GIT_ENV.contains(&name))
}

impl Agent for GitAgent {
    fn handle(&mut self, request: &ActionRequest) -> Result<ActionResult, ActionError> {
        let until = deadline(request);
        let payload = Payload::of(request);
        let open = || self.open(payload.optional_text("repo")?.unwrap_or_default(), until);
        match request.action.as_str() {
            CHAT_ACTION => self.chat(payload, until),
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

/// A repository whose work tree is known to be below the root.
struct Repository<'a>(Git<'a>);

impl Repository<'_> {
    fn status(&self) -> Result<ActionResult, ActionError> {
        let output = self.0.run(["status", "--untracked-files=normal"]).map_err(Failed::into_error)?;
        Ok(text(output, ""))
    }

    fn diff(&self, path: Option<&str>, staged: bool) -> Result<ActionResult, ActionError> {
        let mut arguments = vec!["diff", "--no-color", "--no-ext-diff", "--no-textconv"];
        arguments.extend(staged.then_some("--cached"));
        arguments.push("--");
        arguments.extend(self.paths(path.as_slice())?);
        let output = self.0.run(arguments).map_err(Failed::into_error)?;
        Ok(text(output, if staged { "Nothing is staged." } else { "No unstaged changes to tracked files." }))
    }

    fn log(&self, limit: usize, path: Option<&str>) -> Result<ActionResult, ActionError> {
        let limit = format!("--max-count={limit}");
        let format = "--format=%h %ad %an: %s";
        let mut arguments = vec![
            "log",
            "--no-color",
            "--no-show-signature",
            "--no-patch",
            "--date=short",
            &limit,
            format,
            "--",
        ];
        arguments.extend(self.paths(path.as_slice())?);
        match self.0.run(arguments) {
            Err(Failed::NoCommits) => Ok(ActionResult::text("No commits yet.")),
            output => Ok(text(output.map_err(Failed::into_error)?, "No commits.")),
        }
    }

    fn add(&self, paths: &[&str]) -> Result<ActionResult, ActionError> {
        let arguments = ["add", "--verbose", "--"].into_iter().chain(self.paths(paths)?);
        let output = self.0.write(arguments).map_err(Failed::into_error)?;
        Ok(text(output, "Nothing to add: the index is up to date."))
    }

    /// Commits what is staged. A second attempt that finds nothing staged, and its own message on the last commit, is
    /// the first attempt's work whose answer got lost, and succeeds.
    fn commit(&self, message: &str, repeated: bool) -> Result<ActionResult, ActionError> {
        if message.trim().is_empty() || message.len() > MAX_MESSAGE_BYTES {
            let problem =
                format!("`payload.message` must be 1 to {MAX_MESSAGE_BYTES} bytes long and not blank");
            return Err(ActionError::invalid(problem));
        }
        let argument = format!("--message={message}");
        let committed = self.0.write([
            "commit",
            "--no-verify",
            "--no-gpg-sign",
            "--no-edit",
            "--cleanup=whitespace",
            &argument,
        ]);
        let output = match committed {
            Err(Failed::NothingStaged) if repeated && self.last_message()?.trim() == message.trim() => {
                Output { text: "Committed by an earlier attempt.".into(), truncated: false }
            }
            committed => committed.map_err(Failed::into_error)?,
        };
        let hash = self.0.run(["rev-parse", "HEAD"]).map_err(Failed::into_error)?.text;
        let mut result = text(output, "");
        result.metadata.insert("commit".into(), hash.trim().into());
        Ok(result)
    }

    fn last_message(&self) -> Result<String, ActionError> {
        let last = ["log", "--no-show-signature", "--no-patch", "--max-count=1", "--format=%B"];
        match self.0.run(last) {
            Err(Failed::NoCommits) => Ok(String::new()),
            output => Ok(output.map_err(Failed::into_error)?.text),
        }
    }

    fn paths<'p>(&self, paths: &[&'p str]) -> Result<Vec<&'p str>, ActionError> {
        paths.iter().map(|path| paths::file(&self.0.root, &self.0.directory, path).map(|()| *path)).collect()
    }
}

/// What git wrote, or `if_empty` when that is nothing.
fn text(output: Output, if_empty: &str) -> ActionResult {
    let text = if output.text.trim().is_empty() { if_empty } else { output.text.trim_end_matches('\n') };
    let metadata = Object::from_iter([("truncated".to_owned(), Json::Bool(output.truncated))]);
    ActionResult { metadata, ..ActionResult::text(text) }
}

/// The refusal of a chat: what can be asked for instead.
fn not_understood(what: &str) -> ActionError {
    ActionError::invalid(format!(
        "{what}. A chat can ask for `git status`, `git diff` (or `git diff staged`) and `git log` (or `git log 5`); \
         changes take the actions git_add {{paths}} and git_commit {{message}} of a plan"
    ))
}

/// A caller's text as it may be repeated in a message.
fn quoted(text: &str) -> String {
    format!("`{}`", shortened(text, 128))
}
