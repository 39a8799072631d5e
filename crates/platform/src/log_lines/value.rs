//! Values of fields as bytes of a line: JSON, or text in which nothing can break the line.

use std::{
    fmt::{self, Write as _},
    io::Write as _,
    ops::Range,
};

use tracing::field::{Field, Visit};

use super::is_for_readers;
use crate::telemetry::LogFormat;

/// Fields, rendered one after the other.
#[derive(Debug, Default)]
pub(super) struct Rendered {
    bytes: Vec<u8>,
    fields: Vec<(&'static str, Range<usize>)>,
}

impl Rendered {
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

    /// The last value of a name is the one that counts.
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

/// Takes in fields; the message apart from the others, where there is a place for it.
pub(super) struct Fields<'a> {
    pub(super) format: LogFormat,
    pub(super) into: &'a mut Rendered,
    pub(super) message: Option<&'a mut Vec<u8>>,
}

impl Fields<'_> {
    fn text(&mut self, field: &Field, text: fmt::Arguments<'_>) {
        let format = self.format;
        let render = |bytes: &mut Vec<u8>| {
            // Writing to memory does not fail.
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
        // JSON has no word for what is not a number.
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

/// Text inside a JSON string (<https://www.rfc-editor.org/rfc/rfc8259#section-7>).
struct JsonText<'a>(&'a mut Vec<u8>);

impl fmt::Write for JsonText<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while let Some(place) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)) {
            let (plain, special) = rest.split_at(place);
            self.0.extend_from_slice(plain);
            let Some((byte, after)) = special.split_first() else { break };
            match byte {
                b'"' => self.0.extend_from_slice(br#"\""#),
                b'\\' => self.0.extend_from_slice(br"\\"),
                b'\n' => self.0.extend_from_slice(br"\n"),
                b'\r' => self.0.extend_from_slice(br"\r"),
                b'\t' => self.0.extend_from_slice(br"\t"),
                other => write!(self.0, "\\u{other:04x}").map_err(|_| fmt::Error)?,
            }
            rest = after;
        }
        self.0.extend_from_slice(rest);
        Ok(())
    }
}

/// Line breaks and other control characters, made visible: what an agent says can't forge a line or move the cursor.
struct OneLine<'a>(&'a mut Vec<u8>);

impl fmt::Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut utf8 = [0; 4];
        for c in text.chars() {
            if c.is_control() {
                write!(self.0, "{}", c.escape_default()).map_err(|_| fmt::Error)?;
            } else {
                self.0.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_a_json_string_that_means_it(text in any::<String>()) {
            let mut bytes = vec![b'"'];
            JsonText(&mut bytes).write_str(&text).unwrap();
            bytes.push(b'"');
            prop_assert_eq!(serde_json::from_slice::<String>(&bytes).unwrap(), text);
        }

        #[test]
        fn any_text_stays_in_one_line(text in any::<String>()) {
            let mut bytes = Vec::new();
            OneLine(&mut bytes).write_str(&text).unwrap();
            prop_assert!(!String::from_utf8(bytes).unwrap().contains(char::is_control));
        }
    }
}
