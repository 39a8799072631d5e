//! Agent processes. Each starts as the leader of its own process group, and none is left behind.
//!
//! A process belongs to the group of its parent unless it leaves the group on purpose. The whole group gets SIGKILL when
//! its [`ProcessGroup`] is dropped, for every reason: after the response, at the deadline, when the caller leaves (then
//! SIGTERM comes first), when the runtime stops. Processes that left their group become children of the executor, whose
//! [`crate::reaper`] kills them a moment later; when the executor is gone, [`crate::orphans`] finds them.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::Duration,
};

use metrics::Gauge;
use nix::sys::signal::{Signal, killpg};
use parking_lot::RwLock;
use tokio::{
    net::unix::pipe::Sender,
    process::{Child, Command},
};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    cleanup::Cleanup,
    metrics::GaugeGuard,
    orphans::Marker,
    pipes::{self, OutputPipe},
    priority::AgentPriority,
    processes::MARKER_VARIABLE,
    registry::{ProcessRecord, RegisteredProcess, Registry},
    start_slots::{StartSlot, StartSlots},
};

/// Grace period between SIGTERM and SIGKILL. The caller that cancelled does not wait for it; the process is gone within a
/// second in every case.
const TERM_GRACE: Duration = Duration::from_millis(500);

/// How to start the processes of one agent.
pub(crate) struct Program {
    name: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    search_path: String,
    /// File of the program after the first start.
    found: RwLock<Option<Arc<Path>>>,
    collects_settings: bool,
    processes: Gauge,
    identity: ExecutorIdentity,
    cleanup: Cleanup,
}

/// What an agent's processes are started with.
pub(crate) struct Launch<'a> {
    pub(crate) command: &'a [String],
    /// The whole environment, except for the marker.
    pub(crate) environment: Vec<(String, String)>,
    /// Directories in which a program without a slash in its name is looked up.
    pub(crate) search_path: String,
    /// Whether the processes may collect the model settings.
    pub(crate) collects_settings: bool,
}

/// What all processes of an executor have in common.
#[derive(Debug, Clone)]
pub(crate) struct ExecutorIdentity {
    pub(crate) registry: Arc<Registry>,
    pub(crate) marker: Marker,
    pub(crate) start_slots: StartSlots,
    pub(crate) agent_priority: AgentPriority,
}

/// A running process and the executor's ends of its pipes.
pub(crate) struct AgentProcess {
    pub(crate) pid: u32,
    /// `None` when the request was written before the start.
    pub(crate) stdin: Option<Sender>,
    pub(crate) stdout: OutputPipe,
    pub(crate) stderr: OutputPipe,
    pub(crate) group: ProcessGroup,
    pub(crate) record: Arc<ProcessRecord>,
}

/// A process and everything in its group. Dropping it kills them all.
pub(crate) struct ProcessGroup {
    inner: Option<Inner>,
    killed: bool,
    cleanup: Cleanup,
}

struct Inner {
    leader: Child,
    registered: RegisteredProcess,
    reaped: bool,
    _gauge: GaugeGuard,
    _token: TaskTrackerToken,
}

impl Program {
    pub(crate) fn new(
        launch: Launch<'_>,
        processes: Gauge,
        identity: ExecutorIdentity,
        cleanup: Cleanup,
    ) -> Self {
        let Launch { command, environment, search_path, collects_settings } = launch;
        let (name, arguments) = command
            .split_first()
            .map_or_else(Default::default, |(name, arguments)| (name.clone(), arguments.to_vec()));
        Self {
            name,
            arguments,
            environment,
            search_path,
            found: RwLock::default(),
            collects_settings,
            processes,
            identity,
            cleanup,
        }
    }

    pub(crate) const fn identity(&self) -> &ExecutorIdentity {
        &self.identity
    }

    /// Waits for the right to start a process that stays.
    pub(crate) async fn start_slot(&self) -> StartSlot {
        self.identity.start_slots.acquire().await
    }

    /// Starts a process. Its input is `request` and then ends, or stays open for writing.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) fn spawn(&self, request: Option<&[u8]>) -> io::Result<AgentProcess> {
        let known = self.found.read().clone();
        match known {
            Some(path) => match self.spawn_at(&path, request) {
                // The program may have moved.
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.find_and_spawn(request),
                spawned => spawned,
            },
            None => self.find_and_spawn(request),
        }
    }

    fn find_and_spawn(&self, request: Option<&[u8]>) -> io::Result<AgentProcess> {
        let path: Arc<Path> = find(&self.name, &self.search_path)?.into();
        let process = self.spawn_at(&path, request)?;
        *self.found.write() = Some(path);
        Ok(process)
    }

    /// A path with a slash, no uid, no working directory and no `pre_exec` keep the standard library on `posix_spawn`, which
    /// does not copy the executor's page tables.
    fn spawn_at(&self, path: &Path, request: Option<&[u8]>) -> io::Result<AgentProcess> {
        let (agent_stdin, stdin) = pipes::stdin_pipe(request)?;
        let (agent_stdout, stdout) = pipes::output_pipe()?;
        let (agent_stderr, stderr) = pipes::output_pipe()?;
        let ExecutorIdentity { registry, marker, agent_priority, .. } = &self.identity;
        let number = registry.next_number();
        let mut command = Command::new(path);
        command
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env(MARKER_VARIABLE, marker.of_process(number))
            .stdin(agent_stdin)
            .stdout(agent_stdout)
            .stderr(agent_stderr)
            .process_group(0);
        let (leader, registered) = registry.spawn(number, self.collects_settings, &mut command)?;
        agent_priority.apply(registered.pid());
        let (pid, record) = (registered.pid().as_raw().cast_unsigned(), Arc::clone(registered.record()));
        let inner = Inner {
            leader,
            registered,
            reaped: false,
            _gauge: GaugeGuard::increment(&self.processes),
            _token: self.cleanup.token(),
        };
        let group = ProcessGroup { inner: Some(inner), killed: false, cleanup: self.cleanup.clone() };
        Ok(AgentProcess { pid, stdin, stdout, stderr, group, record })
    }
}

/// Looks up the file of `name`.
fn find(name: &str, search_path: &str) -> io::Result<PathBuf> {
    if name.contains('/') {
        return Ok(name.into());
    }
    let mut failure = io::ErrorKind::NotFound;
    for folder in std::env::split_paths(search_path).filter(|folder| folder.is_absolute()) {
        let file = folder.join(name);
        match file.metadata() {
            Ok(metadata) if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 => {
                return Ok(file);
            }
            Ok(metadata) if metadata.is_file() => failure = io::ErrorKind::PermissionDenied,
            _ => {}
        }
    }
    Err(failure.into())
}

impl ProcessGroup {
    /// Waits for the exit of the leader. Cancel safe.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        match &mut self.inner {
            Some(inner) => inner.wait().await,
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Kills the whole group at once.
    pub(crate) fn kill(&mut self) {
        if let Some(inner) = &self.inner {
            self.killed = true;
            inner.signal(Signal::SIGKILL);
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let Some(mut inner) = self.inner.take().filter(|inner| !inner.reaped) else { return };
        if self.killed {
            self.cleanup.spawn(async move { drop(inner.wait().await) });
            return;
        }
        inner.signal(Signal::SIGTERM);
        let cleanup = self.cleanup.clone();
        self.cleanup.spawn(async move {
            tokio::select! {
                _ = inner.wait() => {}
                () = tokio::time::sleep(TERM_GRACE) => {}
                () = cleanup.stopping() => {}
            }
            inner.signal(Signal::SIGKILL);
            // Reaped before the gauge is decremented and the cleanup counts as finished.
            drop(inner.wait().await);
        });
    }
}

impl Inner {
    async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.leader.wait().await?;
        self.reaped = true;
        Ok(status)
    }

    fn signal(&self, signal: Signal) {
        // The id of a group stays reserved until its last member is gone. The id of an empty group is free, but ids are
        // assigned in turn, so it cannot come round again within the end of one attempt.
        let _ = killpg(self.registered.pid(), signal);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_lookup_follows_the_search_path_like_a_shell() {
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
