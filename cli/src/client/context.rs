//! `phoenix context`: named gateways, in a file of this user.
//!
//! ```toml
//! current = "production"
//!
//! [contexts.production]
//! url = "https://phoenix.example.com"
//! token_file = "/home/ada/.config/phoenix/production.token"
//! ```

pub(super) mod entry;
pub(super) mod file;

use phoenix_domain::json::Json;
use serde_json::{json, value::to_raw_value};

use self::{
    entry::Context,
    file::{Contexts, locked, path},
};
use super::{
    args::{ContextArgs, ContextCommand, ContextSettings},
    error::ClientError,
    output::{json_lines, line, plain, table, text},
};

/// Runs the command.
///
/// # Errors
/// When a name or an address is not valid, or the file cannot be read or written.
pub(super) fn run(args: ContextArgs) -> Result<(), ClientError> {
    let path = path().ok_or_else(|| {
        ClientError::Usage("there is no folder for the contexts; set HOME or XDG_CONFIG_HOME".into())
    })?;
    match args.command {
        ContextCommand::List => list(&Contexts::read(&path)?, args.json),
        ContextCommand::Show { name } => {
            let contexts = Contexts::read(&path)?;
            let name = name.as_deref().or(contexts.current.as_deref()).ok_or_else(|| {
                ClientError::Usage(
                    "no context is the current one; name one, or see `phoenix context list`".into(),
                )
            })?;
            let context = contexts.get(name)?;
            show(&contexts, name, context, args.json)
        }
        ContextCommand::Use { name } => {
            let contexts = locked(&path, |contexts| {
                contexts.get(&name)?;
                contexts.current = Some(name.clone());
                Ok(())
            })?;
            list(&contexts, args.json)
        }
        ContextCommand::Set { name, settings } => {
            let ContextSettings { url, token_file, token_stdin, ca } = settings;
            let context = Context::new(&name, url, token_file, token_stdin, ca)?;
            let contexts = locked(&path, |contexts| {
                contexts.contexts.insert(name.clone(), context);
                contexts.current.get_or_insert(name);
                Ok(())
            })?;
            list(&contexts, args.json)
        }
        ContextCommand::Remove { name } => {
            let contexts = locked(&path, |contexts| {
                contexts.contexts.remove(&name).ok_or_else(|| contexts.unknown(&name))?;
                contexts.current.take_if(|current| *current == name);
                Ok(())
            })?;
            list(&contexts, args.json)
        }
    }
}

fn document(contexts: &Contexts, name: &str, context: &Context) -> Json {
    let Context { url, token_file, token, ca } = context;
    // The token itself is never shown.
    let token = if token.is_some() { Some("[set]") } else { None };
    let is_current = contexts.current.as_deref() == Some(name);
    json!({ "name": name, "current": is_current, "url": url.as_str(), "token": token, "token_file": token_file, "ca": ca }).into()
}

fn show(contexts: &Contexts, name: &str, context: &Context, is_json: bool) -> Result<(), ClientError> {
    let document = document(contexts, name, context);
    if is_json {
        return line(document.to_string());
    }
    let facts = ["name", "url", "token", "token_file", "ca"].into_iter();
    let facts = facts.map(|fact| (fact, text(&document, fact))).filter(|(_, value)| !value.is_empty());
    let facts: Vec<_> = facts.map(|(fact, value)| format!("{fact:<12}{}", plain(value))).collect();
    line(facts.join("\n"))
}

fn list(contexts: &Contexts, is_json: bool) -> Result<(), ClientError> {
    let documents = contexts.contexts.iter().map(|(name, context)| document(contexts, name, context));
    let documents: Vec<_> = documents.filter_map(|row| to_raw_value(&row).ok()).collect();
    if is_json {
        return json_lines(&documents);
    }
    if documents.is_empty() {
        return line("no context is set; `phoenix context set NAME --url URL` adds one");
    }
    table(&["CURRENT", "NAME", "URL", "TOKEN"], &documents, |row| {
        let current = if row["current"] == true { "*" } else { "" };
        let token = [text(row, "token"), text(row, "token_file")].concat();
        vec![current.to_owned(), text(row, "name").to_owned(), text(row, "url").to_owned(), plain(&token)]
    })
}
