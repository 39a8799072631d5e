//! PgBouncer in transaction mode: each transaction gets any of two connections to the server.

use std::{
    fs::{self, File},
    net::TcpStream,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Instant,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    guard::Guard,
    installation::{Installation, skip},
    process::{TIMEOUT, pause},
    server::{PASSWORD, Server, USER, blocking, free_port},
};

/// The program of Debian's package.
const PROGRAM: &str = "/usr/sbin/pgbouncer";

/// A running pooler. Dropping it ends it.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    process: Child,
    // Dropped last.
    _guard: Guard,
}

impl PgBouncer {
    /// Starts a pooler in front of `server`; `None` when PgBouncer is not installed, and the test is skipped.
    ///
    /// # Panics
    /// When it does not start, or `CI` is set and PgBouncer is not installed.
    pub async fn start(server: &Server) -> Option<Self> {
        Self::start_with(server, "").await
    }

    /// Like [`start`](Self::start), with further lines of its configuration.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub async fn start_with(server: &Server, settings: &'static str) -> Option<Self> {
        let server_port = server.port();
        blocking(move || Self::started(server_port, settings)).await
    }

    fn started(server_port: u16, settings: &str) -> Option<Self> {
        let Some(installation) = Installation::newest().filter(|_| Path::new(PROGRAM).is_file()) else {
            return skip("pgbouncer");
        };
        let folder = installation.folder();
        let guard = Guard::of(&folder, "pid");
        let port = free_port();
        let configuration = configure(&installation, &folder, port, server_port, settings);
        let log = File::create(folder.join("log")).expect("the log can be written");
        let mut command = installation.command_of(Path::new(PROGRAM));
        command
            .arg(configuration)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .process_group(0);
        let mut process = command.spawn().expect("pgbouncer can be started");
        let started_at = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let has_ended = process.try_wait().expect("it can be waited for").is_some();
            let log = || fs::read_to_string(folder.join("log")).unwrap_or_default();
            assert!(!has_ended && started_at.elapsed() < TIMEOUT, "pgbouncer does not start:\n{}", log());
            pause();
        }
        Some(Self { port, process, _guard: guard })
    }

    /// The URL of a database, through this pooler.
    ///
    /// # Panics
    /// When the URL names no host.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let (user, rest) = database.rsplit_once('@').expect("a user");
        let (_, name) = rest.split_once('/').expect("a database");
        format!("{user}@127.0.0.1:{}/{name}", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.process.id()).expect("a process id"));
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

fn configure(
    installation: &Installation,
    folder: &Path,
    port: u16,
    server_port: u16,
    settings: &str,
) -> PathBuf {
    let shown = folder.display();
    let users = format!("\"{USER}\" \"{PASSWORD}\"\n");
    let configuration = format!(
        "[databases]\n* = host=127.0.0.1 port={server_port}\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
         auth_type = scram-sha-256\nauth_file = {shown}/users\npidfile = {shown}/pid\n\
         pool_mode = transaction\ndefault_pool_size = 2\n{settings}\n"
    );
    for (name, text) in [("users", &users), ("pgbouncer.ini", &configuration)] {
        let path = folder.join(name);
        fs::write(&path, text).expect("the configuration can be written");
        installation.give(&path);
    }
    folder.join("pgbouncer.ini")
}
