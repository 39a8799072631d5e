//! Lines of a server's output within bounds.

use std::io;

use phoenix_domain::limits::MAX_ANSWER_BYTES;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of one read.
const READ_CAPACITY: usize = 64 * 1024;

/// Output that was read, line by line. A line beyond the limit is dropped while it is read; the id in it is kept, because only
/// the request that it responds to has failed.
#[derive(Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// Start of the present line, and how far its end was searched.
    start: usize,
    searched: usize,
    /// Scanner of a line that is being dropped.
    dropping: Option<IdScanner>,
}

/// A complete line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// Its bytes without the newline.
    Whole(&'a [u8]),
    /// A line beyond the limit that was dropped, and the id in it.
    TooLong(Option<u64>),
}

impl Lines {
    /// Reads once, and returns the number of bytes; 0 at the end of the output. Cancel safe.
    ///
    /// # Errors
    /// Those of the pipe.
    pub(super) async fn read(&mut self, from: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        if self.bytes.is_empty() {
            self.bytes.shrink_to(READ_CAPACITY);
        }
        self.bytes.reserve(READ_CAPACITY);
        from.read_buf(&mut self.bytes).await
    }

    /// The next complete line.
    pub(super) fn next(&mut self) -> Option<Line<'_>> {
        let found = self.bytes[self.searched..].iter().position(|&byte| byte == b'\n');
        let (start, end) = (self.start, found.map_or(self.bytes.len(), |index| self.searched + index));
        if self.dropping.is_some() || end - start > MAX_ANSWER_BYTES {
            self.dropping.get_or_insert_default().feed(&self.bytes[start..end]);
            self.start = end;
        }
        self.searched = end;
        found?;
        (self.start, self.searched) = (end + 1, end + 1);
        match self.dropping.take() {
            Some(scanner) => Some(Line::TooLong(scanner.id())),
            None => Some(Line::Whole(&self.bytes[start..end])),
        }
    }
}

/// Finds the number in the member `id` of an object, without keeping the object.
#[derive(Debug, Clone, Default)]
pub(super) struct IdScanner {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    /// Whether the next string at the first level is the name of a member.
    expects_name: bool,
    /// The first bytes of that name.
    name: Vec<u8>,
    in_id: bool,
    id: Option<u64>,
}

impl IdScanner {
    /// The id in `line`.
    pub(super) fn id_in(line: &[u8]) -> Option<u64> {
        let mut scanner = Self::default();
        scanner.feed(line);
        scanner.id()
    }

    fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.in_string {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => self.in_string = false,
                    _ if self.depth == 1 && self.expects_name && self.name.len() < 3 => self.name.push(byte),
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => {
                    self.in_string = true;
                    self.name.clear();
                }
                b'{' | b'[' => {
                    self.depth += 1;
                    self.expects_name = self.depth == 1;
                }
                b'}' | b']' => self.depth = self.depth.saturating_sub(1),
                b',' if self.depth == 1 => (self.expects_name, self.in_id) = (true, false),
                b':' if self.depth == 1 => {
                    self.in_id = self.expects_name && self.name == b"id";
                    self.expects_name = false;
                }
                b'0'..=b'9' if self.depth == 1 && self.in_id => {
                    let digit = u64::from(byte - b'0');
                    self.id = Some(self.id.unwrap_or(0).saturating_mul(10).saturating_add(digit));
                }
                _ => {}
            }
        }
    }

    const fn id(&self) -> Option<u64> {
        self.id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines_of(mut input: &[u8]) -> Vec<Result<Vec<u8>, Option<u64>>> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        loop {
            let read = lines.read(&mut input).await.unwrap();
            while let Some(line) = lines.next() {
                found.push(match line {
                    Line::Whole(line) => Ok(line.to_vec()),
                    Line::TooLong(id) => Err(id),
                });
            }
            assert!(lines.bytes.capacity() < 2 * MAX_ANSWER_BYTES + 2 * READ_CAPACITY);
            if read == 0 {
                return found;
            }
        }
    }

    #[tokio::test]
    async fn lines_are_split_and_those_beyond_the_limit_are_dropped() {
        let long = "x".repeat(2 * MAX_ANSWER_BYTES);
        let input = format!("a\n\n{{\"result\":\"{long}\",\"id\":42}}\nlast\nrest");
        let found = lines_of(input.as_bytes()).await;
        assert_eq!(found, [Ok(b"a".to_vec()), Ok(Vec::new()), Err(Some(42)), Ok(b"last".to_vec())]);
        let fits = format!("{}\n", "y".repeat(MAX_ANSWER_BYTES));
        assert_eq!(lines_of(fits.as_bytes()).await[0].as_ref().map(Vec::len), Ok(MAX_ANSWER_BYTES));
    }

    #[test]
    fn id_is_found_at_the_first_level_only() {
        for (line, id) in [
            (r#"{"jsonrpc":"2.0","id":12,"result":{"id":3}}"#, Some(12)),
            (r#"{"result":{"id":3,"x":"\"id\":4"},"id": 7 ,"a":9}"#, Some(7)),
            (r#"{"result":[{"id":3}],"idx":5,"x":"id"}"#, None),
            (r#"{"id":"#, None),
            ("[1,2]", None),
        ] {
            assert_eq!(IdScanner::id_in(line.as_bytes()), id, "{line}");
        }
    }
}
