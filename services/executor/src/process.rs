//! Agent processes: each is started as the leader of a process group of its own, and none is left behind.
//!
//! Whatever a process started is in its group unless it took pains to leave it. The whole group gets SIGKILL when its
//! [`Group`] is done, however that comes: after the answer, at the deadline, when the caller leaves (then SIGTERM comes
//! first), when the runtime goes away. Processes that left their group become children of the executor, whose
//! [`crate::reaper`] ends them a moment later; when the executor is gone, [`crate::orphans`] finds them.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use metrics::Gauge;
use nix::sys::signal::{Signal, killpg};
use tokio::{
    net::unix::pipe::Sender,
    process::{Child, Command},
};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    cleanup::Cleanup,
    metrics::Held,
    orphans::Marker,
    pipes::{self, Output},
    processes::MARKER_VARIABLE,
    registry::{Registered, Registry, Work},
};

/// What a process that is no longer wanted has between SIGTERM and SIGKILL. Whoever cancelled it does not wait for it, and
/// within a second it is gone, whatever it does.
const TERM_GRACE: Duration = Duration::from_millis(500);

/// How the processes of one agent are started.
pub(crate) struct Program {
    name: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    search_path: String,
    found: RwLock<Option<Arc<Path>>>,
    processes: Gauge,
    origin: Origin,
    cleanup: Cleanup,
}

/// What all processes of an executor have in common.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) registry: Arc<Registry>,
    pub(crate) marker: Marker,
}

/// A process that runs, with the ends of its pipes.
pub(crate) struct AgentProcess {
    pub(crate) pid: u32,
    /// None when all that it is to read is there already.
    pub(crate) stdin: Option<Sender>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    pub(crate) group: Group,
    pub(crate) work: Arc<Work>,
}

/// A process and everything it started. Dropping it ends them all.
pub(crate) struct Group {
    body: Option<Body>,
    killed: bool,
    cleanup: Cleanup,
}

struct Body {
    leader: Child,
    registered: Registered,
    reaped: bool,
    _held: Held,
    _token: TaskTrackerToken,
}

impl Program {
    /// `command` with nothing but `environment` and the marker of `origin`. A name without a slash is looked up in `search_path`.
    pub(crate) fn new(
        command: &[String],
        environment: Vec<(String, String)>,
        search_path: String,
        processes: Gauge,
        origin: Origin,
        cleanup: Cleanup,
    ) -> Self {
        let (name, arguments) = command
            .split_first()
            .map_or_else(Default::default, |(name, arguments)| (name.clone(), arguments.to_vec()));
        Self {
            name,
            arguments,
            environment,
            search_path,
            found: RwLock::default(),
            processes,
            origin,
            cleanup,
        }
    }

    pub(crate) const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Starts a process. What it reads is `request` and no more, or whatever is written to it.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) fn spawn(&self, request: Option<&[u8]>) -> io::Result<AgentProcess> {
        let known = self.found.read().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Some(path) => match self.spawn_at(&path, request) {
                // It may have moved.
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.find_and_spawn(request),
                spawned => spawned,
            },
            None => self.find_and_spawn(request),
        }
    }

    fn find_and_spawn(&self, request: Option<&[u8]>) -> io::Result<AgentProcess> {
        let path: Arc<Path> = find(&self.name, &self.search_path)?.into();
        let process = self.spawn_at(&path, request)?;
        *self.found.write().unwrap_or_else(PoisonError::into_inner) = Some(path);
        Ok(process)
    }

    /// A path with a slash, no uid, no working directory and no `pre_exec` keep the standard library on its fast way,
    /// `posix_spawn`, which does not copy the executor's page tables.
    fn spawn_at(&self, path: &Path, request: Option<&[u8]>) -> io::Result<AgentProcess> {
        let (its_stdin, stdin) = pipes::input(request)?;
        let (its_stdout, stdout) = pipes::output()?;
        let (its_stderr, stderr) = pipes::output()?;
        let Origin { registry, marker } = &self.origin;
        let number = registry.next_number();
        let mut command = Command::new(path);
        command
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env(MARKER_VARIABLE, marker.of_process(number))
            .stdin(its_stdin)
            .stdout(its_stdout)
            .stderr(its_stderr)
            .process_group(0);
        let (leader, registered) = registry.spawn(number, &mut command)?;
        let (pid, work) = (registered.pid().as_raw().cast_unsigned(), Arc::clone(registered.work()));
        let body = Body {
            leader,
            registered,
            reaped: false,
            _held: Held::of(&self.processes),
            _token: self.cleanup.token(),
        };
        let group = Group { body: Some(body), killed: false, cleanup: self.cleanup.clone() };
        Ok(AgentProcess { pid, stdin, stdout, stderr, group, work })
    }
}

/// The file that `name` means.
fn find(name: &str, search_path: &str) -> io::Result<PathBuf> {
    if name.contains('/') {
        return Ok(name.into());
    }
    let mut failure = io::ErrorKind::NotFound;
    for folder in std::env::split_paths(search_path).filter(|folder| folder.is_absolute()) {
        let file = folder.join(name);
        match file.metadata() {
            Ok(facts) if facts.is_file() && facts.permissions().mode() & 0o111 != 0 => return Ok(file),
            Ok(facts) if facts.is_file() => failure = io::ErrorKind::PermissionDenied,
            _ => {}
        }
    }
    Err(failure.into())
}

impl Group {
    /// Waits for the end of the process itself. May be dropped and called again.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        match &mut self.body {
            Some(body) => body.wait().await,
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Ends the whole group at once.
    pub(crate) fn kill(&mut self) {
        if let Some(body) = &self.body {
            self.killed = true;
            body.signal(Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take().filter(|body| !body.reaped) else { return };
        if self.killed {
            self.cleanup.spawn(async move { drop(body.wait().await) });
            return;
        }
        body.signal(Signal::SIGTERM);
        let cleanup = self.cleanup.clone();
        self.cleanup.spawn(async move {
            tokio::select! {
                _ = body.wait() => {}
                () = tokio::time::sleep(TERM_GRACE) => {}
                () = cleanup.hurry() => {}
            }
            body.signal(Signal::SIGKILL);
            // Reaped before the gauge goes down and the cleanup counts as finished.
            drop(body.wait().await);
        });
    }
}

impl Body {
    async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.leader.wait().await?;
        self.reaped = true;
        Ok(status)
    }

    fn signal(&self, signal: Signal) {
        // A group stays a group until its last member is gone, so its id means no one else while any is left. Once it is
        // empty the id is free again, but ids are given out in turn: it can't come round within one attempt's end.
        let _ = killpg(self.registered.pid(), signal);
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_up_like_a_shell_does() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        for folder in [&first, &second] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("tool"), "").unwrap();
        }
        let search_path = format!(":{}:{}", first.display(), second.display());
        assert_eq!(find("tool", &search_path).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        std::fs::set_permissions(second.join("tool"), PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(find("tool", &search_path).unwrap(), second.join("tool"));
        assert_eq!(find("other", &search_path).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(find("./tool", "").unwrap(), Path::new("./tool"));
    }
}
