//! One run of git, to its exit or to the deadline.
//!
//! At the deadline git gets SIGTERM first, upon which it removes its lock files, and SIGKILL when it does not exit in time.
//! Its filters are killed with it. The run ends when the process exits, not when its pipes close: a filter may leave a
//! process behind that holds them open.

use std::{
    io::{self, Read},
    process::{Child, Command, ExitStatus},
    sync::{
        Arc,
        mpsc::{Receiver, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use parking_lot::Mutex;

use super::cleanup;

/// Time that the pipes of a git that has exited may stay open.
const PIPE_GRACE: Duration = Duration::from_millis(200);
/// Time that the kernel may take to end a process that got SIGKILL.
const KILL_GRACE: Duration = Duration::from_millis(500);

/// Deadlines of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    /// Moment of SIGTERM.
    pub(super) stop: Instant,
    /// Moment of SIGKILL.
    pub(super) kill: Instant,
}

/// Most bytes kept of each pipe.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) stdout: usize,
    pub(super) stderr: usize,
}

/// A git that exited before its deadline.
pub(super) struct Finished {
    pub(super) status: ExitStatus,
    pub(super) stdout: Captured,
    pub(super) stderr: Captured,
}

/// Bytes of a pipe, and whether there were more than the limit.
#[derive(Debug, Default)]
pub(super) struct Captured {
    pub(super) bytes: Vec<u8>,
    pub(super) truncated: bool,
}

/// Runs `command`, whose processes carry `run_id`. `None` when the deadline passed before it exited.
pub(super) fn run(
    command: &mut Command,
    run_id: &str,
    limits: Limits,
    deadlines: Deadlines,
) -> io::Result<Option<Finished>> {
    let mut child = command.spawn()?;
    let stdout = child.stdout.take().map(|pipe| Collector::start(pipe, limits.stdout, Overflow::Close));
    let stderr = child.stderr.take().map(|pipe| Collector::start(pipe, limits.stderr, Overflow::Discard));
    let exited = watch(pid_of(&child));
    if exited.recv_timeout(until(deadlines.stop)).is_err() {
        end(child, &exited, run_id, deadlines.kill);
        return Ok(None);
    }
    let status = child.wait()?;
    let pipes = [&stdout, &stderr];
    if !pipes.into_iter().flatten().all(Collector::is_complete) {
        cleanup::kill_all(&[], run_id);
    }
    let taken = |pipe: Option<Collector>| pipe.map(Collector::take).unwrap_or_default();
    Ok(Some(Finished { status, stdout: taken(stdout), stderr: taken(stderr) }))
}

/// Reports the exit of a child without reaping it, so that its id stays reserved until the caller reaps it.
fn watch(pid: Pid) -> Receiver<()> {
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || {
        while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
        // After the deadline the receiver is gone.
        let _ = sender.send(());
    });
    receiver
}

/// Ends a git, and removes what it would leave behind.
fn end(mut child: Child, exited: &Receiver<()>, run_id: &str, kill_at: Instant) {
    let pid = pid_of(&child);
    let mut processes = cleanup::process_tree(pid);
    // Only git itself: git would continue without a filter that fails first.
    let _ = kill(pid, Signal::SIGTERM);
    let mut is_gone = exited.recv_timeout(until(kill_at)).is_ok();
    let mut locks = Vec::new();
    if !is_gone {
        processes.extend(cleanup::process_tree(pid));
        locks = cleanup::locks(&processes);
        let _ = kill(pid, Signal::SIGKILL);
        is_gone = exited.recv_timeout(KILL_GRACE).is_ok();
    }
    cleanup::kill_all(&processes, run_id);
    cleanup::remove(&locks);
    if is_gone {
        let _ = child.wait();
    } else {
        thread::spawn(move || child.wait());
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

fn until(moment: Instant) -> Duration {
    moment.saturating_duration_since(Instant::now())
}

/// Treatment of output beyond the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overflow {
    /// The pipe is closed, which ends a git that still writes.
    Close,
    /// The pipe is read to its end.
    Discard,
}

/// Reads a pipe on its own thread and keeps its beginning.
struct Collector {
    captured: Arc<Mutex<Captured>>,
    complete: Receiver<()>,
}

impl Collector {
    fn start(mut pipe: impl Read + Send + 'static, limit: usize, overflow: Overflow) -> Self {
        let captured = Arc::new(Mutex::new(Captured::default()));
        let (sender, complete) = sync_channel(1);
        let shared = Arc::clone(&captured);
        thread::spawn(move || {
            let mut chunk = [0; 16 * 1024];
            loop {
                let length = match pipe.read(&mut chunk) {
                    Err(problem) if problem.kind() == io::ErrorKind::Interrupted => continue,
                    // A pipe that fails has ended.
                    Ok(0) | Err(_) => break,
                    Ok(length) => length,
                };
                let mut captured = shared.lock();
                let remaining = limit - captured.bytes.len();
                captured.bytes.extend_from_slice(&chunk[..length.min(remaining)]);
                if length > remaining {
                    captured.truncated = true;
                    if overflow == Overflow::Close {
                        break;
                    }
                }
            }
            // Closed before the completion is reported.
            drop(pipe);
            let _ = sender.send(());
        });
        Self { captured, complete }
    }

    fn is_complete(&self) -> bool {
        self.complete.recv_timeout(PIPE_GRACE).is_ok()
    }

    fn take(self) -> Captured {
        std::mem::take(&mut self.captured.lock())
    }
}
