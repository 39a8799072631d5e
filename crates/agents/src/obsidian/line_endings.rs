//! Line endings of a note: a line feed, or those of other systems.

use std::borrow::Cow;

/// `note` with `content` appended on lines of its own, with the line endings of the note. A retry that finds its text at the
/// end leaves the note as it is.
pub(super) fn append(mut note: String, content: &str, repeated: bool) -> String {
    let ending = of(&note).or_else(|| of(content)).unwrap_or("\n");
    let content = if of(&note).is_some() { with(content, ending) } else { Cow::Borrowed(content) };
    if repeated && note.ends_with(&*content) {
        return note;
    }
    if !note.is_empty() && !note.ends_with(['\n', '\r']) {
        note.push_str(ending);
    }
    note.push_str(&content);
    note
}

/// The most frequent line ending of `text`, if it has any.
fn of(text: &str) -> Option<&'static str> {
    let windows = text.matches("\r\n").count();
    let unix = text.matches('\n').count() - windows;
    let old_mac = text.matches('\r').count() - windows;
    // Of equal counts the last wins, and a line feed is the most common.
    let counts = [(old_mac, "\r"), (windows, "\r\n"), (unix, "\n")];
    counts.into_iter().filter(|(count, _)| *count > 0).max_by_key(|(count, _)| *count).map(|(_, end)| end)
}

/// `text` with all line endings replaced by `ending`.
fn with<'a>(text: &'a str, ending: &str) -> Cow<'a, str> {
    if text.contains(['\n', '\r']) {
        Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n").replace('\n', ending))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appended_lines_use_the_line_endings_of_the_note() {
        for (note, content, whole) in [
            ("", "a\nb", "a\nb"),
            ("", "a\r\nb", "a\r\nb"),
            ("one", "two", "one\ntwo"),
            ("one", "two\r\nthree", "one\r\ntwo\r\nthree"),
            ("one\n", "two\r\nthree", "one\ntwo\nthree"),
            ("one\r\n", "two\nthree\n", "one\r\ntwo\r\nthree\r\n"),
            ("one\r\ntwo", "three", "one\r\ntwo\r\nthree"),
            ("one\rtwo", "three", "one\rtwo\rthree"),
            ("a\r\nb\r\nc\n", "d\ne", "a\r\nb\r\nc\nd\r\ne"),
        ] {
            assert_eq!(append(note.into(), content, false), whole);
            assert_eq!(append(whole.into(), content, true), whole, "a second attempt");
        }
    }
}
