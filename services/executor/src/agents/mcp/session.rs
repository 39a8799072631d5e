//! The pipes and the process of one server, from its start to its end.

use std::{io, process::ExitStatus, sync::Arc, time::Duration};

use phoenix_domain::{FailureClass, limits::MAX_ANSWER_BYTES};
use tokio::{
    io::AsyncWriteExt,
    net::unix::pipe::Sender,
    time::{Instant, sleep_until},
};

use super::{
    connection::Connection,
    lines::{Line, Lines},
};
use crate::{
    agents::stderr::Stderr,
    failure::AttemptFailure,
    pipes::OutputPipe,
    process::{AgentProcess, ProcessGroup},
    redact::Redactor,
};

/// Time during which a server that has begun to read a message must read the rest.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// Time after the exit of the process, or after the end of one of its pipes, during which the other end is awaited: the last
/// responses are read, and the exit status is the better explanation of a closed pipe.
const END_GRACE: Duration = Duration::from_millis(250);

/// Bytes of output without a message after which the server is ended.
const MAX_NOISE_BYTES: usize = 64 * 1024 * 1024;

/// A running server process.
pub(super) struct Session {
    connection: Arc<Connection>,
    pub(super) group: ProcessGroup,
    stdin: Option<Sender>,
    stdout: OutputPipe,
    stderr: Stderr,
    stderr_open: bool,
    lines: Lines,
    /// Bytes since the last message that were none.
    noise: usize,
}

/// Reason why a session ended.
#[derive(Debug)]
pub(super) enum SessionEnd {
    Exited(ExitStatus),
    /// The process is running, and is of no use any more.
    Broken(AttemptFailure),
}

/// A message that is being written.
#[derive(Default)]
struct Writing {
    line: Vec<u8>,
    written: usize,
}

impl Session {
    pub(super) fn new(process: AgentProcess, connection: Arc<Connection>) -> Self {
        let AgentProcess { pid: _, stdin, stdout, stderr, group, record: _ } = process;
        let (stderr, lines) = (Stderr::new(stderr), Lines::default());
        Self { connection, group, stdin, stdout, stderr, stderr_open: true, lines, noise: 0 }
    }

    /// The end of what the process wrote to standard error, without secrets.
    pub(super) fn stderr_text(&self, redactor: &Redactor) -> String {
        self.stderr.text(redactor)
    }

    /// Exchanges messages until the process exits or is of no use any more.
    pub(super) async fn run(&mut self) -> SessionEnd {
        let mut writing = Writing::default();
        let mut write_until = Instant::now();
        let mut stdout_open = true;
        let mut has_exited = false;
        // What ends the session, and when.
        let mut ending: Option<(SessionEnd, Instant)> = None;
        loop {
            if writing.is_complete()
                && let Some(line) = self.connection.next_line()
            {
                writing = Writing { line, written: 0 };
                write_until = Instant::now() + WRITE_LIMIT;
            }
            let end_at = ending.as_ref().map(|(_, at)| *at);
            if has_exited && !stdout_open {
                // Nothing more can arrive.
                break;
            }
            tokio::select! {
                // Biased, so that a flood of output hides neither the exit nor what is to be written.
                biased;
                status = self.group.wait(), if !has_exited => {
                    let end = status.map_or_else(|error| SessionEnd::Broken(unwaitable(&error)), SessionEnd::Exited);
                    has_exited = true;
                    ending = Some((end, Instant::now() + END_GRACE));
                }
                () = sleep_until(end_at.unwrap_or(write_until)), if end_at.is_some() => break,
                written = write(&mut self.stdin, writing.rest()), if !writing.is_complete() => match written {
                    Ok(bytes) => writing.written += bytes,
                    Err(_) => {
                        self.stdin = None;
                        writing = Writing::default();
                        ending.get_or_insert((broken(FailureClass::Io, "closed its input"), Instant::now() + END_GRACE));
                    }
                },
                () = sleep_until(write_until), if !writing.is_complete() => {
                    return broken(FailureClass::Timeout, "does not read its input");
                }
                () = self.connection.to_write.notified(), if writing.is_complete() => {}
                read = self.lines.read(&mut self.stdout), if stdout_open => match read {
                    Ok(1..) => if let Some(problem) = self.accept_lines() {
                        return problem;
                    },
                    Ok(0) | Err(_) => {
                        stdout_open = false;
                        ending.get_or_insert((broken(FailureClass::Io, "closed its output"), Instant::now() + END_GRACE));
                    }
                },
                more = self.stderr.read(), if self.stderr_open => self.stderr_open = more,
            }
        }
        match ending {
            Some((end, _)) => end,
            None => broken(FailureClass::Io, "ended in an unknown way"),
        }
    }

    /// Hands the complete lines to the connection. Returns the end of a session whose server writes only noise.
    fn accept_lines(&mut self) -> Option<SessionEnd> {
        while let Some(line) = self.lines.next() {
            match line {
                Line::Whole(line) if line.trim_ascii().is_empty() => {}
                Line::Whole(line) => {
                    if self.connection.accept(line) {
                        self.noise = 0;
                        continue;
                    }
                    if self.noise == 0 {
                        tracing::debug!(bytes = line.len(), "server wrote a line that is no message");
                    }
                    self.noise += line.len();
                }
                Line::TooLong(Some(id)) => {
                    let limit = MAX_ANSWER_BYTES >> 20;
                    self.connection.fail(id, format!("wrote a line of more than {limit} MiB"));
                    self.noise = 0;
                }
                Line::TooLong(None) => self.noise += MAX_ANSWER_BYTES,
            }
            if self.noise > MAX_NOISE_BYTES {
                let problem =
                    format!("wrote {} MiB to its output that are no messages", MAX_NOISE_BYTES >> 20);
                return Some(broken(FailureClass::BackendFailure, &problem));
            }
        }
        None
    }
}

impl Writing {
    const fn is_complete(&self) -> bool {
        self.written >= self.line.len()
    }

    fn rest(&self) -> &[u8] {
        &self.line[self.written..]
    }
}

impl SessionEnd {
    /// The failure of the requests that were under way.
    pub(super) fn failure(&self) -> AttemptFailure {
        match self {
            Self::Exited(status) => AttemptFailure::exited(*status),
            Self::Broken(failure) => failure.clone(),
        }
    }
}

fn broken(class: FailureClass, description: &str) -> SessionEnd {
    SessionEnd::Broken(AttemptFailure::new(class, description))
}

fn unwaitable(error: &io::Error) -> AttemptFailure {
    AttemptFailure::new(FailureClass::Io, format!("could not be waited for: {error}"))
}

/// Writes some of `bytes`.
///
/// # Errors
/// When the reader closed its end.
async fn write(stdin: &mut Option<Sender>, bytes: &[u8]) -> io::Result<usize> {
    match stdin {
        Some(stdin) => match stdin.write(bytes).await? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            written => Ok(written),
        },
        None => std::future::pending().await,
    }
}
