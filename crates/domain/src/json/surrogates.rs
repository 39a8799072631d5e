//! Repair of lone surrogates in JSON text.

use std::borrow::Cow;

/// Replaces each escaped lone surrogate in `text` by the escaped replacement character U+FFFD. UTF-8 cannot represent a lone
/// surrogate, and programs that cut text inside a character write them.
#[must_use]
pub fn replace_lone_surrogates(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut replaced: Option<String> = None;
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = bytes[at..].iter().position(|byte| *byte == b'\\') {
        let escape = at + found;
        at = match code_unit(&bytes[escape..]) {
            Some(0xd800..=0xdbff) if matches!(code_unit(&bytes[escape + 6..]), Some(0xdc00..=0xdfff)) => {
                escape + 12
            }
            Some(0xd800..=0xdfff) => {
                let text_so_far = replaced.get_or_insert_with(|| String::with_capacity(text.len()));
                text_so_far.push_str(&text[copied..escape]);
                text_so_far.push_str("\\ufffd");
                copied = escape + 6;
                copied
            }
            Some(_) => escape + 6,
            // The byte after the backslash belongs to the escape, whatever it is.
            None => (escape + 2).min(bytes.len()),
        };
    }
    match replaced {
        Some(mut replaced) => {
            replaced.push_str(&text[copied..]);
            Cow::Owned(replaced)
        }
        None => Cow::Borrowed(text),
    }
}

/// The UTF-16 code unit of an escape `\uXXXX` at the beginning of `bytes`.
fn code_unit(bytes: &[u8]) -> Option<u32> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    let digits =
        std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u32::from_str_radix(digits, 16).ok()
}
