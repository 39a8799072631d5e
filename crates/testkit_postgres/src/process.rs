//! The processes of a server.

use std::{fs, process::Child, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Timeout of every wait, never reached on a slow machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// Waits a moment before a condition is tested again.
#[allow(clippy::disallowed_methods, reason = "on a thread for blocking work")]
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// The main process of a server.
#[derive(Debug)]
pub(crate) struct Postmaster(pub(crate) Child);

impl Postmaster {
    /// Sends a signal to the main process.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the signal can be sent");
    }

    /// Sends a signal to every process of the server.
    pub(crate) fn signal_all(&self, signal: Signal) {
        // The main process first: a frozen or dead one starts no others.
        let children = self.children();
        self.signal(signal);
        for child in children.into_iter().chain(self.children()) {
            // It may have ended.
            let _ = kill(child, signal);
        }
    }

    /// Waits for the end of the main process.
    pub(crate) fn wait(&mut self) {
        self.0.wait().expect("the server can be waited for");
    }

    /// Whether the main process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("the server can be waited for").is_some()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).expect("a process id"))
    }

    fn children(&self) -> Vec<Pid> {
        let path = format!("/proc/{pid}/task/{pid}/children", pid = self.pid());
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok().map(Pid::from_raw)).collect()
    }
}
