//! One request and its answer, over the pipes of a process: the same for every mode.

use std::{future::ready, io, pin::pin, process::ExitStatus, time::Duration};

use phoenix_domain::{FailureClass, action::ActionResult, limits::MAX_ANSWER_BYTES};
use tokio::{
    io::AsyncWriteExt,
    net::unix::pipe::Sender,
    time::{Instant, sleep_until},
};

use super::{Call, stderr::Stderr};
use crate::{
    failure::AttemptFailure,
    output::{Line, Progress},
    pipes::Output,
    redact::Redactor,
    response,
};

/// How long output is awaited that a process that has exited left in other hands: a child of its own may hold the pipes.
const EXIT_GRACE: Duration = Duration::from_millis(250);

/// For so long, the exit of a process that is to exit is all that is awaited of it: quick ones are heard out with one wake-up
/// then. One that says more than a pipe holds goes on when it is listened to.
const UNHEARD: Duration = Duration::from_millis(50);

/// What every request begins with.
const OPENING: &[u8] = b"{";

/// What makes an answer complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// Its line; the process goes on.
    Line,
    /// Its line, and the exit of the process, whose input ends after the request.
    Exit,
}

/// The pipes of a process and what was heard through them.
pub(super) struct Conversation {
    stdin: Option<Sender>,
    stdout: Output,
    stderr: Stderr,
    /// Whether standard error is read here and not by a watcher.
    hears_stderr: bool,
    answer: Line,
    /// The beginning of the next request was written already.
    is_opened: bool,
    /// How long the last request was, and how much of it could not be written.
    request: usize,
    unsent: usize,
}

/// Why nothing more is to be heard.
#[derive(Debug)]
pub(super) enum End {
    /// The line is there, and the process goes on.
    Answered,
    /// The process ended, with or without an answer.
    Exited(ExitStatus),
    /// The deadline came.
    TimedOut,
    /// There was more than one line.
    Surplus,
    /// The line was too long.
    TooLong,
    /// The operating system lost the process.
    Lost(io::Error),
}

impl Conversation {
    /// With a process of one request.
    pub(super) fn new(stdin: Option<Sender>, stdout: Output, stderr: Output) -> Self {
        let conversation = Self::with_worker(stdin, stdout, Stderr::new(stderr));
        Self { hears_stderr: true, ..conversation }
    }

    /// With a worker, whose watcher reads `stderr`.
    pub(super) fn with_worker(stdin: Option<Sender>, stdout: Output, stderr: Stderr) -> Self {
        let (answer, hears_stderr, is_opened) = (Line::default(), false, false);
        Self { stdin, stdout, stderr, hears_stderr, answer, is_opened, request: 0, unsent: 0 }
    }

    /// Writes the beginning of the first request, whichever that will be: who reads it has started.
    pub(super) fn open(&mut self) {
        // The pipe is empty. When nobody reads it any more, the exit of the process says so.
        let _ = self.stdin.as_ref().map(|stdin| nix::unistd::write(stdin, OPENING));
        self.is_opened = true;
    }

    /// Whether that was read, as far as can be known.
    pub(super) fn is_open(&self) -> bool {
        self.waits_in_pipe().is_none_or(|waiting| waiting == 0)
    }

    /// Writes `request` and listens until the answer is complete, it is clear that none will come, or `deadline`. `exit`
    /// waits for the end of the process.
    pub(super) async fn hold(
        &mut self,
        request: &[u8],
        until: Until,
        deadline: Instant,
        exit: impl Future<Output = io::Result<ExitStatus>>,
    ) -> End {
        let request = match std::mem::take(&mut self.is_opened) {
            true => request.strip_prefix(OPENING).unwrap_or(request),
            false => request,
        };
        self.request = request.len();
        let mut unsent = request;
        let mut is_read = true;
        let (mut stdout_open, mut stderr_open) = (true, self.hears_stderr);
        let mut exited = None;
        let mut exit = pin!(exit);
        let later = Instant::now() + UNHEARD;
        let mut listening = until == Until::Line || deadline <= later;
        let mut timer = pin!(sleep_until(if listening { deadline } else { later }));
        let end = loop {
            let whole = self.answer.is_complete();
            match exited {
                None if whole && until == Until::Line => break End::Answered,
                Some(status) if !(stdout_open || stderr_open) => break End::Exited(status),
                _ => {}
            }
            tokio::select! {
                // In this order, so that a flood can't hide the deadline or the exit, and what was written before the
                // exit is read before the line is taken for the last.
                biased;
                written = write(&mut self.stdin, unsent), if is_read && !unsent.is_empty() => {
                    unsent = &unsent[written..];
                    is_read = written > 0;
                    if until == Until::Exit && (unsent.is_empty() || !is_read) {
                        self.stdin = None;
                    }
                }
                () = &mut timer => {
                    if listening {
                        break exited.map_or(End::TimedOut, End::Exited);
                    }
                    listening = true;
                    timer.as_mut().reset(deadline);
                }
                status = &mut exit, if exited.is_none() => match status {
                    Ok(status) => {
                        exited = Some(status);
                        listening = true;
                        timer.as_mut().reset(Instant::now() + EXIT_GRACE);
                    }
                    Err(error) => break End::Lost(error),
                },
                progress = self.answer.read(&mut self.stdout), if listening && stdout_open => match progress {
                    Progress::Open | Progress::Complete => {}
                    Progress::Ended => stdout_open = false,
                    Progress::Surplus => break End::Surplus,
                    Progress::TooLong => break End::TooLong,
                },
                more = self.stderr.read(), if listening && stderr_open => stderr_open = more,
                Some(status) = ready(exited), if whole => break End::Exited(status),
            }
        };
        self.unsent = unsent.len();
        end
    }

    /// What the conversation for `call`, which ended with `end`, has come to.
    pub(super) fn judge(
        &mut self,
        end: &End,
        call: &Call<'_>,
        redactor: &Redactor,
    ) -> Result<ActionResult, AttemptFailure> {
        let broken = |deed: &str| Err(AttemptFailure::new(FailureClass::BackendFailure, deed));
        let verdict = match end {
            End::Exited(status) if !status.success() => Err(AttemptFailure::exited(*status)),
            End::Answered | End::Exited(_) => match self.answer.bytes() {
                [] if self.unsent > 0 => Err(AttemptFailure::new(
                    FailureClass::Io,
                    "closed its input before it had read the request, and did not answer",
                )),
                [] if !self.answer.is_complete() => broken("exited without an answer"),
                line => response::read(line, call.request, redactor),
            },
            End::TimedOut if self.answer.is_complete() => Err(AttemptFailure::did_not_exit(call.limit)),
            End::TimedOut => Err(AttemptFailure::timed_out(call.limit)),
            End::Surplus => broken("wrote more than one line"),
            End::TooLong => broken(&format!("wrote a line of more than {} MiB", MAX_ANSWER_BYTES >> 20)),
            End::Lost(error) => {
                Err(AttemptFailure::new(FailureClass::Io, format!("could not be waited for: {error}")))
            }
        };
        verdict.map_err(|failure| failure.with_stderr(self.stderr.text(redactor)))
    }

    /// Whether the process has read nothing of the last request.
    pub(super) fn was_not_read(&self) -> bool {
        self.waits_in_pipe().is_some_and(|waiting| waiting + self.unsent >= self.request)
    }

    /// How much was written and not read yet, if that can be known.
    fn waits_in_pipe(&self) -> Option<usize> {
        let waiting = rustix::io::ioctl_fionread(self.stdin.as_ref()?).ok()?;
        usize::try_from(waiting).ok()
    }

    /// Whether another request can follow the one that was answered.
    pub(super) const fn can_go_on(&self) -> bool {
        self.stdin.is_some() && self.unsent == 0
    }

    /// Forgets what was said about the request that was answered.
    pub(super) fn forget(&mut self) {
        self.answer.clear();
        self.stderr.clear();
    }

    /// Makes ready for another request. False when something was said since the last answer, or nothing can be said any
    /// more: then the next line would not be the next answer.
    pub(super) fn renew(&mut self) -> bool {
        let more = self.stdout.read_now(&mut [0]);
        matches!(more, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Writes some of `bytes` and answers how many; 0 when nobody reads. Waits for ever when there is nowhere to write to.
async fn write(stdin: &mut Option<Sender>, bytes: &[u8]) -> usize {
    match stdin {
        Some(stdin) => stdin.write(bytes).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}
