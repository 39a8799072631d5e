//! The agent that manages notes in an Obsidian vault: a directory of Markdown files.
//!
//! | file | content |
//! |---|---|
//! | `chat.rs` | the action that a chat asks for |
//! | `path.rs` | the name of a note as callers write it |
//! | `vault.rs` | files and directories, opened without following any link |
//! | `search.rs` | all notes of a vault, and the lines that contain a text |
//! | `line_endings.rs` | line endings of a note |
//!
//! Names that look the same, in composed and decomposed Unicode, are the same name. Files that a list or a search skips are
//! counted in the result's `skipped` and named in its `skipped_notes`.
//!
//! Executors retry when an answer got lost, so every write is idempotent. `create_note` succeeds when the note already has
//! exactly this content. (Where the file name has lost characters of the title, that applies to a retry only, since the
//! note may be that of another title.) `update_note` with `replace` is idempotent by nature. With `append`, a retry finds
//! the text at the end already and leaves it as it is.

use std::{env, path::PathBuf, time::Instant};

use phoenix_domain::{
    action::{ActionRequest, ActionResult, CHAT_ACTION},
    json::Json,
};
use serde_json::{Value, json};

use self::{
    chat::ChatRequest,
    path::{NotePath, Titled, folder_names},
    search::Skipped,
    vault::{Created, Vault},
};
use crate::{
    payload::Payload,
    protocol::{ActionError, Agent, deadline},
};

mod chat;
mod line_endings;
mod path;
mod search;
mod vault;

pub use self::vault::ROOT_VARIABLE;

const ACTIONS: &[&str] =
    &[CHAT_ACTION, "create_note", "read_note", "update_note", "list_notes", "search_notes"];
const DEFAULT_LIST: usize = 200;
const MAX_LIST: usize = 5000;
const DEFAULT_MATCHES: usize = 20;
const MAX_MATCHES: usize = 500;

/// Manages the notes below one directory.
#[derive(Debug)]
pub struct ObsidianAgent {
    root: Option<PathBuf>,
}

impl ObsidianAgent {
    /// An agent for the vault at `root`; without one, the answer to every request names the variable to set.
    #[must_use]
    pub const fn new(root: Option<PathBuf>) -> Self {
        Self { root }
    }

    /// An agent for the vault at [`ROOT_VARIABLE`].
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

    fn chat(&self, message: &str, repeated: bool, until: Instant) -> Result<ActionResult, ActionError> {
        match chat::parse(message)? {
            ChatRequest::List { folder } => {
                let result = list(&self.vault()?, folder, DEFAULT_LIST, until)?;
                Ok(as_lines(result, "There are no notes.", |note| note.as_str().map(str::to_owned)))
            }
            ChatRequest::Read { note } => read(&self.vault()?, &NotePath::parse(note)?),
            ChatRequest::Search { query } => {
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
            ChatRequest::Create { title, content } => {
                let titled = Titled::new(title)?;
                create(&self.vault()?, &titled.path, content, titled.is_exact || repeated)
            }
        }
    }
}

impl Agent for ObsidianAgent {
    fn handle(&mut self, request: &ActionRequest) -> Result<ActionResult, ActionError> {
        let until = deadline(request);
        let repeated = request.meta.attempt > 1;
        let payload = Payload::of(request);
        match request.action.as_str() {
            CHAT_ACTION => self.chat(payload.text("message")?, repeated, until),
            "create_note" => {
                let payload = payload.only(&["path", "title", "content"])?;
                let (path, is_exact) = match (payload.optional_text("path")?, payload.optional_text("title")?)
                {
                    (Some(path), None) => (NotePath::parse(path)?, true),
                    (None, Some(title)) => Titled::new(title).map(|titled| (titled.path, titled.is_exact))?,
                    _ => return Err(ActionError::invalid("give either `payload.path` or `payload.title`")),
                };
                create(&self.vault()?, &path, payload.text("content")?, is_exact || repeated)
            }
            "read_note" => read(&self.vault()?, &NotePath::parse(payload.only(&["path"])?.text("path")?)?),
            "update_note" => {
                let payload = payload.only(&["path", "content", "mode"])?;
                let path = NotePath::parse(payload.text("path")?)?;
                let content = payload.text("content")?;
                match payload.optional_text("mode")?.unwrap_or("replace") {
                    "replace" => replace(&self.vault()?, &path, content),
                    "append" => append(&self.vault()?, &path, content, repeated),
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

/// Creates a note. An existing note with this content counts as created if it `may_be_own`.
fn create(
    vault: &Vault,
    path: &NotePath,
    content: &str,
    may_be_own: bool,
) -> Result<ActionResult, ActionError> {
    path.check_new()?;
    let exists =
        |path: &NotePath| ActionError::new(409, format!("the note `{path}` exists; update_note changes it"));
    let created = match vault.create(path, content)? {
        Created::New => true,
        Created::Exists if may_be_own && vault.read(path)?.1 == content => false,
        Created::Exists => return Err(exists(path)),
        Created::LooksTheSame(other) => return Err(exists(&other)),
    };
    let mut result = done(if created { "Created" } else { "Already there, unchanged:" }, path);
    result.metadata.insert("created".into(), created.into());
    Ok(result)
}

fn read(vault: &Vault, path: &NotePath) -> Result<ActionResult, ActionError> {
    let (path, content) = vault.read(path)?;
    let mut result = ActionResult::text(content);
    result.output_type = "markdown".into();
    result.metadata.insert("path".into(), path.to_string().into());
    Ok(result)
}

fn replace(vault: &Vault, path: &NotePath, content: &str) -> Result<ActionResult, ActionError> {
    let path = vault.update(path, |_| content.to_owned())?;
    Ok(done("Replaced", &path))
}

/// Appends on lines of their own, with the line endings of the note. The module documentation describes retries.
fn append(
    vault: &Vault,
    path: &NotePath,
    content: &str,
    repeated: bool,
) -> Result<ActionResult, ActionError> {
    let path = vault.update(path, |note| line_endings::append(note, content, repeated))?;
    Ok(done("Appended to", &path))
}

fn list(vault: &Vault, folder: &str, limit: usize, until: Instant) -> Result<ActionResult, ActionError> {
    let (mut notes, skipped) = search::notes(vault, &folder_names(folder)?, until)?;
    let total = notes.len();
    notes.truncate(limit);
    let notes: Vec<String> = notes.iter().map(NotePath::to_string).collect();
    Ok(found(json!(notes), total, total > limit, &skipped))
}

fn search(vault: &Vault, query: &str, limit: usize, until: Instant) -> Result<ActionResult, ActionError> {
    let query = query.trim();
    if query.is_empty() || query.contains(['\n', '\r']) {
        return Err(ActionError::invalid(
            "`payload.query` must be one line that is not blank, because a match is a line of a note",
        ));
    }
    let (matches, more, skipped) = search::matches(vault, query, limit, until)?;
    let count = matches.len();
    Ok(found(json!(matches), count, more, &skipped))
}

fn done(what: &str, path: &NotePath) -> ActionResult {
    let mut result = ActionResult::text(format!("{what} {path}"));
    result.metadata.insert("path".into(), path.to_string().into());
    result
}

fn found(data: Value, count: usize, truncated: bool, skipped: &Skipped) -> ActionResult {
    let mut result = ActionResult::text("");
    result.output_type = "json".into();
    result.data = data.into();
    result.metadata.insert("count".into(), count.into());
    result.metadata.insert("truncated".into(), truncated.into());
    result.metadata.insert("skipped".into(), skipped.count.into());
    if skipped.count > 0 {
        result.metadata.insert("skipped_notes".into(), Json::from(json!(skipped.named)));
    }
    result
}

/// A list as text.
fn as_lines(result: ActionResult, if_empty: &str, line: impl Fn(&Json) -> Option<String>) -> ActionResult {
    let mut lines: Vec<String> = result.data.as_array().into_iter().flatten().filter_map(line).collect();
    if lines.is_empty() {
        lines.push(if_empty.into());
    }
    if result.metadata.get("truncated") == Some(&Json::Bool(true)) {
        lines.push("… and more".into());
    }
    let skipped = result.metadata.get("skipped_notes").and_then(Json::as_array);
    lines.extend(skipped.into_iter().flatten().filter_map(|skipped| {
        Some(format!("skipped: {} ({})", skipped["path"].as_str()?, skipped["reason"].as_str()?))
    }));
    let count = result.metadata.get("skipped").and_then(Json::as_f64).map_or(0, |count| count as usize);
    let unnamed = count.saturating_sub(skipped.map_or(0, <[Json]>::len));
    if unnamed > 0 {
        lines.push(format!("skipped: {unnamed} more"));
    }
    ActionResult { metadata: result.metadata, ..ActionResult::text(lines.join("\n")) }
}
