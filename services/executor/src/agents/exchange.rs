//! One request and its response over the pipes of a process, for every mode. Chunks and progress reports before the response
//! are passed on as they arrive; while their reader is slow, the process is not read.

use std::{future::ready, io, pin::pin, process::ExitStatus, time::Duration};

use phoenix_domain::{
    FailureClass,
    action::{ActionResult, LineKind},
    limits::{MAX_ANSWER_BYTES, MAX_OUTPUT_BYTES, MAX_OUTPUT_LINE_BYTES},
};
use tokio::{
    io::AsyncWriteExt,
    net::unix::pipe::Sender,
    time::{Instant, sleep_until},
};
use uuid::Uuid;

use super::{attempt::Attempt, stderr::Stderr};
use crate::{
    failure::{AttemptFailure, truncate_message},
    output::{OutputLines, Progress},
    pipes::OutputPipe,
    redact::Redactor,
    response::{self, without_byte_order_mark},
};

/// Time after the exit of a process during which its output is still read: a child of it may hold the pipes open.
const OUTPUT_GRACE: Duration = Duration::from_millis(250);

/// Time during which a process that is expected to exit is not read, only awaited. The output of a fast process then costs
/// one wake-up. A process that writes more than a pipe holds continues after this time.
const READ_DELAY: Duration = Duration::from_millis(50);

/// First byte of every request.
const OPENING: &[u8] = b"{";

/// Event that completes a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CompleteOn {
    /// The response line; the process keeps running.
    Line,
    /// The response line and the exit of the process, whose input ends after the request.
    Exit,
}

/// The pipes of a process and the output read from them.
pub(super) struct Exchange {
    stdin: Option<Sender>,
    stdout: OutputPipe,
    stderr: Stderr,
    /// Whether standard error is read here instead of by the worker's watcher.
    reads_stderr: bool,
    lines: OutputLines,
    /// The requests of the previous and of the present exchange.
    previous_request: Option<Uuid>,
    present_request: Option<Uuid>,
    /// Bytes of all chunks of the present request.
    chunk_bytes: usize,
    /// Whether the first byte of the next request has been written.
    opening_written: bool,
    /// Length of the last request, and how many bytes of it could not be written.
    request_len: usize,
    unsent: usize,
}

/// Reason why reading stopped.
#[derive(Debug)]
pub(super) enum ExchangeEnd {
    /// The line is complete and the process keeps running.
    Answered,
    /// The process ended, with or without a response.
    Exited(ExitStatus),
    /// The deadline passed.
    TimedOut,
    /// The process wrote more after its answer.
    Surplus,
    /// A line before the answer is invalid, for this reason.
    Invalid(String),
    /// The line exceeds the limit.
    TooLong,
    /// Waiting for the process failed.
    Lost(io::Error),
}

impl Exchange {
    /// An exchange with a process that serves one request.
    pub(super) fn new(stdin: Option<Sender>, stdout: OutputPipe, stderr: OutputPipe) -> Self {
        let exchange = Self::for_worker(stdin, stdout, Stderr::new(stderr));
        Self { reads_stderr: true, ..exchange }
    }

    /// Exchanges with a worker, whose watcher reads `stderr`.
    pub(super) fn for_worker(stdin: Option<Sender>, stdout: OutputPipe, stderr: Stderr) -> Self {
        Self {
            stdin,
            stdout,
            stderr,
            reads_stderr: false,
            lines: OutputLines::default(),
            previous_request: None,
            present_request: None,
            chunk_bytes: 0,
            opening_written: false,
            request_len: 0,
            unsent: 0,
        }
    }

    /// Writes the first byte of the next request. A process that reads it has started.
    pub(super) fn write_opening(&mut self) {
        // The pipe is empty, so the write fits. If the process closed its end, its exit reports that.
        let _ = self.stdin.as_ref().map(|stdin| nix::unistd::write(stdin, OPENING));
        self.opening_written = true;
    }

    /// Whether the process has read that byte, as far as the pipe can tell.
    pub(super) fn opening_is_read(&self) -> bool {
        self.unread_bytes().is_none_or(|unread| unread == 0)
    }

    /// Writes `request`, the rest of that of `attempt`, and reads until the response is complete, cannot come any more, or the
    /// deadline passes. `exit` resolves when the process ends.
    pub(super) async fn run(
        &mut self,
        request: &[u8],
        complete_on: CompleteOn,
        attempt: &Attempt<'_>,
        exit: impl Future<Output = io::Result<ExitStatus>>,
    ) -> ExchangeEnd {
        let request = match std::mem::take(&mut self.opening_written) {
            true => request.strip_prefix(OPENING).unwrap_or(request),
            false => request,
        };
        let deadline = attempt.deadline;
        self.request_len = request.len();
        self.chunk_bytes = 0;
        self.previous_request = self.present_request.replace(attempt.request.request_id);
        let mut unsent = request;
        let mut stdin_open = true;
        let (mut stdout_open, mut stderr_open) = (true, self.reads_stderr);
        let mut exited = None;
        let mut exit = pin!(exit);
        let read_at = Instant::now() + READ_DELAY;
        let mut reading = complete_on == CompleteOn::Line || deadline <= read_at;
        let mut timer = pin!(sleep_until(if reading { deadline } else { read_at }));
        let end = loop {
            let complete = self.lines.is_complete();
            match exited {
                None if complete && complete_on == CompleteOn::Line => break ExchangeEnd::Answered,
                Some(status) if !(stdout_open || stderr_open) => break ExchangeEnd::Exited(status),
                _ => {}
            }
            tokio::select! {
                // Biased, so that a flood of output cannot hide the deadline or the exit, and output written before the
                // exit is read before the line counts as the last.
                biased;
                written = write(&mut self.stdin, unsent), if stdin_open && !unsent.is_empty() => {
                    unsent = &unsent[written..];
                    stdin_open = written > 0;
                    if complete_on == CompleteOn::Exit && (unsent.is_empty() || !stdin_open) {
                        self.stdin = None;
                    }
                }
                () = &mut timer => {
                    if reading {
                        break exited.map_or(ExchangeEnd::TimedOut, ExchangeEnd::Exited);
                    }
                    reading = true;
                    timer.as_mut().reset(deadline);
                }
                status = &mut exit, if exited.is_none() => match status {
                    Ok(status) => {
                        exited = Some(status);
                        reading = true;
                        timer.as_mut().reset(Instant::now() + OUTPUT_GRACE);
                    }
                    Err(error) => break ExchangeEnd::Lost(error),
                },
                progress = read(&mut self.lines, &mut self.stdout, attempt), if reading && stdout_open => match progress {
                    Progress::Open => {}
                    Progress::Complete => if let Err(end) = self.accept_lines(attempt) {
                        break end;
                    },
                    Progress::Ended => stdout_open = false,
                    Progress::TooLong => break ExchangeEnd::TooLong,
                },
                more = self.stderr.read(), if reading && stderr_open => stderr_open = more,
                Some(status) = ready(exited), if complete => break ExchangeEnd::Exited(status),
            }
        };
        self.unsent = unsent.len();
        end
    }

    /// Passes on the lines before the answer, the first of which is complete.
    fn accept_lines(&mut self, attempt: &Attempt<'_>) -> Result<(), ExchangeEnd> {
        loop {
            let line = self.lines.bytes();
            let kind = match std::str::from_utf8(line) {
                Ok(text) => self.kind_of(text, attempt.request.request_id)?,
                Err(_) => LineKind::Answer,
            };
            if kind != LineKind::Answer && line.len() >= MAX_OUTPUT_LINE_BYTES {
                let problem = format!(
                    "wrote a line of {} bytes before its answer; at most {MAX_OUTPUT_LINE_BYTES} are allowed",
                    line.len() + 1
                );
                return Err(ExchangeEnd::Invalid(problem));
            }
            match kind {
                LineKind::Answer if self.lines.has_more() => return Err(ExchangeEnd::Surplus),
                LineKind::Answer => return Ok(()),
                LineKind::Chunk(chunk) => {
                    self.chunk_bytes += chunk.size();
                    if self.chunk_bytes > MAX_OUTPUT_BYTES {
                        let limit = MAX_OUTPUT_BYTES >> 20;
                        let problem = format!("wrote chunks of more than {limit} MiB before its answer");
                        return Err(ExchangeEnd::Invalid(problem));
                    }
                    attempt.push_chunk(chunk);
                }
                LineKind::Progress(report) => attempt.push_progress(report),
                LineKind::Unknown => {}
            }
            match self.lines.advance() {
                Progress::Complete => {}
                Progress::TooLong => return Err(ExchangeEnd::TooLong),
                Progress::Open | Progress::Ended => return Ok(()),
            }
        }
    }

    /// The kind of `line` in the exchange about `request`. What the process still wrote about the previous request, while
    /// this one was already on its way, is skipped: it says nothing about this one.
    fn kind_of(&self, line: &str, request: Uuid) -> Result<LineKind, ExchangeEnd> {
        let line = without_byte_order_mark(line);
        LineKind::of(line, request).or_else(|invalid| {
            let is_late = self.previous_request.is_some_and(|previous| LineKind::of(line, previous).is_ok());
            if is_late { Ok(LineKind::Unknown) } else { Err(ExchangeEnd::Invalid(invalid.to_string())) }
        })
    }

    /// The result of `attempt`, whose exchange ended with `end`.
    pub(super) fn interpret(
        &mut self,
        end: &ExchangeEnd,
        attempt: &Attempt<'_>,
        redactor: &Redactor,
    ) -> Result<ActionResult, AttemptFailure> {
        let broken = |description: &str| Err(AttemptFailure::new(FailureClass::BackendFailure, description));
        let result = match end {
            ExchangeEnd::Exited(status) if !status.success() => Err(AttemptFailure::exited(*status)),
            ExchangeEnd::Answered | ExchangeEnd::Exited(_) => match self.lines.bytes() {
                [] if self.unsent > 0 => Err(AttemptFailure::new(
                    FailureClass::Io,
                    "closed its input before it had read the request, and did not answer",
                )),
                [] if !self.lines.is_complete() => broken("exited without an answer"),
                line => response::read(line, attempt.request, redactor),
            },
            ExchangeEnd::TimedOut if self.lines.is_complete() => {
                Err(AttemptFailure::did_not_exit(attempt.limit))
            }
            ExchangeEnd::TimedOut => Err(AttemptFailure::timed_out(attempt.limit)),
            ExchangeEnd::Surplus => broken("wrote more after its answer"),
            ExchangeEnd::Invalid(problem) => broken(&truncate_message(&redactor.clean(problem.as_str()))),
            ExchangeEnd::TooLong => {
                broken(&format!("wrote a line of more than {} MiB", MAX_ANSWER_BYTES >> 20))
            }
            ExchangeEnd::Lost(error) => {
                Err(AttemptFailure::new(FailureClass::Io, format!("could not be waited for: {error}")))
            }
        };
        result.map_err(|failure| failure.with_stderr(self.stderr.text(redactor)))
    }

    /// Whether the process has read nothing of the last request.
    pub(super) fn request_is_unread(&self) -> bool {
        self.unread_bytes().is_some_and(|unread| unread + self.unsent >= self.request_len)
    }

    /// Bytes in the pipe that the process has not read, if the system can tell.
    fn unread_bytes(&self) -> Option<usize> {
        let unread = rustix::io::ioctl_fionread(self.stdin.as_ref()?).ok()?;
        usize::try_from(unread).ok()
    }

    /// Whether another request may follow the one that was answered.
    pub(super) const fn is_reusable(&self) -> bool {
        self.stdin.is_some() && self.unsent == 0
    }

    /// Discards the output that belongs to the answered request.
    pub(super) fn reset(&mut self) {
        self.lines.clear();
        self.stderr.clear();
    }

    /// Whether another request can start: the process has written nothing since its last response and its output is still
    /// open. Otherwise the next line would not be the next response.
    pub(super) fn is_quiet(&mut self) -> bool {
        let read = self.stdout.read_now(&mut [0]);
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Reads once, when the reader of the chunks has room for more.
async fn read(lines: &mut OutputLines, stdout: &mut OutputPipe, attempt: &Attempt<'_>) -> Progress {
    attempt.output_capacity().await;
    lines.read(stdout).await
}

/// Writes some of `bytes` and returns how many; 0 when the reader closed its end. Never resolves without a pipe.
async fn write(stdin: &mut Option<Sender>, bytes: &[u8]) -> usize {
    match stdin {
        Some(stdin) => stdin.write(bytes).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}
