//! LineSink on their way to standard error.
//!
//! A line for each chat in each service, each with a write of its own, costs more than what it tells. So lines are gathered for
//! some milliseconds and written together, by a thread that does nothing else. A line from WARN on is written at once,
//! with those before it.
//!
//! Nothing else ever writes, and so nothing else can be held up by a reader that stands still: a full pipe stops the
//! thread, and lines beyond [`MOST_BYTES`] are dropped and counted until it goes on.

use std::{
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tracing::Level;

use crate::metrics::{Metric, record_counter};

/// LineSink that were not written.
pub const LINES_DROPPED: Metric = Metric::counter(
    "phoenix_log_lines_dropped_total",
    "Log lines that were dropped, because 256 KiB of them waited for a reader of standard error.",
);

/// How long lines gather. A process that is killed takes them along.
const GATHER: Duration = Duration::from_millis(5);

/// The most bytes of lines that wait.
const MOST_BYTES: usize = 256 * 1024;

/// The most bytes of one write. A pipe takes a write of this size whole (`PIPE_BUF`), so that lines of processes that share
/// one do not mix.
const WRITE_BYTES: usize = 4096;

/// A flush gives up when nothing was written for so long,
const STUCK: Duration = Duration::from_millis(300);

/// or after this time.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Where finished lines go.
pub trait LineSink: 'static {
    /// Takes a line, its line break included.
    fn line(&self, level: Level, line: &[u8]);
}

impl<F: Fn() -> W + 'static, W: Write> LineSink for F {
    fn line(&self, _: Level, line: &[u8]) {
        // A log that can't be written has nowhere to say so. One write, so that lines of threads don't mix.
        let _ = self().write_all(line);
    }
}

/// To a stream that may stand still, gathered. Clones share what they gather.
#[derive(Debug, Clone)]
pub struct LogWriter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to write.
    arrived: Condvar,
    /// Something was written.
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Whether what waits is to be written without gathering more.
    is_urgent: bool,
    is_writing: bool,
    /// Writes made, by which a flush knows a slow reader from one that stands still.
    writes: u64,
    /// LineSink dropped that no line has told of.
    dropped: u64,
}

impl LogWriter {
    /// To standard error, from now on.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub fn stderr() -> io::Result<Self> {
        Self::to(io::stderr())
    }

    /// To standard output, from now on.
    ///
    /// # Errors
    /// When the system has no thread for it.
    pub fn stdout() -> io::Result<Self> {
        Self::to(io::stdout())
    }

    fn to(writer: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let background = Arc::clone(&shared);
        thread::Builder::new().name("log".into()).spawn(move || background.write_to(writer))?;
        Ok(Self(shared))
    }

    /// Waits until everything is written, as long as somebody reads it.
    pub fn flush(&self) {
        let Shared { state, arrived, written } = &*self.0;
        let begun = Instant::now();
        let mut state = lock(state);
        state.is_urgent = true;
        arrived.notify_one();
        while !state.waiting.is_empty() || state.is_writing {
            let before = state.writes;
            let (guard, waited) = written.wait_timeout(state, STUCK).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            if (waited.timed_out() && state.writes == before) || begun.elapsed() > FLUSH_LIMIT {
                return;
            }
        }
    }
}

impl Shared {
    /// Writes what arrives, for ever.
    fn write_to(&self, mut writer: impl Write) {
        let mut batch = Vec::new();
        loop {
            let dropped = self.next_batch(&mut batch);
            for piece in pieces(&batch) {
                // A log that can't be written has nowhere to say so.
                let _ = writer.write_all(piece).and_then(|()| writer.flush());
                lock(&self.state).writes += 1;
                self.written.notify_all();
            }
            batch.clear();
            batch.shrink_to(MOST_BYTES);
            lock(&self.state).is_writing = false;
            self.written.notify_all();
            if dropped > 0 {
                tracing::warn!(lines = dropped, "log lines were dropped: nothing read standard error");
            }
        }
    }

    /// Waits for lines and moves them into `batch`; gives the number of lines dropped since the last time.
    fn next_batch(&self, batch: &mut Vec<u8>) -> u64 {
        let state = lock(&self.state);
        let arrived = self.arrived.wait_while(state, |state| state.waiting.is_empty());
        let gathered = self.arrived.wait_timeout_while(
            arrived.unwrap_or_else(PoisonError::into_inner),
            GATHER,
            |state| !state.is_urgent,
        );
        let (mut state, _) = gathered.unwrap_or_else(PoisonError::into_inner);
        mem::swap(batch, &mut state.waiting);
        state.is_urgent = false;
        state.is_writing = true;
        mem::take(&mut state.dropped)
    }
}

/// `batch` in writes of at most [`WRITE_BYTES`], each of whole lines where lines are not longer than that.
fn pieces(batch: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = batch;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let most = rest.get(..WRITE_BYTES).unwrap_or(rest);
        let is_all = most.len() == rest.len();
        let whole_lines = most.iter().rposition(|byte| *byte == b'\n').map(|end| end + 1);
        let length = if is_all { most.len() } else { whole_lines.unwrap_or(most.len()) };
        let (piece, after) = rest.split_at(length);
        rest = after;
        Some(piece)
    })
}

impl LineSink for LogWriter {
    fn line(&self, level: Level, line: &[u8]) {
        let Shared { state, arrived, .. } = &*self.0;
        let mut state = lock(state);
        let was_empty = state.waiting.is_empty();
        if !was_empty && state.waiting.len() + line.len() > MOST_BYTES {
            state.dropped += 1;
            drop(state);
            record_counter(&LINES_DROPPED, 1);
            return;
        }
        state.waiting.extend_from_slice(line);
        let is_urgent = level <= Level::WARN && !mem::replace(&mut state.is_urgent, level <= Level::WARN);
        drop(state);
        if is_urgent || was_empty {
            arrived.notify_one();
        }
    }
}

fn lock(mutex: &Mutex<State>) -> MutexGuard<'_, State> {
    // Nothing panics while it is locked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
