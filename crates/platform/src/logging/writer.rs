//! Buffered writing of log lines.
//!
//! One write per line costs more than the line is worth when every service logs every chat. A background thread therefore
//! collects lines for a few milliseconds and writes them together. A line of level WARN or ERROR is written at once, together
//! with the lines before it.
//!
//! No other thread writes, so a blocked reader cannot block a service: a full pipe blocks the background thread, and lines
//! beyond [`MAX_WAITING_BYTES`] are dropped and counted until it continues.

use std::{
    io::{self, Write},
    mem,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use tracing::Level;

use super::file::LogFile;
use crate::metrics::{Metric, record_counter};

/// Dropped log lines.
pub const LINES_DROPPED: Metric = Metric::counter(
    "phoenix_log_lines_dropped_total",
    "Log lines lost: 256 KiB of lines waited for the reader of standard error or the disk of the log file, or a write failed.",
);

/// How lines are collected into writes.
#[derive(Debug, Clone, Copy)]
struct Batching {
    /// Time for which lines are collected. A process that is killed loses them.
    window: Duration,
    /// Size limit of one write in bytes.
    write_bytes: usize,
}

/// A pipe accepts a write of this size atomically (`PIPE_BUF`), so lines of processes that share a pipe do not interleave.
const PIPE: Batching = Batching { window: Duration::from_millis(5), write_bytes: 4096 };

/// A file has one writer, and its lines are on standard error sooner: fewer and larger writes, which cost less.
const FILE: Batching = Batching { window: Duration::from_millis(25), write_bytes: 64 * 1024 };

/// Capacity of the queue in bytes.
const MAX_WAITING_BYTES: usize = 256 * 1024;

/// Time without a completed write after which a flush gives up.
const STALL_LIMIT: Duration = Duration::from_millis(300);

/// Least time between two reports of failed writes: the report itself is a line that may fail.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Time limit of a flush.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Destination of finished lines.
pub trait LineSink: 'static {
    /// Writes `line`, which ends in a line break.
    fn line(&self, level: Level, line: &[u8]);
}

impl<F: Fn() -> W + 'static, W: Write> LineSink for F {
    fn line(&self, _: Level, line: &[u8]) {
        // A failed write of a log line cannot be logged. One call, so that lines of threads do not interleave.
        let _ = self().write_all(line);
    }
}

/// Writer of log lines that never blocks its caller. Clones share one queue.
#[derive(Debug, Clone)]
pub struct LogWriter(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified when lines arrive.
    arrived: Condvar,
    /// Notified after each write.
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Whether the waiting lines are written without waiting for the batch window.
    is_urgent: bool,
    is_writing: bool,
    /// Number of completed writes, by which a flush distinguishes a slow reader from a blocked one.
    writes: u64,
    /// Dropped lines that have not been logged.
    dropped: u64,
}

impl LogWriter {
    /// Starts a writer to standard error.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn stderr() -> io::Result<Self> {
        Self::to(io::stderr(), PIPE, "standard error")
    }

    /// Starts a writer to standard output.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn stdout() -> io::Result<Self> {
        Self::to(io::stdout(), PIPE, "standard output")
    }

    /// Starts a writer to a file.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn file(file: LogFile) -> io::Result<Self> {
        Self::to(file, FILE, "the log file")
    }

    fn to(writer: impl Write + Send + 'static, batching: Batching, target: &'static str) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let background = Arc::clone(&shared);
        thread::Builder::new().name("log".into()).spawn(move || background.run(writer, batching, target))?;
        Ok(Self(shared))
    }

    /// Waits until every line is written, as long as the reader makes progress.
    pub fn flush(&self) {
        let Shared { state, arrived, written } = &*self.0;
        let started = Instant::now();
        let mut state = state.lock();
        state.is_urgent = true;
        arrived.notify_one();
        while !state.waiting.is_empty() || state.is_writing {
            let before = state.writes;
            let has_stalled = written.wait_for(&mut state, STALL_LIMIT).timed_out() && state.writes == before;
            if has_stalled || started.elapsed() > FLUSH_LIMIT {
                return;
            }
        }
    }
}

impl Shared {
    /// Writes lines as they arrive. Never returns.
    fn run(&self, mut writer: impl Write, batching: Batching, target: &'static str) {
        let mut batch = Vec::new();
        let mut failures = Failures::default();
        loop {
            let dropped = self.next_batch(&mut batch, batching.window);
            for chunk in chunks(&batch, batching.write_bytes) {
                failures.note(writer.write_all(chunk).and_then(|()| writer.flush()), chunk);
                self.state.lock().writes += 1;
                self.written.notify_all();
            }
            batch.clear();
            batch.shrink_to(MAX_WAITING_BYTES);
            self.state.lock().is_writing = false;
            self.written.notify_all();
            if dropped > 0 {
                tracing::warn!(
                    lines = dropped,
                    of = target,
                    "log lines were dropped: they were not accepted in time"
                );
            }
            failures.report(target);
        }
    }

    /// Waits for lines and moves them into `batch`. Returns the number of lines dropped since the last call.
    fn next_batch(&self, batch: &mut Vec<u8>, window: Duration) -> u64 {
        let mut state = self.state.lock();
        self.arrived.wait_while(&mut state, |state| state.waiting.is_empty());
        self.arrived.wait_while_for(&mut state, |state| !state.is_urgent, window);
        mem::swap(batch, &mut state.waiting);
        state.is_urgent = false;
        state.is_writing = true;
        mem::take(&mut state.dropped)
    }
}

/// Failed writes that have not been reported.
#[derive(Debug, Default)]
struct Failures {
    lines: u64,
    error: Option<io::Error>,
    reported: Option<Instant>,
}

impl Failures {
    fn note(&mut self, written: io::Result<()>, chunk: &[u8]) {
        let Err(error) = written else { return };
        // The part of a long line that has no line break counts when its end does.
        let lines = chunk.iter().filter(|byte| **byte == b'\n').count() as u64;
        record_counter(&LINES_DROPPED, lines);
        self.lines += lines;
        self.error = Some(error);
    }

    /// Logs them. One of two destinations of a process still accepts the line.
    fn report(&mut self, target: &'static str) {
        if self.reported.is_some_and(|last| last.elapsed() < REPORT_INTERVAL) {
            return;
        }
        let Some(error) = self.error.take() else { return };
        self.reported = Some(Instant::now());
        tracing::warn!(%error, lines = mem::take(&mut self.lines), of = target, "log lines could not be written");
    }
}

/// Splits `batch` into writes of at most `write_bytes`, each of whole lines unless a line is longer.
fn chunks(batch: &[u8], write_bytes: usize) -> impl Iterator<Item = &[u8]> {
    let mut rest = batch;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let largest = rest.get(..write_bytes).unwrap_or(rest);
        let is_all = largest.len() == rest.len();
        let whole_lines = largest.iter().rposition(|byte| *byte == b'\n').map(|end| end + 1);
        let length = if is_all { largest.len() } else { whole_lines.unwrap_or(largest.len()) };
        let (chunk, after) = rest.split_at(length);
        rest = after;
        Some(chunk)
    })
}

impl LineSink for LogWriter {
    fn line(&self, level: Level, line: &[u8]) {
        let Shared { state, arrived, .. } = &*self.0;
        let mut state = state.lock();
        let was_empty = state.waiting.is_empty();
        if !was_empty && state.waiting.len() + line.len() > MAX_WAITING_BYTES {
            state.dropped += 1;
            drop(state);
            record_counter(&LINES_DROPPED, 1);
            return;
        }
        state.waiting.extend_from_slice(line);
        let ends_window = level <= Level::WARN || state.waiting.len() > MAX_WAITING_BYTES / 2;
        let is_urgent = ends_window && !mem::replace(&mut state.is_urgent, true);
        drop(state);
        if is_urgent || was_empty {
            arrived.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
