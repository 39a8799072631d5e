use std::sync::mpsc;

use proptest::prelude::*;

use super::*;

/// Sends each write over a channel, and blocks until it is received.
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

const TIME_LIMIT: Duration = Duration::from_secs(10);

fn writer() -> (LogWriter, mpsc::Receiver<Vec<u8>>) {
    let (sender, written) = mpsc::sync_channel(0);
    (LogWriter::to(Reader(sender), PIPE, "a test").unwrap(), written)
}

#[test]
fn lines_are_written_together_in_order() {
    let (writer, written) = writer();
    let mut text = Vec::new();
    for n in 0..100 {
        let line = format!("{n}\n");
        text.extend_from_slice(line.as_bytes());
        writer.line(Level::INFO, line.as_bytes());
    }
    let (mut seen, mut writes) = (Vec::new(), 0);
    while seen.len() < text.len() {
        seen.extend(written.recv_timeout(TIME_LIMIT).unwrap());
        writes += 1;
    }
    assert_eq!(seen, text);
    assert!(writes < 100, "{writes} writes");
}

#[test]
fn warning_is_written_at_once_after_earlier_lines() {
    let (writer, written) = writer();
    writer.line(Level::INFO, b"before\n");
    writer.line(Level::WARN, b"trouble\n");
    let mut seen = Vec::new();
    while !seen.ends_with(b"trouble\n") {
        seen.extend(written.recv_timeout(TIME_LIMIT).unwrap());
    }
    assert_eq!(seen, b"before\ntrouble\n");
}

#[test]
fn lines_without_reader_are_bounded_and_never_block() {
    let (writer, written) = writer();
    // Three times the capacity of queue and thread together, with urgent levels among the lines.
    let sent = 3 * 2 * (MAX_WAITING_BYTES / 1024);
    for n in 0..sent {
        writer.line(if n % 2 == 0 { Level::DEBUG } else { Level::ERROR }, format!("{n:01023}\n").as_bytes());
    }
    let started = Instant::now();
    writer.flush();
    assert!(started.elapsed() < FLUSH_LIMIT + STALL_LIMIT, "{:?}", started.elapsed());
    assert!(writer.0.state.lock().waiting.len() <= MAX_WAITING_BYTES);

    // A reader that resumes gets the waiting lines whole, and then later ones.
    let reader = thread::spawn(move || {
        let mut seen = Vec::new();
        while !seen.ends_with(b"after\n") {
            seen.extend(written.recv_timeout(TIME_LIMIT).unwrap());
        }
        String::from_utf8(seen).unwrap()
    });
    let is_idle = || {
        let state = writer.0.state.lock();
        state.waiting.is_empty() && !state.is_writing
    };
    while !is_idle() {
        thread::yield_now();
    }
    writer.line(Level::INFO, b"after\n");
    let seen = reader.join().unwrap();
    let numbers: Vec<usize> = seen.lines().filter_map(|line| line.parse().ok()).collect();
    assert!((MAX_WAITING_BYTES / 1024..=sent * 2 / 3).contains(&numbers.len()), "{} lines", numbers.len());
    assert!(numbers.is_sorted() && numbers[0] == 0);
    assert_eq!(seen.lines().count(), numbers.len() + 1, "every line is whole");
}

proptest! {
    #[test]
    fn chunks_hold_the_whole_batch_in_whole_lines(lengths in prop::collection::vec(1_usize..6000, 0..20)) {
        let batch: Vec<u8> =
            lengths.iter().flat_map(|length| [vec![b'x'; length - 1], vec![b'\n']].concat()).collect();
        let chunks: Vec<_> = chunks(&batch, PIPE.write_bytes).collect();
        prop_assert_eq!(&chunks.concat(), &batch);
        for chunk in chunks {
            prop_assert!(!chunk.is_empty() && chunk.len() <= PIPE.write_bytes);
            let is_part_of_a_long_line = lengths.iter().any(|length| *length > PIPE.write_bytes);
            prop_assert!(chunk.ends_with(b"\n") || is_part_of_a_long_line);
        }
    }
}
