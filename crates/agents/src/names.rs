//! Names that look the same: Unicode writes `é` as one character or as two, and a file system keeps whichever it was given.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// `text` in normalisation form C.
pub(crate) fn composed(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.nfc().collect())
    }
}

/// Whether two names look the same.
pub(crate) fn same(one: &str, other: &str) -> bool {
    one == other || composed(one) == composed(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_either_form_are_the_same() {
        for (one, other) in [("e\u{301}", "é"), ("a\u{323}\u{307}", "a\u{307}\u{323}"), ("\u{212a}", "K")] {
            assert!(same(one, other), "{one} {other}");
        }
        for (one, other) in [("e", "é"), ("A", "a"), ("ﬁ", "fi")] {
            assert!(!same(one, other), "{one} {other}");
        }
    }
}
