//! Server-sent events within bounds (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use phoenix_domain::limits::MAX_ANSWER_BYTES;

/// The `data` of events that arrive in pieces.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    is_too_long: bool,
    /// Whether the last byte was a carriage return, after which a line feed belongs to it.
    after_return: bool,
}

impl Events {
    /// Takes the next bytes. Returns the data of the events that they complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut complete = Vec::new();
        for &byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => complete.extend(self.end_line()),
                _ if self.line.len() + self.data.len() < MAX_ANSWER_BYTES => self.line.push(byte),
                _ => self.is_too_long = true,
            }
        }
        complete
    }

    /// Whether an event has more data than an answer may have.
    pub(super) const fn is_too_long(&self) -> bool {
        self.is_too_long
    }

    fn end_line(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            return std::mem::take(&mut self.has_data).then_some(data);
        }
        if let Some(data) = line.strip_prefix(b"data:") {
            if std::mem::replace(&mut self.has_data, true) {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(data.strip_prefix(b" ").unwrap_or(data));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_complete_whatever_the_pieces_are() {
        let stream = b": comment\r\n\r\nevent: message\ndata: {\"a\":\ndata:1}\n\nid: 7\ndata\n\ndata: x\r\rdata: never";
        for size in 1..stream.len() {
            let mut events = Events::default();
            let found: Vec<_> = stream.chunks(size).flat_map(|piece| events.push(piece)).collect();
            assert_eq!(found, [b"{\"a\":\n1}".to_vec(), b"x".to_vec()], "{size}");
        }
    }

    #[test]
    fn event_beyond_the_limit_is_noticed() {
        let mut events = Events::default();
        let piece = vec![b'x'; MAX_ANSWER_BYTES / 2];
        for (piece, is_too_long) in [(&b"data: "[..], false), (&piece, false), (&piece, true), (&piece, true)]
        {
            assert!(events.push(piece).is_empty());
            assert_eq!(events.is_too_long(), is_too_long);
        }
    }
}
