//! Free text of a column.
//!
//! PostgreSQL's `text` cannot hold U+0000, which callers and agents may send. There, U+0000 is stored as `␀0` and the symbol
//! `␀` (U+2400) as `␀␀`; any other text is stored as it is. Equal texts stay equal, different texts stay different.

use std::borrow::Cow;

use serde::Deserialize;
use sqlx::{Database, Decode, Postgres, Sqlite, Type, error::BoxDynError};

/// Introduces an escaped character.
const ESCAPE: char = '\u{2400}';

/// Free text, as it was before it was stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(in crate::store) struct Text(pub(in crate::store) String);

/// The form of `text` that PostgreSQL can hold.
pub(in crate::store) fn escape(text: &str) -> Cow<'_, str> {
    // The bytes of U+2400 begin with 0xE2, which most texts do not contain either.
    if !text.contains(['\0', ESCAPE]) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '\0' => escaped.extend([ESCAPE, '0']),
            ESCAPE => escaped.extend([ESCAPE, ESCAPE]),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

/// Reverts [`escape`].
pub(in crate::store) fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(index) = rest.find(ESCAPE) {
        plain.push_str(&rest[..index]);
        let mut after = rest[index..].chars();
        after.next();
        match after.clone().next() {
            Some('0') => {
                plain.push('\0');
                after.next();
            }
            Some(ESCAPE) => {
                plain.push(ESCAPE);
                after.next();
            }
            // Written with other tools.
            _ => plain.push(ESCAPE),
        }
        rest = after.as_str();
    }
    plain.push_str(rest);
    plain
}

impl Type<Sqlite> for Text {
    fn type_info() -> <Sqlite as Database>::TypeInfo {
        <String as Type<Sqlite>>::type_info()
    }

    fn compatible(found: &<Sqlite as Database>::TypeInfo) -> bool {
        <String as Type<Sqlite>>::compatible(found)
    }
}

impl<'r> Decode<'r, Sqlite> for Text {
    fn decode(value: <Sqlite as Database>::ValueRef<'r>) -> Result<Self, BoxDynError> {
        <String as Decode<'r, Sqlite>>::decode(value).map(Self)
    }
}

impl Type<Postgres> for Text {
    fn type_info() -> <Postgres as Database>::TypeInfo {
        <String as Type<Postgres>>::type_info()
    }

    fn compatible(found: &<Postgres as Database>::TypeInfo) -> bool {
        <String as Type<Postgres>>::compatible(found)
    }
}

impl<'r> Decode<'r, Postgres> for Text {
    fn decode(value: <Postgres as Database>::ValueRef<'r>) -> Result<Self, BoxDynError> {
        <&str as Decode<'r, Postgres>>::decode(value).map(|text| Self(unescape(text)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn escaped_text_has_no_nul_and_reads_as_before(text in "([\0\u{2400}0a]|.){0,40}") {
            let escaped = escape(&text);
            prop_assert!(!escaped.contains('\0'));
            prop_assert_eq!(unescape(&escaped), text);
        }
    }

    #[test]
    fn text_without_nul_is_stored_as_it_is() {
        assert_eq!(escape("\\u0000 ünïcode"), "\\u0000 ünïcode");
        assert_eq!(escape("a\0b"), "a␀0b");
        assert_eq!(unescape("a␀ lone ␀"), "a␀ lone ␀");
    }
}
