//! One run of git: to its end, or to the deadline.
//!
//! At the deadline git gets SIGTERM first, upon which it removes its lock files, and SIGKILL when it does not end in
//! time. What its filters started is killed with it. The end that counts is that of the process, and not that of its
//! pipes: a filter may leave a process behind that holds them open.

use std::{
    io::{self, Read},
    process::{Child, Command, ExitStatus},
    sync::{
        Arc, Mutex, PoisonError,
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

use super::leftovers;

/// How long the pipes of a git that has ended may stay open.
const PIPE_GRACE: Duration = Duration::from_millis(200);
/// How long the kernel may take to end a process that got SIGKILL.
const KILL_GRACE: Duration = Duration::from_millis(500);

/// When a run ends at the latest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// git gets SIGTERM.
    pub(super) stop: Instant,
    /// git gets SIGKILL.
    pub(super) kill: Instant,
}

/// How much of each pipe is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) stdout: usize,
    pub(super) stderr: usize,
}

/// A git that ended by itself.
pub(super) struct Finished {
    pub(super) status: ExitStatus,
    pub(super) stdout: Captured,
    pub(super) stderr: Captured,
}

/// Bytes of a pipe, and whether there were more than wanted.
#[derive(Debug, Default)]
pub(super) struct Captured {
    pub(super) bytes: Vec<u8>,
    pub(super) truncated: bool,
}

/// Runs `command`, whose processes carry the mark `run`. None when its time was over before it ended.
pub(super) fn run(
    command: &mut Command,
    run: &str,
    limits: Limits,
    times: Times,
) -> io::Result<Option<Finished>> {
    let mut child = command.spawn()?;
    let stdout = child.stdout.take().map(|pipe| Collector::start(pipe, limits.stdout, Beyond::Close));
    let stderr = child.stderr.take().map(|pipe| Collector::start(pipe, limits.stderr, Beyond::Discard));
    let ended = watch(pid_of(&child));
    if ended.recv_timeout(until(times.stop)).is_err() {
        end(child, &ended, run, times.kill);
        return Ok(None);
    }
    let status = child.wait()?;
    let pipes = [&stdout, &stderr];
    if !pipes.into_iter().flatten().all(Collector::is_complete) {
        leftovers::kill_all(&[], run);
    }
    let taken = |pipe: Option<Collector>| pipe.map(Collector::take).unwrap_or_default();
    Ok(Some(Finished { status, stdout: taken(stdout), stderr: taken(stderr) }))
}

/// Reports the end of a child without reaping it, so that its number stays its own until the caller reaps it.
fn watch(pid: Pid) -> Receiver<()> {
    let (sender, receiver) = sync_channel(1);
    thread::spawn(move || {
        while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
        // Past the deadline nothing listens any more.
        let _ = sender.send(());
    });
    receiver
}

/// Ends a git, and removes what it would leave behind.
fn end(mut child: Child, ended: &Receiver<()>, run: &str, kill_at: Instant) {
    let pid = pid_of(&child);
    let mut family = leftovers::family(pid);
    // Only git itself: a filter that fails first would make git go on without it.
    let _ = kill(pid, Signal::SIGTERM);
    let mut is_gone = ended.recv_timeout(until(kill_at)).is_ok();
    let mut locks = Vec::new();
    if !is_gone {
        family.extend(leftovers::family(pid));
        locks = leftovers::locks(&family);
        let _ = kill(pid, Signal::SIGKILL);
        is_gone = ended.recv_timeout(KILL_GRACE).is_ok();
    }
    leftovers::kill_all(&family, run);
    leftovers::remove(&locks);
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

/// What happens to a pipe that has more than is kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beyond {
    /// It is closed, which ends a git that still writes.
    Close,
    /// It is read to its end.
    Discard,
}

/// Reads a pipe on a thread of its own, and keeps its beginning.
struct Collector {
    captured: Arc<Mutex<Captured>>,
    complete: Receiver<()>,
}

impl Collector {
    fn start(mut pipe: impl Read + Send + 'static, limit: usize, beyond: Beyond) -> Self {
        let captured = Arc::new(Mutex::new(Captured::default()));
        let (sender, complete) = sync_channel(1);
        let shared = Arc::clone(&captured);
        thread::spawn(move || {
            let mut chunk = [0; 16 * 1024];
            loop {
                let length = match pipe.read(&mut chunk) {
                    Err(problem) if problem.kind() == io::ErrorKind::Interrupted => continue,
                    // An error of a pipe is its end.
                    Ok(0) | Err(_) => break,
                    Ok(length) => length,
                };
                let mut captured = shared.lock().unwrap_or_else(PoisonError::into_inner);
                let room = limit - captured.bytes.len();
                captured.bytes.extend_from_slice(&chunk[..length.min(room)]);
                if length > room {
                    captured.truncated = true;
                    if beyond == Beyond::Close {
                        break;
                    }
                }
            }
            // Closed before it is reported.
            drop(pipe);
            let _ = sender.send(());
        });
        Self { captured, complete }
    }

    fn is_complete(&self) -> bool {
        self.complete.recv_timeout(PIPE_GRACE).is_ok()
    }

    fn take(self) -> Captured {
        std::mem::take(&mut self.captured.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
