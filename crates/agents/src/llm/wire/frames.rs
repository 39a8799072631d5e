//! Events of a streamed body: server-sent events, or one JSON document per line.
//!
//! The parts of a body may end anywhere: in an event, in a line, in a character. Comments and pings are skipped. The size of
//! one event is bounded.

use phoenix_domain::{json::Json, llm::Dialect, object};

use super::{super::error_body::has_content, json::parse, types::ResponseError};

/// Longest event in bytes.
pub(in crate::llm) const MAX_EVENT_BYTES: usize = 8 * 1024 * 1024;

/// How a provider separates events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::llm) enum Format {
    /// <https://html.spec.whatwg.org/multipage/server-sent-events.html>
    Sse,
    /// One JSON document per line.
    Ndjson,
}

impl Format {
    pub(in crate::llm) const fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::OpenAi | Dialect::Anthropic | Dialect::Gemini => Self::Sse,
            Dialect::Ollama => Self::Ndjson,
        }
    }
}

/// An event.
#[derive(Debug, PartialEq)]
pub(in crate::llm) enum Frame {
    Data(Json),
    /// `[DONE]`
    Done,
}

/// Reader of events.
pub(in crate::llm) struct Frames {
    format: Format,
    /// What was received and not read yet, from `start`.
    buffer: Vec<u8>,
    start: usize,
    /// Index up to which no line ends.
    searched: usize,
    /// Data lines of an event that has not ended.
    data: Vec<u8>,
    /// Whether the event names itself an error.
    names_error: bool,
    /// Whether the previous line ended in CR, so that a following LF belongs to it.
    after_cr: bool,
}

impl Frames {
    pub(in crate::llm) const fn new(format: Format) -> Self {
        Self {
            format,
            buffer: Vec::new(),
            start: 0,
            searched: 0,
            data: Vec::new(),
            names_error: false,
            after_cr: false,
        }
    }

    /// Adds a part of the body.
    pub(in crate::llm) fn push(&mut self, part: &[u8]) {
        self.buffer.drain(..self.start);
        self.searched = self.searched.saturating_sub(self.start);
        self.start = 0;
        self.buffer.extend_from_slice(part);
    }

    /// The next event; `None` until more of the body arrives.
    ///
    /// # Errors
    /// For an event that is too large or no JSON.
    pub(in crate::llm) fn next(&mut self) -> Result<Option<Frame>, ResponseError> {
        while let Some(line) = self.line()? {
            let frame = match self.format {
                Format::Ndjson => document(&line)?,
                Format::Sse => self.field(&line)?,
            };
            if frame.is_some() {
                return Ok(frame);
            }
        }
        Ok(None)
    }

    /// The events that the end of the body leaves: a last line needs no line break.
    ///
    /// # Errors
    /// For half an event.
    pub(in crate::llm) fn end(&mut self) -> Result<Vec<Frame>, ResponseError> {
        self.push(b"\n\n");
        // The rest of a body that broke off is no event.
        let rest: Result<Vec<_>, _> = std::iter::from_fn(|| self.next().transpose()).collect();
        rest.map_err(|_| ResponseError::Unfinished)
    }

    /// The next line without its end: LF, CR LF or CR.
    fn line(&mut self) -> Result<Option<Vec<u8>>, ResponseError> {
        loop {
            let from = self.searched.max(self.start);
            let is_end = |byte: &u8| *byte == b'\n' || *byte == b'\r' && self.format == Format::Sse;
            let Some(length) = self.buffer[from..].iter().position(is_end) else {
                self.searched = self.buffer.len();
                let pending = self.buffer.len() - self.start + self.data.len();
                return if pending > MAX_EVENT_BYTES { Err(ResponseError::TooLarge) } else { Ok(None) };
            };
            let end = from + length;
            let line = self.buffer[self.start..end].to_vec();
            let is_second_half = line.is_empty() && self.after_cr && self.buffer[end] == b'\n';
            self.after_cr = self.buffer[end] == b'\r';
            self.start = end + 1;
            self.searched = self.start;
            if !is_second_half {
                return Ok(Some(line));
            }
        }
    }

    /// The event that `line` completes.
    fn field(&mut self, line: &[u8]) -> Result<Option<Frame>, ResponseError> {
        let line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            let names_error = std::mem::take(&mut self.names_error);
            return Ok(document(&data)?.map(|frame| if names_error { as_error(frame) } else { frame }));
        }
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"event" => self.names_error = value.trim_ascii() == b"error",
            b"data" => {
                if self.data.len() + value.len() > MAX_EVENT_BYTES {
                    return Err(ResponseError::TooLarge);
                }
                // Some servers forget the empty line between events.
                let is_one_line = !self.data.is_empty() && !self.data.contains(&b'\n');
                let complete = is_one_line.then(|| document(&self.data).ok().flatten()).flatten();
                if complete.is_some() {
                    self.data.clear();
                } else if !self.data.is_empty() {
                    self.data.push(b'\n');
                }
                self.data.extend_from_slice(value);
                return Ok(complete);
            }
            // A comment, an id, or a field that the format does not define.
            _ => {}
        }
        Ok(None)
    }
}

fn document(text: &[u8]) -> Result<Option<Frame>, ResponseError> {
    let text = text.trim_ascii();
    if text.is_empty() {
        return Ok(None);
    }
    if text.starts_with(b"[DONE]") {
        return Ok(Some(Frame::Done));
    }
    parse(text).map(Frame::Data).map(Some).ok_or(ResponseError::Malformed)
}

fn as_error(frame: Frame) -> Frame {
    match frame {
        Frame::Data(data) if !has_content(&data["error"]) => Frame::Data(object! {"error": data}.into()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The frames of `body` when it arrives in parts of `size` bytes.
    fn frames(format: Format, body: &[u8], size: usize) -> Result<Vec<Frame>, ResponseError> {
        let mut frames = Frames::new(format);
        let mut read = Vec::new();
        for part in body.chunks(size) {
            frames.push(part);
            while let Some(frame) = frames.next()? {
                read.push(frame);
            }
        }
        read.extend(frames.end()?);
        Ok(read)
    }

    fn data(value: Value) -> Frame {
        Frame::Data(value.into())
    }

    #[test]
    fn sse_events_are_read_in_parts_of_every_size() {
        let body = "\u{feff}: OPENROUTER PROCESSING\n\nevent: ping\r\ndata: {\"type\": \"ping\"}\r\n\r\n\
            id: 7\ndata:{\"a\":\"ä€𝄞\"}\n\ndata: {\ndata: \"b\": 2}\n\n\rdata: 3\r\rdata: [DONE]\n\n";
        let expected = [
            data(json!({"type": "ping"})),
            data(json!({"a": "ä€𝄞"})),
            data(json!({"b": 2})),
            data(json!(3)),
            Frame::Done,
        ];
        for size in 1..body.len() {
            assert_eq!(frames(Format::Sse, body.as_bytes(), size).unwrap(), expected, "{size}");
        }
    }

    #[test]
    fn events_without_an_empty_line_between_them_are_separate() {
        let body = b"data: {\"a\":1}\ndata: {\"a\":2}\ndata: [DONE]";
        let expected = [data(json!({"a": 1})), data(json!({"a": 2})), Frame::Done];
        assert_eq!(frames(Format::Sse, body, 5).unwrap(), expected);
    }

    #[test]
    fn json_lines_are_read_in_parts_of_every_size() {
        let body = "{\"a\":\"ä\"}\r\n\n{\"a\":2}".as_bytes();
        for size in 1..body.len() {
            let expected = [data(json!({"a": "ä"})), data(json!({"a": 2}))];
            assert_eq!(frames(Format::Ndjson, body, size).unwrap(), expected, "{size}");
        }
    }

    #[test]
    fn error_event_without_an_error_member_is_an_error() {
        let body = b"event: error\ndata: {\"message\":\"M\"}\n\ndata: {\"a\":1}\n\n";
        let expected = [data(json!({"error": {"message": "M"}})), data(json!({"a": 1}))];
        assert_eq!(frames(Format::Sse, body, 100).unwrap(), expected);
    }

    #[test]
    fn half_an_event_and_garbage_are_errors() {
        let half = frames(Format::Sse, b"data: {\"a\":1}\n\ndata: {\"a\":", 100);
        assert_eq!(half.unwrap_err(), ResponseError::Unfinished);
        assert_eq!(frames(Format::Ndjson, b"{\"a\":", 100).unwrap_err(), ResponseError::Unfinished);
        assert_eq!(frames(Format::Sse, b"data: <html>\n\n", 100).unwrap_err(), ResponseError::Malformed);
        assert_eq!(frames(Format::Ndjson, b"no\n", 100).unwrap_err(), ResponseError::Malformed);
        assert_eq!(frames(Format::Sse, b"no event at all", 100).unwrap(), []);
    }

    #[test]
    fn event_of_fifty_megabytes_is_not_kept() {
        for format in [Format::Sse, Format::Ndjson] {
            let mut frames = Frames::new(format);
            let part = vec![b'x'; 1024 * 1024];
            frames.push(b"data: ");
            let read = (0..50).find_map(|_| {
                frames.push(&part);
                frames.next().err()
            });
            assert_eq!(read, Some(ResponseError::TooLarge));
            assert!(frames.buffer.len() <= MAX_EVENT_BYTES + 2 * part.len());
        }
        let mut frames = Frames::new(Format::Sse);
        let line = [b"data: ".as_slice(), &vec![b'x'; 1024 * 1024], b"\n"].concat();
        let read = (0..50).find_map(|_| {
            frames.push(&line);
            frames.next().err()
        });
        assert_eq!(read, Some(ResponseError::TooLarge));
    }
}
