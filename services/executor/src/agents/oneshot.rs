//! Mode `oneshot`: a process per attempt. One line in, end of input, one line out, exit 0.

use std::{future::ready, io, pin::pin, process::ExitStatus, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use phoenix_domain::{FailureClass, action::ActionResult};
use tokio::{
    io::AsyncWriteExt,
    process::ChildStdin,
    time::{Instant, sleep_until},
};

use super::{AgentRunner, Call};
use crate::{
    failure::AttemptFailure,
    output::{Line, MAX_LINE_BYTES, Progress, Tail},
    process::{AgentProcess, Program},
    redact::Redactor,
    response,
};

/// How long output is awaited that a process that has exited left in other hands: a child of its own may hold the pipes.
const EXIT_GRACE: Duration = Duration::from_millis(250);

/// Runs one agent in this mode.
pub(crate) struct Oneshot {
    program: Program,
    redactor: Arc<Redactor>,
}

/// What was heard of a process.
#[derive(Default)]
struct Heard {
    answer: Line,
    stderr: Tail,
    /// It did not read the whole request.
    left_unread: bool,
}

/// Why nothing more is to be heard.
enum End {
    Exited(ExitStatus),
    TimedOut,
    Surplus,
    TooLong,
    Lost(io::Error),
}

impl Oneshot {
    pub(crate) fn new(program: Program, redactor: Arc<Redactor>) -> Self {
        Self { program, redactor }
    }

    async fn attempt(&self, call: &mut Call<'_>) -> Result<ActionResult, AttemptFailure> {
        let process = self.program.spawn().map_err(|error| AttemptFailure::not_started(&error))?;
        call.started(Some(process.pid));
        let mut heard = Heard::default();
        let end = heard.listen(process, &call.line(), call.deadline).await;
        judge(&heard, &end, call, &self.redactor)
            .map_err(|failure| failure.with_stderr(heard.stderr.text(&self.redactor)))
    }
}

impl AgentRunner for Oneshot {
    fn run<'a>(&'a self, call: &'a mut Call<'_>) -> BoxFuture<'a, Result<ActionResult, AttemptFailure>> {
        Box::pin(self.attempt(call))
    }
}

impl Heard {
    /// Writes the request and listens until there is no more to hear. Nothing of the process is left then, or is on its
    /// way out.
    async fn listen(&mut self, process: AgentProcess, request: &[u8], deadline: Instant) -> End {
        let AgentProcess { pid: _, stdin, mut stdout, mut stderr, mut group } = process;
        let (mut stdin, mut unsent) = (Some(stdin), request);
        let (mut stdout_open, mut stderr_open) = (true, true);
        let mut exited = None;
        let mut timer = pin!(sleep_until(deadline));
        let end = loop {
            if let Some(status) = exited
                && !(stdout_open || stderr_open)
            {
                break End::Exited(status);
            }
            tokio::select! {
                // In this order, so that a flood can't hide the deadline or the exit, and what was written before the
                // exit is read before the line is taken for the last.
                biased;
                () = &mut timer => break exited.map_or(End::TimedOut, End::Exited),
                status = group.wait(), if exited.is_none() => match status {
                    Ok(status) => {
                        exited = Some(status);
                        timer.as_mut().reset(Instant::now() + EXIT_GRACE);
                    }
                    Err(error) => break End::Lost(error),
                },
                progress = self.answer.read(&mut stdout), if stdout_open => match progress {
                    Progress::Open | Progress::Complete => {}
                    Progress::Ended => stdout_open = false,
                    Progress::Surplus => break End::Surplus,
                    Progress::TooLong => break End::TooLong,
                },
                more = self.stderr.read(&mut stderr), if stderr_open => stderr_open = more,
                written = write(&mut stdin, unsent) => {
                    unsent = &unsent[written..];
                    // Nothing is left to be written, or nobody to read it.
                    if unsent.is_empty() || written == 0 {
                        stdin = None;
                    }
                }
                Some(status) = ready(exited), if self.answer.is_complete() => break End::Exited(status),
            }
        };
        self.left_unread = !unsent.is_empty();
        group.kill();
        end
    }
}

/// Writes some of `bytes` and answers how many; 0 when nobody reads. Waits for ever when there is nowhere to write to.
async fn write(stdin: &mut Option<ChildStdin>, bytes: &[u8]) -> usize {
    match stdin {
        Some(stdin) => stdin.write(bytes).await.unwrap_or(0),
        None => std::future::pending().await,
    }
}

fn judge(
    heard: &Heard,
    end: &End,
    call: &Call<'_>,
    redactor: &Redactor,
) -> Result<ActionResult, AttemptFailure> {
    let broken = |deed: &str| Err(AttemptFailure::new(FailureClass::BackendFailure, deed));
    match end {
        End::Exited(status) if !status.success() => Err(AttemptFailure::exited(*status)),
        End::Exited(_) => match heard.answer.bytes() {
            [] if heard.left_unread => Err(AttemptFailure::new(
                FailureClass::Io,
                "closed its input before it had read the request, and did not answer",
            )),
            [] => broken("exited without an answer"),
            line => response::read(line, call.request, redactor),
        },
        End::TimedOut if heard.answer.is_complete() => Err(AttemptFailure::did_not_exit(call.limit)),
        End::TimedOut => Err(AttemptFailure::timed_out(call.limit)),
        End::Surplus => broken("wrote more than one line"),
        End::TooLong => broken(&format!("wrote a line of more than {} MiB", MAX_LINE_BYTES >> 20)),
        End::Lost(error) => {
            Err(AttemptFailure::new(FailureClass::Io, format!("could not be waited for: {error}")))
        }
    }
}
