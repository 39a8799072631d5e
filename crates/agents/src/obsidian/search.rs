//! All notes of a vault, and the lines that hold a text. Bounded in depth, in number and in time.

use std::{fs::File, time::Instant};

use nix::dir::{Dir, Type};
use serde::Serialize;

use super::{
    path::{NotePath, is_note},
    vault::{MAX_NOTE_BYTES, Vault, open_folder, read_plain_file},
};
use crate::{ActionError, protocol::shortened};

const MAX_DEPTH: usize = 32;
const MAX_NOTES: usize = 100_000;
const MAX_LINE_CHARS: usize = 240;

/// A line that holds the text, or the name of a note that does (line 0).
#[derive(Debug, Serialize)]
pub(super) struct Match {
    path: String,
    line: usize,
    text: String,
}

/// Every note in a folder and below: the folder's own first, then those of the folders in it.
pub(super) fn notes(vault: &Vault, folder: &[String], until: Instant) -> Result<Vec<NotePath>, ActionError> {
    let mut notes = Vec::new();
    visit(&vault.folder(folder)?, folder, until, &mut |note| {
        notes.push(note);
        if notes.len() > MAX_NOTES {
            return Err(ActionError::new(
                413,
                format!("the vault has more than {MAX_NOTES} notes; name a folder"),
            ));
        }
        Ok(())
    })?;
    notes.sort();
    Ok(notes)
}

/// At most `limit` matches, upper and lower case alike, in the order of [`notes`]; and whether there are more.
pub(super) fn matches(
    vault: &Vault,
    query: &str,
    limit: usize,
    until: Instant,
) -> Result<(Vec<Match>, bool), ActionError> {
    let query = query.to_lowercase();
    let mut matches = Vec::new();
    for note in notes(vault, &[], until)? {
        check_time(until)?;
        let path = note.to_string();
        if path.to_lowercase().contains(&query) {
            matches.push(Match { path: path.clone(), line: 0, text: path.clone() });
        }
        // A note that vanished, or that can't be read, has no lines to offer.
        let Ok(folder) = vault.folder(&note.folders) else { continue };
        let Ok((bytes, _)) = read_plain_file(&folder, &note.name, MAX_NOTE_BYTES) else { continue };
        for (index, line) in String::from_utf8_lossy(&bytes).lines().enumerate() {
            if line.to_lowercase().contains(&query) {
                let text = shortened(line.trim(), MAX_LINE_CHARS);
                matches.push(Match { path: path.clone(), line: index + 1, text });
            }
            if matches.len() > limit {
                matches.truncate(limit);
                return Ok((matches, true));
            }
        }
    }
    let more = matches.len() > limit;
    matches.truncate(limit);
    Ok((matches, more))
}

/// Calls `found` for every note below `folder`. Hidden entries and links are passed over.
fn visit(
    folder: &File,
    names: &[String],
    until: Instant,
    found: &mut impl FnMut(NotePath) -> Result<(), ActionError>,
) -> Result<(), ActionError> {
    check_time(until)?;
    let unreadable = |_| ActionError::internal("a folder of the vault can't be read");
    // A directory stream moves the position of what it reads, so it opens the folder anew.
    let own = open_folder(folder, ".").map_err(unreadable)?;
    for entry in Dir::from_fd(own.into()).map_err(unreadable)?.iter() {
        let entry = entry.map_err(unreadable)?;
        // Names that are no UTF-8 can't be asked for either.
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name.starts_with('.') {
            continue;
        }
        let is_folder = matches!(entry.file_type(), Some(Type::Directory) | None);
        if is_folder && names.len() < MAX_DEPTH {
            // Gone, or not a folder after all: then there is nothing to visit.
            if let Ok(inner) = open_folder(folder, name) {
                let names = [names, &[name.to_owned()]].concat();
                visit(&inner, &names, until, found)?;
                continue;
            }
        }
        if matches!(entry.file_type(), Some(Type::File) | None) && is_note(name) {
            found(NotePath { folders: names.to_vec(), name: name.into() })?;
        }
    }
    Ok(())
}

fn check_time(until: Instant) -> Result<(), ActionError> {
    if Instant::now() < until {
        Ok(())
    } else {
        Err(ActionError::timeout("the vault is too large to read in time"))
    }
}
