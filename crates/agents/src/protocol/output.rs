//! What an agent says before its answer.

use std::io::{self, Write};

use phoenix_domain::{
    action::{ActionRequest, Chunk, OutputLine, ProgressReport},
    json::Object,
    limits::{MAX_OUTPUT_BYTES, MAX_OUTPUT_LINE_BYTES},
};
use uuid::Uuid;

/// Bytes of text in one line. Escaping makes a byte six bytes long at most, and the rest of the line is short.
const TEXT_BYTES: usize = (MAX_OUTPUT_LINE_BYTES - 1024) / 6;

/// Sends parts of a result, and progress reports, to the caller before the result is complete.
///
/// Nothing is sent when the request does not ask for it, or beyond [`MAX_OUTPUT_BYTES`]. The result is complete all the same.
pub struct Output<'a> {
    request_id: Uuid,
    sink: Option<&'a mut dyn Write>,
    /// Bytes of all chunks so far.
    sent: usize,
    failure: Option<io::Error>,
}

impl Output<'_> {
    /// An output that sends nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self { request_id: Uuid::nil(), sink: None, sent: 0, failure: None }
    }

    /// Whether chunks are welcome. An agent that can choose saves the effort otherwise.
    #[must_use]
    pub const fn is_wanted(&self) -> bool {
        self.sink.is_some()
    }

    /// Sends `text`, which follows the text that was sent before. A long text becomes several lines.
    pub fn chunk(&mut self, text: &str) {
        let mut rest = text;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.floor_char_boundary(TEXT_BYTES));
            self.send(Chunk { data: now.into(), delta: None });
            rest = later;
        }
    }

    /// Sends a delta in the shape of OpenAI's `choices[].delta`, with the `text` that is in it, if any. One that does not fit
    /// into a line is not sent.
    pub fn delta(&mut self, text: &str, delta: Object) {
        self.send(Chunk { data: text.into(), delta: Some(delta) });
    }

    /// Sends a progress report.
    pub fn progress(&mut self, report: ProgressReport) {
        self.write(&OutputLine::Progress { request_id: self.request_id, report });
    }

    fn send(&mut self, chunk: Chunk) {
        let size = chunk.size();
        if self.sent + size <= MAX_OUTPUT_BYTES {
            self.sent += size;
            self.write(&OutputLine::Chunk { request_id: self.request_id, chunk });
        } else {
            // Later chunks would leave a gap.
            self.sink = None;
        }
    }

    fn write(&mut self, line: &OutputLine) {
        let Some(sink) = &mut self.sink else { return };
        let written = serde_json::to_vec(line).map_err(io::Error::from).and_then(|mut line| {
            if line.len() >= MAX_OUTPUT_LINE_BYTES {
                return Ok(());
            }
            line.push(b'\n');
            sink.write_all(&line)?;
            sink.flush()
        });
        if let Err(failure) = written {
            self.sink = None;
            self.failure = Some(failure);
        }
    }
}

impl<'a> Output<'a> {
    /// The output of `request` on `sink`.
    pub(super) fn of(request: &ActionRequest, sink: &'a mut dyn Write) -> Self {
        let sink = request.meta.stream.then_some(sink);
        Self { request_id: request.request_id, sink, sent: 0, failure: None }
    }

    /// The first failure of the sink, if there was one.
    pub(super) fn into_failure(self) -> Option<io::Error> {
        self.failure
    }
}
