//! Rendering of field values: as JSON, or as text that cannot break the line.

use std::{
    fmt::{self, Write as _},
    io::Write as _,
    ops::Range,
};

use tracing::field::{Field, Visit};

use super::format::LogFormat;

/// Rendered fields.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    bytes: Vec<u8>,
    fields: Vec<(&'static str, Range<usize>)>,
}

/// Room of the fields of a span in bytes: two ids, a trace and a name.
const SPAN_BYTES: usize = 192;

impl Rendered {
    /// Of a span, whose fields rarely need more room than this.
    pub(super) fn of_span(fields: usize) -> Self {
        Self { bytes: Vec::with_capacity(SPAN_BYTES), fields: Vec::with_capacity(fields) }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.fields.clear();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &[u8])> {
        self.fields.iter().map(|(name, range)| (*name, self.bytes.get(range.clone()).unwrap_or_default()))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(known, _)| *known == name)
    }

    /// Renders a field. A later value of the same name replaces an earlier one.
    fn put(&mut self, name: &'static str, render: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.bytes.len();
        render(&mut self.bytes);
        let range = begin..self.bytes.len();
        match self.fields.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = range,
            None => self.fields.push((name, range)),
        }
    }
}

/// Visitor that renders fields into `into`, and the message into `message` when that is set.
pub(super) struct Fields<'a> {
    pub(super) format: LogFormat,
    pub(super) into: &'a mut Rendered,
    pub(super) message: Option<&'a mut Vec<u8>>,
}

impl Fields<'_> {
    fn text(&mut self, field: &Field, text: fmt::Arguments<'_>) {
        let format = self.format;
        let render = |bytes: &mut Vec<u8>| {
            // Writing to memory cannot fail.
            let _ = match format {
                LogFormat::Json => {
                    bytes.push(b'"');
                    let written = JsonText(bytes).write_fmt(text);
                    bytes.push(b'"');
                    written
                }
                LogFormat::Pretty => OneLine(bytes).write_fmt(text),
            };
        };
        match &mut self.message {
            Some(message) if field.name() == "message" => {
                message.clear();
                render(message);
            }
            _ if is_for_readers(field) => self.into.put(field.name(), render),
            _ => {}
        }
    }

    fn number(&mut self, field: &Field, number: fmt::Arguments<'_>) {
        if is_for_readers(field) {
            self.into.put(field.name(), |bytes| {
                let _ = bytes.write_fmt(number);
            });
        }
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, format_args!("{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.number(field, format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.number(field, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.number(field, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no representation of NaN and infinity.
        if value.is_finite() {
            self.number(field, format_args!("{value:?}"));
        } else {
            self.text(field, format_args!("{value}"));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format_args!("{value:?}"));
    }
}

/// Whether a field belongs into a log line: those of the tracing exporter (`otel.…`) do not.
fn is_for_readers(field: &Field) -> bool {
    !field.name().starts_with("otel.")
}

/// Whether a character moves the cursor, breaks the line, or changes or hides the text around it: control characters (C0, DEL
/// and C1), line and paragraph separators, directional marks, and invisible format characters except joiners of letters and
/// emoji.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}')
        || matches!(c, '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Whether text is printable ASCII, without `"` and `\\` if it is `quoted`. It looks at every byte, which the compiler does many at a
/// time.
fn is_plain(text: &str, quoted: bool) -> bool {
    text.bytes().fold(true, |is_plain, byte| {
        let is_printable = byte.wrapping_sub(b' ') < 0x5f;
        let is_special = quoted & ((byte == b'"') | (byte == b'\\'));
        is_plain & is_printable & !is_special
    })
}

/// Writes text inside a JSON string (<https://www.rfc-editor.org/rfc/rfc8259#section-7>), [deceptive](is_deceptive) characters
/// escaped.
struct JsonText<'a>(&'a mut Vec<u8>);

impl fmt::Write for JsonText<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Almost all text: ids, numbers and words.
        if is_plain(text, true) {
            self.0.extend_from_slice(text.as_bytes());
            return Ok(());
        }
        let mut rest = text;
        while let Some(index) = rest.find(|c| matches!(c, '"' | '\\') || is_deceptive(c)) {
            let (plain, special) = rest.split_at(index);
            self.0.extend_from_slice(plain.as_bytes());
            let mut after = special.chars();
            match after.next() {
                Some('"') => self.0.extend_from_slice(br#"\""#),
                Some('\\') => self.0.extend_from_slice(br"\\"),
                Some('\n') => self.0.extend_from_slice(br"\n"),
                Some('\r') => self.0.extend_from_slice(br"\r"),
                Some('\t') => self.0.extend_from_slice(br"\t"),
                Some(other) => {
                    for unit in other.encode_utf16(&mut [0; 2]) {
                        write!(self.0, "\\u{unit:04x}").map_err(|_| fmt::Error)?;
                    }
                }
                None => {}
            }
            rest = after.as_str();
        }
        self.0.extend_from_slice(rest.as_bytes());
        Ok(())
    }
}

/// Writes text with [deceptive](is_deceptive) characters escaped: an agent's message cannot forge a line or move the cursor.
struct OneLine<'a>(&'a mut Vec<u8>);

impl fmt::Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if is_plain(text, false) {
            self.0.extend_from_slice(text.as_bytes());
            return Ok(());
        }
        let mut utf8 = [0; 4];
        for c in text.chars() {
            match c {
                '\n' | '\r' | '\t' => write!(self.0, "{}", c.escape_default()).map_err(|_| fmt::Error)?,
                c if is_deceptive(c) => write!(self.0, "{}", c.escape_unicode()).map_err(|_| fmt::Error)?,
                c => self.0.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLES: &[char] = &[
        '\u{7f}',
        '\u{85}',
        '\u{9b}',
        '\u{61c}',
        '\u{200f}',
        '\u{2028}',
        '\u{2029}',
        '\u{202e}',
        '\u{2066}',
        '\u{e0041}',
        '\u{1b}',
    ];

    /// Text in which special characters are frequent.
    fn texts() -> impl Strategy<Value = String> {
        let c = prop_oneof![
            any::<char>(),
            prop::sample::select(EXAMPLES),
            prop::sample::select(&['"', '\\', 'é', '😀'])
        ];
        prop::collection::vec(c, 0..40).prop_map(|chars| chars.into_iter().collect())
    }

    #[test]
    fn deceptive_characters_are_escaped_and_letters_are_not() {
        assert!(EXAMPLES.iter().all(|c| is_deceptive(*c)));
        for text in ["naïve", "日本語", "שלום", "नमस्ते", "👩\u{200d}👧", "\u{ac}", "\u{a0}"]
        {
            assert!(!text.contains(is_deceptive), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_round_trips_through_its_json_string(text in texts()) {
            let mut bytes = vec![b'"'];
            JsonText(&mut bytes).write_str(&text).unwrap();
            bytes.push(b'"');
            prop_assert_eq!(serde_json::from_slice::<String>(&bytes).unwrap(), text);
            prop_assert!(!String::from_utf8(bytes).unwrap().contains(is_deceptive));
        }

        #[test]
        fn any_text_stays_in_one_line(text in texts()) {
            let mut bytes = Vec::new();
            OneLine(&mut bytes).write_str(&text).unwrap();
            prop_assert!(!String::from_utf8(bytes).unwrap().contains(is_deceptive));
        }
    }
}
