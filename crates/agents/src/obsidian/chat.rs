//! The action that a chat asks for: "list notes", "read note X", "search notes for X", "create note TITLE: BODY".

use crate::protocol::ActionError;

/// An action that a chat asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ChatRequest<'a> {
    List { folder: &'a str },
    Read { note: &'a str },
    Search { query: &'a str },
    Create { title: &'a str, content: &'a str },
}

/// Phrases, the longer ones first, because the first match counts.
const SEARCH_PHRASES: &[&str] = &[
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
const CREATE_PHRASES: &[&str] = &[
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

/// Parses `message`. It begins with one of a few phrases; the text that follows is taken verbatim.
pub(super) fn parse(message: &str) -> Result<ChatRequest<'_>, ActionError> {
    let sentence = message.trim();
    let sentence = after(sentence, &["please"]).unwrap_or(sentence);
    if let Some(rest) =
        after(sentence, &["list notes", "list my notes", "list all notes", "show notes", "show my notes"])
    {
        let rest = past_colon(rest);
        let folder = after(rest, &["in folder", "in the folder", "in", "below"]).unwrap_or(rest);
        let folder = unquoted(folder.trim_end_matches(['.', '?', '!']));
        return Ok(ChatRequest::List { folder });
    }
    if let Some(note) =
        after(sentence, &["read note", "read the note", "show note", "show the note", "open note"])
    {
        return non_empty(unquoted(past_colon(note))).map(|note| ChatRequest::Read { note });
    }
    if let Some(query) = after(sentence, SEARCH_PHRASES) {
        return non_empty(unquoted(past_colon(query))).map(|query| ChatRequest::Search { query });
    }
    if let Some(note) = after(sentence, CREATE_PHRASES) {
        let note = past_colon(note);
        let (title, content) = note.split_once(':').ok_or_else(not_understood)?;
        let title = non_empty(unquoted(title.trim()))?;
        return Ok(ChatRequest::Create { title, content: content.trim() });
    }
    Err(not_understood())
}

/// The text after the first of `phrases` that `sentence` begins with, as whole words and in any case.
fn after<'a>(sentence: &'a str, phrases: &[&str]) -> Option<&'a str> {
    phrases.iter().find_map(|phrase| {
        let (head, rest) = sentence.split_at_checked(phrase.len())?;
        let ends = !rest.starts_with(char::is_alphanumeric);
        (ends && head.eq_ignore_ascii_case(phrase)).then(|| rest.trim_start())
    })
}

/// `text` without the colon of "read note:".
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
    fn messages_are_parsed_into_chat_requests() {
        for (message, request) in [
            ("list notes", ChatRequest::List { folder: "" }),
            ("Please list my notes in Projects/2026?", ChatRequest::List { folder: "Projects/2026" }),
            ("Read note Meeting: Monday", ChatRequest::Read { note: "Meeting: Monday" }),
            ("read note \"a b\"", ChatRequest::Read { note: "a b" }),
            ("read note: a", ChatRequest::Read { note: "a" }),
            ("search notes for Größe", ChatRequest::Search { query: "Größe" }),
            ("search notes about rum", ChatRequest::Search { query: "rum" }),
            ("Search notes: rum", ChatRequest::Search { query: "rum" }),
            ("create a note called Rum: dark", ChatRequest::Create { title: "Rum", content: "dark" }),
            (
                "create note Shopping: milk: 2\nbread",
                ChatRequest::Create { title: "Shopping", content: "milk: 2\nbread" },
            ),
        ] {
            assert_eq!(parse(message).unwrap(), request, "{message}");
        }
    }

    #[test]
    fn other_messages_are_rejected_with_a_hint() {
        for message in
            ["hello", "read note", "search notes for", "create note x", "create note : y", "listnotes", ""]
        {
            let refusal = parse(message).unwrap_err();
            assert_eq!(refusal.code, 400, "{message}");
            assert!(refusal.message.contains("create note TITLE"), "{message}");
        }
    }
}
