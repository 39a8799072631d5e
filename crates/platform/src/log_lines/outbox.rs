//! Lines on their way to standard error.
//!
//! A line of its own for each chat in each service, and a write to the system for each line, is more than what they tell costs
//! otherwise. So lines are gathered for some milliseconds and written together, by a thread that does nothing else. A
//! line from WARN on is written at once, with those before it: whoever tells of trouble may not get to say more.

use std::{
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing::Level;

/// How long lines gather. A process that is killed takes them along.
const GATHER: Duration = Duration::from_millis(5);

/// So much may wait, in bytes; beyond it, whoever logs writes. A reader that is slow slows the service down, as it would without this.
const MOST_BYTES: usize = 256 * 1024;

/// Where finished lines go.
pub trait Lines: 'static {
    /// Takes a line, its line break included.
    fn line(&self, level: Level, line: &[u8]);
}

impl<F: Fn() -> W + 'static, W: Write> Lines for F {
    fn line(&self, _: Level, line: &[u8]) {
        // A log that can't be written has nowhere to say so. One write, so that lines of threads don't mix.
        let _ = self().write_all(line);
    }
}

/// To standard error, gathered. Clones share what they gather.
#[derive(Debug, Clone)]
pub struct Outbox<W = fn() -> io::Stderr>(Arc<Shared<W>>);

#[derive(Debug)]
struct Shared<W> {
    waiting: Mutex<Vec<u8>>,
    /// Held while lines are written, and before `waiting`: they come out in the order in which they went in.
    writing: Mutex<Vec<u8>>,
    arrived: Condvar,
    writer: W,
}

impl Outbox {
    /// To standard error, from now on.
    pub(crate) fn stderr() -> Self {
        let shared = Shared {
            waiting: Mutex::default(),
            writing: Mutex::default(),
            arrived: Condvar::new(),
            writer: io::stderr as fn() -> io::Stderr,
        };
        let outbox = Self(Arc::new(shared));
        outbox.clone().write_in_background();
        outbox
    }
}

impl<W: Fn() -> O + Send + Sync + 'static, O: Write> Outbox<W> {
    #[expect(clippy::disallowed_methods, reason = "the thread that sleeps is its own")]
    fn write_in_background(self) {
        let shared = self.0;
        let write = move || {
            loop {
                drop(shared.arrived.wait_while(lock(&shared.waiting), |waiting| waiting.is_empty()));
                thread::sleep(GATHER);
                shared.write();
            }
        };
        // Without the thread, lines wait for the next one from WARN on, or until there are many.
        let _ = thread::Builder::new().name("log".into()).spawn(write);
    }

    /// Writes whatever waits.
    pub(crate) fn flush(&self) {
        self.0.write();
    }
}

impl<W: Fn() -> O, O: Write> Shared<W> {
    fn write(&self) {
        let mut writing = lock(&self.writing);
        mem::swap(&mut *writing, &mut *lock(&self.waiting));
        if !writing.is_empty() {
            let _ = (self.writer)().write_all(&writing);
            writing.clear();
        }
        writing.shrink_to(MOST_BYTES);
    }
}

impl<W: Fn() -> O + 'static, O: Write> Lines for Outbox<W> {
    fn line(&self, level: Level, line: &[u8]) {
        let shared = &self.0;
        let (was_empty, is_full) = {
            let mut waiting = lock(&shared.waiting);
            let was_empty = waiting.is_empty();
            waiting.extend_from_slice(line);
            (was_empty, waiting.len() > MOST_BYTES)
        };
        if level <= Level::WARN || is_full {
            shared.write();
        } else if was_empty {
            shared.arrived.notify_one();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is locked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Instant};

    use super::*;

    /// Tells what was written, a message for each write.
    struct Told(mpsc::Sender<Vec<u8>>);

    impl Write for Told {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn outbox(background: bool) -> (impl Lines, mpsc::Receiver<Vec<u8>>) {
        let (sender, written) = mpsc::channel();
        let writer = move || Told(sender.clone());
        let shared =
            Shared { waiting: Mutex::default(), writing: Mutex::default(), arrived: Condvar::new(), writer };
        let outbox = Outbox(Arc::new(shared));
        if background {
            Outbox(Arc::clone(&outbox.0)).write_in_background();
        }
        (outbox, written)
    }

    #[test]
    fn lines_are_written_together_a_moment_later() {
        let (outbox, written) = outbox(true);
        let begun = Instant::now();
        let mut text = Vec::new();
        for n in 0..100 {
            let line = format!("{n}\n");
            text.extend_from_slice(line.as_bytes());
            outbox.line(Level::INFO, line.as_bytes());
        }
        let mut seen = Vec::new();
        let mut writes = 0;
        while seen.len() < text.len() {
            seen.extend(written.recv_timeout(Duration::from_secs(10)).unwrap());
            writes += 1;
        }
        assert_eq!(seen, text);
        assert!(writes < 100 || begun.elapsed() > GATHER * 50, "{writes} writes");
    }

    #[test]
    fn trouble_is_told_at_once_after_what_came_before() {
        let (outbox, written) = outbox(false);
        outbox.line(Level::INFO, b"before\n");
        assert!(written.try_recv().is_err());
        outbox.line(Level::WARN, b"trouble\n");
        assert_eq!(written.try_recv().unwrap(), b"before\ntrouble\n");
    }

    #[test]
    fn what_waits_is_bounded() {
        let (outbox, written) = outbox(false);
        let line = [b'x'; 1024];
        for _ in 0..=MOST_BYTES / 1024 {
            outbox.line(Level::DEBUG, &line);
        }
        assert_eq!(written.try_recv().unwrap().len(), MOST_BYTES + 1024);
    }
}
