//! Comparison of names that look the same: Unicode encodes `é` as one character or as two, and a file system keeps either.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// `text` in Unicode normalization form C.
pub(crate) fn composed(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes {
        Cow::Borrowed(text)
    } else {
        Cow::Owned(text.nfc().collect())
    }
}

/// Whether two names are equal in normalization form C.
pub(crate) fn same(one: &str, other: &str) -> bool {
    one == other || composed(one) == composed(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_equal_in_every_normalization_form() {
        for (one, other) in [("e\u{301}", "é"), ("a\u{323}\u{307}", "a\u{307}\u{323}"), ("\u{212a}", "K")] {
            assert!(same(one, other), "{one} {other}");
        }
        for (one, other) in [("e", "é"), ("A", "a"), ("ﬁ", "fi")] {
            assert!(!same(one, other), "{one} {other}");
        }
    }
}
