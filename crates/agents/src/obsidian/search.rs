//! Lists the notes of a vault and the lines that contain a text, with limits on depth, number and time.

use std::{fs::File, time::Instant};

use nix::{
    dir::{Dir, Entry, Type},
    errno::Errno,
    fcntl::AtFlags,
    sys::stat::{SFlag, fstatat},
};
use serde::Serialize;

use super::{
    path::{NotePath, is_nameable, is_note},
    vault::{MAX_NOTE_BYTES, Vault, open_folder, read_plain_file},
};
use crate::{
    names::composed,
    protocol::{ActionError, shortened},
};

const MAX_DEPTH: usize = 32;
const MAX_NOTES: usize = 100_000;
/// Longest part of a line that is shown, or of the matching text if that is longer.
const MAX_LINE_CHARS: usize = 240;
const MAX_FOUND_CHARS: usize = 2000;
/// Most skipped files that are named.
const MAX_NAMED: usize = 20;

/// A line that contains the text, or the name of a note that does (line 0).
#[derive(Debug, Serialize)]
pub(super) struct Match {
    path: String,
    line: usize,
    text: String,
}

/// Files that were skipped.
#[derive(Debug, Default)]
pub(super) struct Skipped {
    pub(super) count: usize,
    pub(super) named: Vec<SkippedNote>,
}

/// A note that was skipped, in whole or in part.
#[derive(Debug, Serialize)]
pub(super) struct SkippedNote {
    path: String,
    reason: String,
}

impl Skipped {
    fn add(&mut self, path: impl Into<String>, reason: impl Into<String>) {
        self.count += 1;
        if self.named.len() < MAX_NAMED {
            self.named.push(SkippedNote { path: path.into(), reason: reason.into() });
        }
    }
}

/// Every note in a folder and below, ordered by path, and the entries that look like notes and are none.
pub(super) fn notes(
    vault: &Vault,
    folder: &[String],
    until: Instant,
) -> Result<(Vec<NotePath>, Skipped), ActionError> {
    let mut visitor = Visitor { until, notes: Vec::new(), skipped: Skipped::default() };
    let (folder, names) = vault.folder(folder)?;
    visitor.visit_folder(&folder, &names)?;
    visitor.notes.sort();
    visitor.skipped.named.sort_by(|one, other| one.path.cmp(&other.path));
    Ok((visitor.notes, visitor.skipped))
}

/// At most `limit` case-insensitive matches, in the order of [`notes`]; whether there are more; and the notes that could not
/// be searched.
pub(super) fn matches(
    vault: &Vault,
    query: &str,
    limit: usize,
    until: Instant,
) -> Result<(Vec<Match>, bool, Skipped), ActionError> {
    let query = folded(&composed(query));
    let (notes, mut skipped) = notes(vault, &[], until)?;
    let mut matches = Vec::new();
    for note in notes {
        check_time(until)?;
        let path = note.to_string();
        if folded(&composed(&path)).contains(&query) {
            matches.push(Match { path: path.clone(), line: 0, text: path.clone() });
        }
        let text = text_of(vault, &note, &mut skipped);
        for (index, line) in text.lines().enumerate() {
            if let Some(text) = snippet(line, &query) {
                matches.push(Match { path: path.clone(), line: index + 1, text });
            }
            if matches.len() > limit {
                matches.truncate(limit);
                return Ok((matches, true, skipped));
            }
        }
    }
    let more = matches.len() > limit;
    matches.truncate(limit);
    Ok((matches, more, skipped))
}

/// The searchable text of a note; the rest counts as skipped. A note that was removed meanwhile has no text.
fn text_of(vault: &Vault, note: &NotePath, skipped: &mut Skipped) -> String {
    let folder = match vault.folder(&note.folders) {
        Ok((folder, _)) => folder,
        Err(problem) => {
            if problem.code != 404 {
                skipped.add(note.to_string(), problem.message);
            }
            return String::new();
        }
    };
    let mut bytes = match read_plain_file(&folder, &note.name, MAX_NOTE_BYTES + 1) {
        Ok((bytes, _)) => bytes,
        Err(problem) => {
            if problem != Errno::ENOENT {
                skipped.add(note.to_string(), format!("cannot be read: {}", problem.desc()));
            }
            return String::new();
        }
    };
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || bytes.contains(&0) {
        skipped.add(note.to_string(), "not UTF-8 text: it is UTF-16 or binary");
        return String::new();
    }
    if bytes.len() > MAX_NOTE_BYTES {
        skipped.add(note.to_string(), format!("only the first {MAX_NOTE_BYTES} bytes were searched"));
        // At a character boundary.
        let is_inside = |byte: Option<&u8>| byte.is_some_and(|byte| byte & 0xc0 == 0x80);
        let end = (MAX_NOTE_BYTES - 3..=MAX_NOTE_BYTES).rev().find(|end| !is_inside(bytes.get(*end)));
        bytes.truncate(end.unwrap_or(MAX_NOTE_BYTES));
    }
    String::from_utf8(bytes).unwrap_or_else(|problem| {
        skipped.add(note.to_string(), "not entirely UTF-8 text; only the readable part was searched");
        String::from_utf8_lossy(problem.as_bytes()).into_owned()
    })
}

/// A line that contains `query`, or the part of a long line around it.
fn snippet(line: &str, query: &str) -> Option<String> {
    let line = line.trim();
    let whole = composed(line);
    let start = folded(&whole).find(query)?;
    let characters: Vec<char> = whole.chars().collect();
    if characters.len() <= MAX_LINE_CHARS {
        return Some(line.into());
    }
    // Translates byte offsets of the folded line into character indices of the line.
    let mut ends = characters.iter().scan(0, |end, c| {
        *end += fold(*c).map(char::len_utf8).sum::<usize>();
        Some(*end)
    });
    let first = ends.by_ref().take_while(|end| *end <= start).count();
    let last = characters.len().min(first + query.chars().count());
    let width = MAX_LINE_CHARS.max((last - first).min(MAX_FOUND_CHARS));
    let begin = first
        .saturating_sub(width.saturating_sub(last - first) / 2)
        .min(characters.len() - width.min(characters.len()));
    let end = characters.len().min(begin + width);
    let shown: String = characters[begin..end].iter().collect();
    let (before, after) = (if begin > 0 { "…" } else { "" }, if end < characters.len() { "…" } else { "" });
    Some(format!("{before}{shown}{after}"))
}

/// `text` in lower case.
fn folded(text: &str) -> String {
    if text.is_ascii() { text.to_ascii_lowercase() } else { text.chars().flat_map(fold).collect() }
}

/// Lower case of `c`; the final sigma equals the other sigma.
fn fold(c: char) -> impl Iterator<Item = char> {
    c.to_lowercase().map(|c| if c == 'ς' { 'σ' } else { c })
}

/// A walk through the folders of a vault.
struct Visitor {
    until: Instant,
    notes: Vec<NotePath>,
    skipped: Skipped,
}

impl Visitor {
    /// Collects every note below `folder`. Hidden entries are skipped silently, and links are not followed.
    fn visit_folder(&mut self, folder: &File, names: &[String]) -> Result<(), ActionError> {
        check_time(self.until)?;
        // A directory stream moves the offset of its descriptor, so the folder is opened again.
        let opened = open_folder(folder, ".").and_then(|own| Dir::from_fd(own.into()));
        let mut entries = match opened {
            Ok(entries) => entries,
            Err(problem) => {
                self.skip(names, "", &format!("the folder cannot be read: {}", problem.desc()));
                return Ok(());
            }
        };
        for entry in entries.iter() {
            match entry {
                Ok(entry) if entry.file_name().to_bytes().starts_with(b".") => {}
                Ok(entry) => self.visit_entry(folder, names, &entry)?,
                Err(problem) => {
                    self.skip(
                        names,
                        "",
                        &format!("the folder cannot be read to its end: {}", problem.desc()),
                    );
                    break;
                }
            }
        }
        Ok(())
    }

    fn visit_entry(&mut self, folder: &File, names: &[String], entry: &Entry) -> Result<(), ActionError> {
        let shown = entry.file_name().to_string_lossy();
        let kind = entry.file_type();
        let is_folder = matches!(kind, Some(Type::Directory));
        let Some(name) = entry.file_name().to_str().ok().filter(|name| is_nameable(name)) else {
            if is_folder || is_note(&shown) {
                self.skip(
                    names,
                    &shown,
                    "the name is not UTF-8, or contains a character that paths may not contain",
                );
            }
            return Ok(());
        };
        // Some file systems do not report the type of an entry.
        if matches!(kind, Some(Type::Directory) | None) {
            match open_folder(folder, name) {
                Ok(inner) if names.len() < MAX_DEPTH => {
                    return self.visit_folder(&inner, &[names, &[name.to_owned()]].concat());
                }
                Ok(_) => self.skip(names, name, &format!("more than {MAX_DEPTH} folders deep")),
                Err(Errno::ENOENT) => {}
                Err(problem) if is_folder => {
                    self.skip(names, name, &format!("cannot be opened: {}", problem.desc()));
                }
                Err(_) => return self.visit_note(names, name),
            }
            return Ok(());
        }
        match kind {
            Some(Type::File) => self.visit_note(names, name),
            Some(Type::Symlink) if is_note(name) || leads_to_folder(folder, name) => {
                self.skip(names, name, "a link; the agent follows no links");
                Ok(())
            }
            _ if is_note(name) => {
                self.skip(names, name, "not a plain file");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn visit_note(&mut self, names: &[String], name: &str) -> Result<(), ActionError> {
        if !is_note(name) {
            return Ok(());
        }
        self.notes.push(NotePath { folders: names.to_vec(), name: name.into() });
        if self.notes.len() > MAX_NOTES {
            let problem = format!("the vault has more than {MAX_NOTES} notes; pass a folder");
            return Err(ActionError::new(413, problem));
        }
        Ok(())
    }

    fn skip(&mut self, names: &[String], name: &str, reason: &str) {
        let path = names.iter().map(String::as_str).chain([name]).filter(|part| !part.is_empty());
        let path = path.collect::<Vec<_>>().join("/").replace(char::is_control, "?");
        self.skipped.add(shortened(&path, 256), reason);
    }
}

/// Whether a link leads to a folder. Only the type of its target is read.
fn leads_to_folder(folder: &File, name: &str) -> bool {
    fstatat(folder, name, AtFlags::empty())
        .is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR)
}

fn check_time(until: Instant) -> Result<(), ActionError> {
    if Instant::now() < until {
        Ok(())
    } else {
        Err(ActionError::timeout("the vault is too large to read within the deadline; pass a folder"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snippets_contain_the_matching_text() {
        for before in [0, 1, 100, 239, 240, 241, 500, 10_000] {
            for after in [0, 10, 300] {
                for query in ["needle", "größe", "ΟΔΟΣ", "İ", "e\u{301}t"] {
                    let filler = |count: usize| "İß ".chars().cycle().take(count).collect::<String>();
                    let line = format!("{}{query}{}", filler(before), filler(after));
                    let query = folded(&composed(query));
                    let shown = snippet(&line, &query).unwrap();
                    assert!(folded(&composed(&shown)).contains(&query), "{before} {after} {query}: {shown}");
                    assert!(shown.chars().count() <= MAX_LINE_CHARS + 2, "{shown}");
                }
            }
        }
        assert_eq!(snippet(&"x".repeat(500), "y"), None);
        let long = "y".repeat(1000);
        assert!(snippet(&format!("{}{long}", "x".repeat(500)), &long).unwrap().contains(&long));
    }
}
