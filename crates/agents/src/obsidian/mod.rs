//! The agent that keeps notes in an Obsidian vault: a directory of Markdown files.
//!
//! | file | what |
//! |---|---|
//! | `sentence.rs` | which action a chat asks for |
//! | `path.rs` | the name of a note as callers write it |
//! | `vault.rs` | files and directories, reached without following any link |
//! | `search.rs` | all notes of a vault, and the lines that hold a text |
//!
//! Executors try again when an answer got lost, so writing twice must do no harm. `create_note` succeeds when the note
//! already has exactly this content, whoever wrote it: what was asked for is so. `update_note` with `replace` is the
//! same twice by nature. With `append`, a second attempt finds the text already at the end and leaves it at that.

use std::{env, path::PathBuf, time::Instant};

use phoenix_domain::{
    action::{ActionRequest, ActionResult, CHAT_ACTION},
    json::{Json, Object},
};
use serde_json::{Value, json};

use self::{
    path::{NotePath, folder_names},
    sentence::Wish,
    vault::{Created, Vault},
};
use crate::{ActionError, Agent, Payload, protocol::deadline};

mod path;
mod search;
mod sentence;
mod vault;

/// The variable that names the vault's directory.
pub const ROOT_VARIABLE: &str = "OBSIDIAN_AGENT_VAULT_ROOT";

const ACTIONS: &[&str] =
    &[CHAT_ACTION, "create_note", "read_note", "update_note", "list_notes", "search_notes"];
const DEFAULT_LIST: usize = 200;
const MAX_LIST: usize = 5000;
const DEFAULT_MATCHES: usize = 20;
const MAX_MATCHES: usize = 500;

/// Works on the notes below one directory.
#[derive(Debug)]
pub struct ObsidianAgent {
    root: Option<PathBuf>,
}

impl ObsidianAgent {
    /// The agent for the vault at `root`; without one, every request is told which variable to set.
    #[must_use]
    pub const fn new(root: Option<PathBuf>) -> Self {
        Self { root }
    }

    /// The agent for the vault at [`ROOT_VARIABLE`].
    #[must_use]
    pub fn from_environment() -> Self {
        Self::new(env::var_os(ROOT_VARIABLE).filter(|root| !root.is_empty()).map(PathBuf::from))
    }

    fn vault(&self) -> Result<Vault, ActionError> {
        let Some(root) = &self.root else {
            return Err(ActionError::invalid(format!(
                "no vault is configured: set {ROOT_VARIABLE} to its directory"
            )));
        };
        Vault::open(root)
    }

    fn chat(&self, message: &str, until: Instant) -> Result<ActionResult, ActionError> {
        match sentence::understand(message)? {
            Wish::List { folder } => {
                let result = list(&self.vault()?, folder, DEFAULT_LIST, until)?;
                Ok(as_lines(result, "There are no notes.", |note| note.as_str().map(str::to_owned)))
            }
            Wish::Read { note } => read(&self.vault()?, &NotePath::parse(note)?),
            Wish::Search { query } => {
                let result = search(&self.vault()?, query, DEFAULT_MATCHES, until)?;
                Ok(as_lines(result, "No note has this text.", |found| {
                    Some(format!(
                        "{}:{}: {}",
                        found["path"].as_str()?,
                        found["line"],
                        found["text"].as_str()?
                    ))
                }))
            }
            Wish::Create { title, content } => create(&self.vault()?, &NotePath::of_title(title)?, content),
        }
    }
}

impl Agent for ObsidianAgent {
    fn handle(&mut self, request: &ActionRequest) -> Result<ActionResult, ActionError> {
        let until = deadline(request);
        let payload = Payload::of(request);
        match request.action.as_str() {
            CHAT_ACTION => self.chat(payload.text("message")?, until),
            "create_note" => {
                let payload = payload.only(&["path", "title", "content"])?;
                let path = match (payload.optional_text("path")?, payload.optional_text("title")?) {
                    (Some(path), None) => NotePath::parse(path)?,
                    (None, Some(title)) => NotePath::of_title(title)?,
                    _ => return Err(ActionError::invalid("give either `payload.path` or `payload.title`")),
                };
                create(&self.vault()?, &path, payload.text("content")?)
            }
            "read_note" => read(&self.vault()?, &NotePath::parse(payload.only(&["path"])?.text("path")?)?),
            "update_note" => {
                let payload = payload.only(&["path", "content", "mode"])?;
                let path = NotePath::parse(payload.text("path")?)?;
                let content = payload.text("content")?;
                match payload.optional_text("mode")?.unwrap_or("replace") {
                    "replace" => replace(&self.vault()?, &path, content),
                    "append" => append(&self.vault()?, &path, content, request.meta.attempt > 1),
                    _ => Err(ActionError::invalid("`payload.mode` must be `replace` or `append`")),
                }
            }
            "list_notes" => {
                let payload = payload.only(&["folder", "limit"])?;
                let limit = payload.count("limit", DEFAULT_LIST, MAX_LIST)?;
                list(&self.vault()?, payload.optional_text("folder")?.unwrap_or_default(), limit, until)
            }
            "search_notes" => {
                let payload = payload.only(&["query", "limit"])?;
                let limit = payload.count("limit", DEFAULT_MATCHES, MAX_MATCHES)?;
                search(&self.vault()?, payload.text("query")?, limit, until)
            }
            other => Err(ActionError::unknown_action(other, ACTIONS)),
        }
    }
}

fn create(vault: &Vault, path: &NotePath, content: &str) -> Result<ActionResult, ActionError> {
    let created = match vault.create(path, content)? {
        Created::New => true,
        Created::Exists if vault.read(path)? == content => false,
        Created::Exists => {
            return Err(ActionError::new(409, format!("the note `{path}` exists; update_note changes it")));
        }
    };
    let mut result = done(if created { "Created" } else { "Already there, unchanged:" }, path);
    result.metadata.insert("created".into(), created.into());
    Ok(result)
}

fn read(vault: &Vault, path: &NotePath) -> Result<ActionResult, ActionError> {
    let content = vault.read(path)?;
    let metadata = Object::from_iter([("path".to_owned(), Json::String(path.to_string()))]);
    Ok(ActionResult { output_type: "markdown".into(), data: Json::String(content), metadata })
}

fn replace(vault: &Vault, path: &NotePath, content: &str) -> Result<ActionResult, ActionError> {
    vault.update(path, |_| content.to_owned())?;
    Ok(done("Replaced", path))
}

/// Appends on lines of its own. See the module's words about second attempts.
fn append(
    vault: &Vault,
    path: &NotePath,
    content: &str,
    repeated: bool,
) -> Result<ActionResult, ActionError> {
    vault.update(path, |mut note| {
        if repeated && note.ends_with(content) {
            return note;
        }
        if !note.is_empty() && !note.ends_with('\n') {
            note.push('\n');
        }
        note.push_str(content);
        note
    })?;
    Ok(done("Appended to", path))
}

fn list(vault: &Vault, folder: &str, limit: usize, until: Instant) -> Result<ActionResult, ActionError> {
    let mut notes = search::notes(vault, &folder_names(folder)?, until)?;
    let total = notes.len();
    notes.truncate(limit);
    let notes: Vec<String> = notes.iter().map(NotePath::to_string).collect();
    Ok(found(json!(notes), total, total > limit))
}

fn search(vault: &Vault, query: &str, limit: usize, until: Instant) -> Result<ActionResult, ActionError> {
    if query.trim().is_empty() {
        return Err(ActionError::invalid("`payload.query` must not be blank"));
    }
    let (matches, more) = search::matches(vault, query.trim(), limit, until)?;
    let count = matches.len();
    Ok(found(json!(matches), count, more))
}

fn done(what: &str, path: &NotePath) -> ActionResult {
    let metadata = Object::from_iter([("path".to_owned(), Json::String(path.to_string()))]);
    ActionResult { metadata, ..ActionResult::text(format!("{what} {path}")) }
}

fn found(data: Value, count: usize, truncated: bool) -> ActionResult {
    let metadata =
        Object::from_iter([("count".to_owned(), count.into()), ("truncated".to_owned(), truncated.into())]);
    ActionResult { output_type: "json".into(), data: data.into(), metadata }
}

/// A list as a person reads it.
fn as_lines(result: ActionResult, if_empty: &str, line: impl Fn(&Json) -> Option<String>) -> ActionResult {
    let mut lines: Vec<String> = result.data.as_array().into_iter().flatten().filter_map(line).collect();
    if lines.is_empty() {
        lines.push(if_empty.into());
    }
    if result.metadata.get("truncated") == Some(&Json::Bool(true)) {
        lines.push("… and more".into());
    }
    ActionResult { metadata: result.metadata, ..ActionResult::text(lines.join("\n")) }
}
