//! What an agent writes, within bounds: one line on standard output, the end of standard error.

use phoenix_domain::limits::{MAX_ANSWER_BYTES, MAX_STDERR_BYTES};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{pipes::Output, redact::Redactor};

/// The room for the first read, which most answers fit into; it doubles as it is used up.
const FIRST_ROOM: usize = 4 * 1024;

/// With less room than this nothing is read.
const LEAST_ROOM: usize = 1024;

/// The room that a worker keeps for its next answer.
const MAX_ROOM_KEPT: usize = 32 * 1024;

/// Standard output up to the end of its first line.
#[derive(Debug, Default)]
pub(crate) struct Line {
    bytes: Vec<u8>,
    end: Option<usize>,
}

/// What a [`Line`] has become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More is to come.
    Open,
    /// The line is there.
    Complete,
    /// There is more than a line.
    Surplus,
    /// The line is longer than allowed.
    TooLong,
    /// The output ended.
    Ended,
}

impl Line {
    /// Reads once. May be dropped and called again. An output that can't be read has ended.
    pub(crate) async fn read(&mut self, from: &mut (impl AsyncRead + Unpin)) -> Progress {
        make_room(&mut self.bytes);
        let before = self.bytes.len();
        match from.read_buf(&mut self.bytes).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Progress::Ended,
        }
        if self.end.is_none() {
            self.end = self.bytes[before..].iter().position(|&byte| byte == b'\n').map(|at| before + at);
        }
        match self.end {
            None if self.bytes.len() >= MAX_ANSWER_BYTES => Progress::TooLong,
            None => Progress::Open,
            Some(end) if end >= MAX_ANSWER_BYTES => Progress::TooLong,
            Some(end) if end + 1 < self.bytes.len() => Progress::Surplus,
            Some(_) => Progress::Complete,
        }
    }

    /// Whether the end of the line was seen.
    pub(crate) const fn is_complete(&self) -> bool {
        self.end.is_some()
    }

    /// The line without its end; without an end, all there is.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.end.unwrap_or(self.bytes.len())]
    }

    /// Forgets the line. Keeps the room for the next, unless that is a lot.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(MAX_ROOM_KEPT);
        self.end = None;
    }
}

/// The end of standard error, whatever its length.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: Vec<u8>,
    cut: bool,
}

impl Tail {
    /// Reads once; false at the end. May be dropped and called again.
    pub(crate) async fn read(&mut self, from: &mut (impl AsyncRead + Unpin)) -> bool {
        make_room(&mut self.bytes);
        let read = matches!(from.read_buf(&mut self.bytes).await, Ok(1..));
        // Cut in large steps, so that a flood costs no more than copying it once.
        if self.bytes.len() > 4 * MAX_STDERR_BYTES {
            self.keep(2 * MAX_STDERR_BYTES);
        }
        read
    }

    /// Reads without waiting, and not for ever.
    pub(crate) fn read_what_is_there(&mut self, from: &mut Output) {
        let mut there = [0; LEAST_ROOM];
        for _ in 0..2 * MAX_STDERR_BYTES / LEAST_ROOM {
            match from.read_now(&mut there) {
                Ok(read @ 1..) => self.bytes.extend_from_slice(&there[..read]),
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// The last [`MAX_STDERR_BYTES`] as text without secrets and without white space around it.
    pub(crate) fn text(&mut self, redactor: &Redactor) -> String {
        self.keep(MAX_STDERR_BYTES + redactor.longest());
        let text = String::from_utf8_lossy(&self.bytes);
        let text = redactor.clean(text);
        // Where it was cut, it may begin with the rest of a secret.
        let doubtful = if self.cut { redactor.longest() } else { 0 };
        last_bytes(&text, MAX_STDERR_BYTES.min(text.len().saturating_sub(doubtful))).trim().to_owned()
    }

    /// Forgets everything. Keeps the room, unless that is a lot.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(MAX_ROOM_KEPT);
        self.cut = false;
    }

    fn keep(&mut self, bytes: usize) {
        if let Some(surplus) = self.bytes.len().checked_sub(bytes).filter(|surplus| *surplus > 0) {
            self.bytes.drain(..surplus);
            self.cut = true;
        }
    }
}

fn make_room(bytes: &mut Vec<u8>) {
    if bytes.capacity() - bytes.len() < LEAST_ROOM {
        bytes.reserve(FIRST_ROOM);
    }
}

/// At most the last `limit` bytes of `text`, cut between characters.
fn last_bytes(text: &str, limit: usize) -> &str {
    let from = text.len().saturating_sub(limit);
    let from = (from..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    &text[from..]
}

#[cfg(test)]
mod tests {
    use phoenix_domain::llm::LlmSettings;

    use super::*;

    async fn tail_of(mut input: &[u8], redactor: &Redactor) -> String {
        let mut tail = Tail::default();
        while tail.read(&mut input).await {}
        tail.text(redactor)
    }

    #[tokio::test]
    async fn a_tail_is_the_end_of_it_all_within_its_bound() {
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
    async fn no_part_of_a_secret_is_left_where_the_tail_was_cut() {
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
    async fn a_line_ends_where_it_ends() {
        let mut line = Line::default();
        assert_eq!(line.read(&mut &b"half"[..]).await, Progress::Open);
        assert_eq!(line.read(&mut &b" a line\n"[..]).await, Progress::Complete);
        assert_eq!((line.bytes(), line.is_complete()), (&b"half a line"[..], true));
        assert_eq!(line.read(&mut &b"more"[..]).await, Progress::Surplus);
        line.clear();
        assert_eq!((line.bytes(), line.is_complete()), (&b""[..], false));
        assert_eq!(line.read(&mut &b""[..]).await, Progress::Ended);
        let long = vec![b'x'; MAX_ANSWER_BYTES];
        let mut input = &long[..];
        let (mut line, mut progress) = (Line::default(), Progress::Open);
        while progress == Progress::Open {
            progress = line.read(&mut input).await;
        }
        assert_eq!(progress, Progress::TooLong);
    }
}
