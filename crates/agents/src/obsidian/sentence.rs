//! Which action a sentence asks for: "list notes", "read note X", "search notes for X", "create note TITLE: BODY".

use crate::ActionError;

/// What a chat wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish<'a> {
    List { folder: &'a str },
    Read { note: &'a str },
    Search { query: &'a str },
    Create { title: &'a str, content: &'a str },
}

/// The longer ones first, since the first that fits counts.
const SEARCHING: &[&str] = &[
    "search notes for",
    "search notes about",
    "search my notes for",
    "search my notes about",
    "search the notes for",
    "find notes about",
    "find notes for",
    "find notes with",
    "search notes",
];
const CREATING: &[&str] = &[
    "create a note called",
    "create a note named",
    "create a note titled",
    "create a new note called",
    "create a new note named",
    "create a new note titled",
    "create note",
    "create a note",
    "create a new note",
    "new note",
];

/// Sentences are few and begin with a verb; what follows is the caller's own text and is taken as it stands.
pub(super) fn understand(message: &str) -> Result<Wish<'_>, ActionError> {
    let sentence = message.trim();
    let sentence = after(sentence, &["please"]).unwrap_or(sentence);
    if let Some(rest) =
        after(sentence, &["list notes", "list my notes", "list all notes", "show notes", "show my notes"])
    {
        let rest = past_colon(rest);
        let folder = after(rest, &["in folder", "in the folder", "in", "below"]).unwrap_or(rest);
        let folder = unquoted(folder.trim_end_matches(['.', '?', '!']));
        return Ok(Wish::List { folder });
    }
    if let Some(note) =
        after(sentence, &["read note", "read the note", "show note", "show the note", "open note"])
    {
        return non_empty(unquoted(past_colon(note))).map(|note| Wish::Read { note });
    }
    if let Some(query) = after(sentence, SEARCHING) {
        return non_empty(unquoted(past_colon(query))).map(|query| Wish::Search { query });
    }
    if let Some(note) = after(sentence, CREATING) {
        let note = past_colon(note);
        let (title, content) = note.split_once(':').ok_or_else(not_understood)?;
        let title = non_empty(unquoted(title.trim()))?;
        return Ok(Wish::Create { title, content: content.trim() });
    }
    Err(not_understood())
}

/// What follows the first of `beginnings` that `sentence` begins with, as whole words and in any case.
fn after<'a>(sentence: &'a str, beginnings: &[&str]) -> Option<&'a str> {
    beginnings.iter().find_map(|beginning| {
        let (head, rest) = sentence.split_at_checked(beginning.len())?;
        let ends = !rest.starts_with(char::is_alphanumeric);
        (ends && head.eq_ignore_ascii_case(beginning)).then(|| rest.trim_start())
    })
}

/// What a caller writes after "read note:".
fn past_colon(text: &str) -> &str {
    text.strip_prefix(':').map_or(text, str::trim_start)
}

fn unquoted(text: &str) -> &str {
    let text = text.trim();
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    inner.unwrap_or(text)
}

fn non_empty(text: &str) -> Result<&str, ActionError> {
    if text.is_empty() { Err(not_understood()) } else { Ok(text) }
}

fn not_understood() -> ActionError {
    ActionError::invalid(
        "The notes agent did not understand this message. It understands `list notes`, `list notes in FOLDER`, \
         `read note NAME`, `search notes for TEXT` and `create note TITLE: TEXT`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_ask_for_what_they_say() {
        for (message, wish) in [
            ("list notes", Wish::List { folder: "" }),
            ("Please list my notes in Projects/2026?", Wish::List { folder: "Projects/2026" }),
            ("Read note Meeting: Monday", Wish::Read { note: "Meeting: Monday" }),
            ("read note \"a b\"", Wish::Read { note: "a b" }),
            ("read note: a", Wish::Read { note: "a" }),
            ("search notes for Größe", Wish::Search { query: "Größe" }),
            ("search notes about rum", Wish::Search { query: "rum" }),
            ("Search notes: rum", Wish::Search { query: "rum" }),
            ("create a note called Rum: dark", Wish::Create { title: "Rum", content: "dark" }),
            (
                "create note Shopping: milk: 2\nbread",
                Wish::Create { title: "Shopping", content: "milk: 2\nbread" },
            ),
        ] {
            assert_eq!(understand(message).unwrap(), wish, "{message}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_there_is() {
        for message in
            ["hello", "read note", "search notes for", "create note x", "create note : y", "listnotes", ""]
        {
            let refusal = understand(message).unwrap_err();
            assert_eq!(refusal.code, 400, "{message}");
            assert!(refusal.message.contains("create note TITLE"), "{message}");
        }
    }
}
