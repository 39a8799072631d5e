//! Hands the model settings, API keys included, to the built-in language-model agent.
//!
//! Between `exec` and the first line of its `main`, a process is dumpable: other processes of the same user can read its
//! environment and open its pipes through `/proc`. So these settings travel over a Unix socket to which the agent connects
//! after it has made itself undumpable. The kernel names the process at the other end (`SO_PEERCRED`); the socket answers
//! processes that the executor started for this agent, and no other. Its name is abstract: no file is left behind.

use std::{io, sync::Arc, time::Duration};

use nix::unistd::Pid;
use phoenix_domain::llm::LlmSettings;
use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, UnixStream},
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::registry::Registry;

/// Time in which the settings must fit into the socket.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause after a connection could not be accepted, such as for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the settings until it is dropped.
pub(crate) struct SettingsSocket {
    name: String,
    _task: AbortOnDropHandle<()>,
}

impl SettingsSocket {
    /// Serves `settings` to those processes of `registry` that may collect them. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// Those of the operating system; always on systems without abstract socket names.
    pub(crate) fn start(settings: &LlmSettings, registry: Arc<Registry>) -> io::Result<Self> {
        let settings = serde_json::to_vec(settings)?;
        let name = format!("phoenix-settings-{}", Uuid::new_v4());
        let listener = bind(&name)?;
        let task = tokio::spawn(serve(listener, settings, registry));
        Ok(Self { name, _task: AbortOnDropHandle::new(task) })
    }

    /// Abstract name of the socket.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(target_os = "linux")]
fn bind(name: &str) -> io::Result<UnixListener> {
    use std::os::{linux::net::SocketAddrExt, unix::net};

    let address = net::SocketAddr::from_abstract_name(name)?;
    let listener = net::UnixListener::bind_addr(&address)?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

#[cfg(not(target_os = "linux"))]
fn bind(_name: &str) -> io::Result<UnixListener> {
    Err(io::ErrorKind::Unsupported.into())
}

async fn serve(listener: UnixListener, settings: Vec<u8>, registry: Arc<Registry>) {
    loop {
        match listener.accept().await {
            Ok((mut peer, _)) => {
                if may_collect(&peer, &registry) {
                    // An agent that gets no settings answers with the reason.
                    let _ = timeout(WRITE_TIMEOUT, peer.write_all(&settings)).await;
                } else {
                    tracing::warn!("a process that may not collect the model settings asked for them");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for the model settings");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn may_collect(peer: &UnixStream, registry: &Registry) -> bool {
    let pid = peer.peer_cred().ok().and_then(|credentials| credentials.pid());
    let Some(pid) = pid.map(Pid::from_raw) else { return false };
    let may_collect = || registry.record_of(pid).map(|record| record.collects_settings());
    may_collect()
        .or_else(|| {
            // A process may connect before its start is registered.
            drop(registry.pause_starts());
            may_collect()
        })
        .unwrap_or(false)
}
