//! Output of an agent within bounds: lines of standard output up to the answer, the end of standard error.

use phoenix_domain::limits::{MAX_ANSWER_BYTES, MAX_STDERR_BYTES};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{pipes::OutputPipe, redact::Redactor};

/// Capacity added for a read; most responses fit into the first.
const READ_CAPACITY: usize = 4 * 1024;

/// Least spare capacity for a read.
const MIN_SPARE: usize = 1024;

/// Capacity that a worker keeps for its next response.
const MAX_RETAINED_CAPACITY: usize = 32 * 1024;

/// Standard output, line by line, up to the end of the answer.
#[derive(Debug, Default)]
pub(crate) struct OutputLines {
    bytes: Vec<u8>,
    /// Start of the present line.
    start: usize,
    /// End of the present line, once it is complete.
    end: Option<usize>,
}

/// State of [`OutputLines`] after a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The line is not complete.
    Open,
    /// The line is complete.
    Complete,
    /// The line is longer than allowed.
    TooLong,
    /// The output has ended.
    Ended,
}

impl OutputLines {
    /// Reads once. Cancel safe. A pipe that cannot be read counts as ended.
    pub(crate) async fn read(&mut self, from: &mut (impl AsyncRead + Unpin)) -> Progress {
        let read = std::mem::take(&mut self.start);
        self.bytes.drain(..read);
        self.end = self.end.map(|end| end - read);
        reserve(&mut self.bytes);
        let before = self.bytes.len();
        match from.read_buf(&mut self.bytes).await {
            Ok(1..) => self.find_end(before),
            Ok(0) | Err(_) => Progress::Ended,
        }
    }

    /// Continues with the line after the present one, which is complete.
    pub(crate) fn advance(&mut self) -> Progress {
        if let Some(end) = self.end.take() {
            self.start = end + 1;
        }
        self.find_end(self.start)
    }

    fn find_end(&mut self, from: usize) -> Progress {
        if self.end.is_none() {
            let newline = self.bytes[from..].iter().position(|&byte| byte == b'\n');
            self.end = newline.map(|index| from + index);
        }
        let length = self.bytes().len();
        match self.end {
            _ if length >= MAX_ANSWER_BYTES => Progress::TooLong,
            None => Progress::Open,
            Some(_) => Progress::Complete,
        }
    }

    /// Whether the end of the present line was seen.
    pub(crate) const fn is_complete(&self) -> bool {
        self.end.is_some()
    }

    /// Whether there is output after the present line.
    pub(crate) fn has_more(&self) -> bool {
        self.end.is_some_and(|end| end + 1 < self.bytes.len())
    }

    /// The present line without its newline; all output after the line before it if it is not complete.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end.unwrap_or(self.bytes.len())]
    }

    /// Discards everything. Keeps up to [`MAX_RETAINED_CAPACITY`] for the next answer.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(MAX_RETAINED_CAPACITY);
        (self.start, self.end) = (0, None);
    }
}

/// The end of standard error, bounded for any amount of output.
#[derive(Debug, Default)]
pub(crate) struct StderrTail {
    bytes: Vec<u8>,
    truncated: bool,
}

impl StderrTail {
    /// Reads once; false at the end of output. Cancel safe.
    pub(crate) async fn read(&mut self, from: &mut (impl AsyncRead + Unpin)) -> bool {
        reserve(&mut self.bytes);
        let read = matches!(from.read_buf(&mut self.bytes).await, Ok(1..));
        // Truncated in large steps, so that a flood is copied at most once.
        if self.bytes.len() > 4 * MAX_STDERR_BYTES {
            self.keep_last(2 * MAX_STDERR_BYTES);
        }
        read
    }

    /// Reads what is available, without waiting and up to a bound.
    pub(crate) fn read_available(&mut self, from: &mut OutputPipe) {
        let mut chunk = [0; MIN_SPARE];
        for _ in 0..2 * MAX_STDERR_BYTES / MIN_SPARE {
            match from.read_now(&mut chunk) {
                Ok(read @ 1..) => self.bytes.extend_from_slice(&chunk[..read]),
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// The last [`MAX_STDERR_BYTES`] as text, without secrets and surrounding white space.
    pub(crate) fn text(&mut self, redactor: &Redactor) -> String {
        self.keep_last(MAX_STDERR_BYTES + redactor.longest());
        let text = String::from_utf8_lossy(&self.bytes);
        let text = redactor.clean(text);
        // A truncated tail may begin with the rest of a secret.
        let doubtful = if self.truncated { redactor.longest() } else { 0 };
        last_bytes(&text, MAX_STDERR_BYTES.min(text.len().saturating_sub(doubtful))).trim().to_owned()
    }

    /// Discards everything. Keeps up to [`MAX_RETAINED_CAPACITY`].
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(MAX_RETAINED_CAPACITY);
        self.truncated = false;
    }

    fn keep_last(&mut self, bytes: usize) {
        if let Some(surplus) = self.bytes.len().checked_sub(bytes).filter(|surplus| *surplus > 0) {
            self.bytes.drain(..surplus);
            self.truncated = true;
        }
    }
}

fn reserve(bytes: &mut Vec<u8>) {
    if bytes.capacity() - bytes.len() < MIN_SPARE {
        bytes.reserve(READ_CAPACITY);
    }
}

/// At most the last `limit` bytes of `text`, cut at a character boundary.
fn last_bytes(text: &str, limit: usize) -> &str {
    let from = text.len().saturating_sub(limit);
    let from = (from..text.len()).find(|&index| text.is_char_boundary(index)).unwrap_or(text.len());
    &text[from..]
}

#[cfg(test)]
mod tests {
    use phoenix_domain::llm::LlmSettings;

    use super::*;

    async fn tail_of(mut input: &[u8], redactor: &Redactor) -> String {
        let mut tail = StderrTail::default();
        while tail.read(&mut input).await {}
        tail.text(redactor)
    }

    #[tokio::test]
    async fn stderr_tail_is_the_end_of_the_output_within_its_bound() {
        let none = Redactor::default();
        assert_eq!(tail_of(b"\n one line \n", &none).await, "one line");
        assert_eq!(tail_of(b"bad \xff byte", &none).await, "bad \u{fffd} byte");
        let long = "ö".repeat(1024 * 1024) + "end";
        let tail = tail_of(long.as_bytes(), &none).await;
        assert!(
            tail.ends_with("öend") && tail.len() <= MAX_STDERR_BYTES && tail.len() > MAX_STDERR_BYTES - 4
        );
        let tail = tail_of(&[0xff; 3 * MAX_STDERR_BYTES], &none).await;
        assert!(tail.len() <= MAX_STDERR_BYTES, "replacement characters count");
    }

    #[tokio::test]
    async fn truncated_stderr_tail_contains_no_part_of_a_secret() {
        let mut llm = LlmSettings::default();
        llm.openai.api_key = Some("0123456789abcdef".to_owned().into());
        let redactor = Redactor::new(&llm);
        for after in MAX_STDERR_BYTES - 20..MAX_STDERR_BYTES + 20 {
            let text = format!("{}0123456789abcdef{}", "x".repeat(1000), "y".repeat(after));
            let tail = tail_of(text.as_bytes(), &redactor).await;
            let tail = tail.replace("[redacted]", "");
            assert!(!tail.contains(|c: char| c.is_ascii_digit()), "{}", &tail[..40]);
        }
    }

    #[tokio::test]
    async fn line_ends_at_its_newline_or_its_limit() {
        let mut lines = OutputLines::default();
        assert_eq!(lines.read(&mut &b"half"[..]).await, Progress::Open);
        assert_eq!(lines.read(&mut &b" a line\n"[..]).await, Progress::Complete);
        assert_eq!(
            (lines.bytes(), lines.is_complete(), lines.has_more()),
            (&b"half a line"[..], true, false)
        );
        assert_eq!(lines.read(&mut &b"more"[..]).await, Progress::Complete);
        assert!(lines.has_more());
        lines.clear();
        assert_eq!((lines.bytes(), lines.is_complete()), (&b""[..], false));
        assert_eq!(lines.read(&mut &b""[..]).await, Progress::Ended);
        let long = vec![b'x'; MAX_ANSWER_BYTES];
        let mut input = &long[..];
        let (mut lines, mut progress) = (OutputLines::default(), Progress::Open);
        while progress == Progress::Open {
            progress = lines.read(&mut input).await;
        }
        assert_eq!(progress, Progress::TooLong);
    }

    #[tokio::test]
    async fn lines_that_arrive_together_are_read_one_by_one() {
        let mut lines = OutputLines::default();
        assert_eq!(lines.read(&mut &b"a\n\nlong\nres"[..]).await, Progress::Complete);
        let mut found = vec![lines.bytes().to_vec()];
        while lines.advance() == Progress::Complete {
            found.push(lines.bytes().to_vec());
        }
        assert_eq!(found, [&b"a"[..], b"", b"long"]);
        assert_eq!(lines.read(&mut &b"t\n"[..]).await, Progress::Complete);
        assert_eq!((lines.bytes(), lines.has_more()), (&b"rest"[..], false));
    }
}
