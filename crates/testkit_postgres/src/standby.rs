//! A standby: a server that follows another one, and takes its place.

use std::{
    fs::OpenOptions,
    io::Write,
    path::Path,
    sync::{Arc, Mutex, atomic::AtomicU32},
};

use crate::{
    guard::Guard,
    server::{Inner, Server, USER, blocking, free_port},
};

impl Server {
    /// Starts a standby that is synchronous: what this server acknowledges from now on is on the standby, too.
    ///
    /// # Panics
    /// When it cannot be started, or does not follow this server.
    pub async fn standby(&self) -> Self {
        let primary = self.clone();
        let standby = blocking(move || primary.start_standby()).await;
        self.set("synchronous_standby_names", Some("*")).await;
        self.until("SELECT FROM pg_stat_replication WHERE sync_state = 'sync'").await;
        standby
    }

    /// Makes a standby a primary, and waits until it is one.
    ///
    /// # Panics
    /// When it does not become one.
    pub async fn promote(&self) {
        self.execute("postgres", "SELECT pg_promote()").await;
        self.until("SELECT WHERE NOT pg_is_in_recovery()").await;
    }

    fn start_standby(&self) -> Self {
        let installation = self.installation().clone();
        let (folder, port) = (installation.folder(), free_port());
        let guard = Guard::of(&folder, "data/postmaster.pid");
        let mut backup = installation.command("pg_basebackup");
        backup.arg("--pgdata").arg(folder.join("data")).arg("--host").arg(self.folder());
        backup.args(["--port", &self.port().to_string(), "--username", USER]);
        backup.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]);
        let output = backup.output().expect("pg_basebackup can be started");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        own_address(&folder, port);
        let (postmaster, databases) = (Mutex::new(None), AtomicU32::new(0));
        let inner = Inner { installation, folder, port, postmaster, databases, _guard: guard };
        inner.start();
        Self(Arc::new(inner))
    }
}

/// Replaces the address that the copied configuration has. The last line counts.
fn own_address(folder: &Path, port: u16) {
    let lines = format!("port = {port}\nunix_socket_directories = '{}'\n", folder.display());
    let file = OpenOptions::new().append(true).open(folder.join("data/postgresql.conf"));
    file.and_then(|mut file| file.write_all(lines.as_bytes())).expect("the settings can be written");
}
