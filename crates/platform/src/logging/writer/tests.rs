use std::sync::mpsc;

use proptest::prelude::*;

use super::*;

/// Tells what was written, a message for each write; stands still until each message is taken.
struct Reader(mpsc::SyncSender<Vec<u8>>);

impl Write for Reader {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

fn outbox() -> (LogWriter, mpsc::Receiver<Vec<u8>>) {
    let (sender, written) = mpsc::sync_channel(0);
    (LogWriter::to(Reader(sender)).unwrap(), written)
}

#[test]
fn lines_are_written_together_in_order() {
    let (outbox, written) = outbox();
    let mut text = Vec::new();
    for n in 0..100 {
        let line = format!("{n}\n");
        text.extend_from_slice(line.as_bytes());
        outbox.line(Level::INFO, line.as_bytes());
    }
    let (mut seen, mut writes) = (Vec::new(), 0);
    while seen.len() < text.len() {
        seen.extend(written.recv_timeout(PATIENCE).unwrap());
        writes += 1;
    }
    assert_eq!(seen, text);
    assert!(writes < 100, "{writes} writes");
}

#[test]
fn warning_is_written_after_what_came_before() {
    let (outbox, written) = outbox();
    outbox.line(Level::INFO, b"before\n");
    outbox.line(Level::WARN, b"trouble\n");
    let mut seen = Vec::new();
    while !seen.ends_with(b"trouble\n") {
        seen.extend(written.recv_timeout(PATIENCE).unwrap());
    }
    assert_eq!(seen, b"before\ntrouble\n");
}

#[test]
fn lines_without_reader_are_bounded_and_never_block() {
    let (outbox, written) = outbox();
    // What waits and what the thread holds, three times over; levels that are written at once, too.
    let sent = 3 * 2 * (MOST_BYTES / 1024);
    for n in 0..sent {
        outbox.line(if n % 2 == 0 { Level::DEBUG } else { Level::ERROR }, format!("{n:01023}\n").as_bytes());
    }
    let begun = Instant::now();
    outbox.flush();
    assert!(begun.elapsed() < FLUSH_LIMIT + STUCK, "{:?}", begun.elapsed());
    assert!(lock(&outbox.0.state).waiting.len() <= MOST_BYTES);

    // A reader that comes back gets what waited, in whole lines, and then whatever follows.
    let reader = thread::spawn(move || {
        let mut seen = Vec::new();
        while !seen.ends_with(b"after\n") {
            seen.extend(written.recv_timeout(PATIENCE).unwrap());
        }
        String::from_utf8(seen).unwrap()
    });
    let is_idle = || {
        let state = lock(&outbox.0.state);
        state.waiting.is_empty() && !state.is_writing
    };
    while !is_idle() {
        thread::yield_now();
    }
    outbox.line(Level::INFO, b"after\n");
    let seen = reader.join().unwrap();
    let numbers: Vec<usize> = seen.lines().filter_map(|line| line.parse().ok()).collect();
    assert!((MOST_BYTES / 1024..=sent * 2 / 3).contains(&numbers.len()), "{} lines", numbers.len());
    assert!(numbers.is_sorted() && numbers[0] == 0);
    assert_eq!(seen.lines().count(), numbers.len() + 1, "every line is whole");
}

proptest! {
    #[test]
    fn pieces_hold_everything_in_whole_lines(lengths in prop::collection::vec(1_usize..6000, 0..20)) {
        let batch: Vec<u8> =
            lengths.iter().flat_map(|length| [vec![b'x'; length - 1], vec![b'\n']].concat()).collect();
        let pieces: Vec<_> = pieces(&batch).collect();
        prop_assert_eq!(&pieces.concat(), &batch);
        for piece in pieces {
            prop_assert!(!piece.is_empty() && piece.len() <= WRITE_BYTES);
            let is_part_of_a_long_line = lengths.iter().any(|length| *length > WRITE_BYTES);
            prop_assert!(piece.ends_with(b"\n") || is_part_of_a_long_line);
        }
    }
}
