//! The text of a line before it is parsed: what common JSON writers produce and JSON parsers reject.

use std::borrow::Cow;

/// What replaces half of a surrogate pair: the escape of U+FFFD.
const REPLACEMENT: &str = "\\ufffd";

/// Numbers that JavaScript and Python know and JSON does not, the longest first.
const NOT_JSON: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// `line` without the byte-order mark that some writers put first.
pub(super) fn without_byte_order_mark(line: &str) -> &str {
    line.strip_prefix('\u{feff}').unwrap_or(line)
}

/// `line` with U+FFFD in the place of each escaped surrogate that has no other half. Writers that cut a text between two
/// UTF-16 units produce them; they stand for no character.
pub(super) fn with_whole_characters(line: &str) -> Cow<'_, str> {
    if !(line.contains("\\ud") || line.contains("\\uD")) {
        return line.into();
    }
    let mut mended: Option<String> = None;
    // The part of the line that was copied into `mended`.
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = line[at..].find('\\') {
        at += found;
        let (unit, next) = (escaped_unit(line, at), escaped_unit(line, at + REPLACEMENT.len()));
        at += match (unit, next) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 2 * REPLACEMENT.len(),
            (Some(0xd800..=0xdfff), _) => {
                let mended = mended.get_or_insert_default();
                mended.push_str(&line[copied..at]);
                mended.push_str(REPLACEMENT);
                copied = at + REPLACEMENT.len();
                REPLACEMENT.len()
            }
            (Some(_), _) => REPLACEMENT.len(),
            // A backslash and the character after it, whatever that is.
            (None, _) => 1 + line[at + 1..].chars().next().map_or(0, char::len_utf8),
        };
    }
    match mended {
        Some(mut mended) => {
            mended.push_str(&line[copied..]);
            mended.into()
        }
        None => line.into(),
    }
}

/// The number after `\u` at `at`.
fn escaped_unit(line: &str, at: usize) -> Option<u16> {
    let digits = line.get(at..at + REPLACEMENT.len())?.strip_prefix("\\u")?;
    let all_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    all_hex.then(|| u16::from_str_radix(digits, 16).ok())?
}

/// The first word in `line`, outside its strings, that is a number to other languages and not to JSON.
pub(super) fn number_outside_json(line: &str) -> Option<&'static str> {
    let (mut in_string, mut escaped) = (false, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'-' | b'I' | b'N' if !in_string => {
                let word = NOT_JSON.iter().find(|word| line[at..].starts_with(**word));
                if word.is_some() {
                    return word.copied();
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Units of UTF-16, surrogates among them more often than by chance.
    fn units() -> impl Strategy<Value = Vec<u16>> {
        prop::collection::vec(prop_oneof![any::<u16>(), 0xd800_u16..=0xdfff, 0x20_u16..0x7f], 0..40)
    }

    proptest! {
        #[test]
        fn any_escaped_text_is_read_as_utf16_is(units in units(), upper in any::<bool>()) {
            let escape = |unit: &u16| if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") };
            let line = format!("\"{}\"", units.iter().map(escape).collect::<String>());
            let text: String = serde_json::from_str(&with_whole_characters(&line)).unwrap();
            prop_assert_eq!(text, String::from_utf16_lossy(&units));
        }

        #[test]
        fn any_json_text_stays_as_it_is(text in any::<String>()) {
            let line = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(with_whole_characters(&line), line.as_str());
            prop_assert_eq!(number_outside_json(&line), None);
        }
    }
}
