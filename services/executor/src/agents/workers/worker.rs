//! One worker process as the pool holds it.

use std::{
    io,
    process::ExitStatus,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::{oneshot, watch};

use super::descendants::Descendants;
use crate::agents::exchange::Exchange;

/// A process that can take a request. Dropping it retires it: SIGTERM, then SIGKILL after a grace period.
pub(super) struct Worker {
    pub(super) pid: u32,
    pub(super) exchange: Exchange,
    pub(super) descendants: Descendants,
    pub(super) exit: watch::Receiver<Option<ExitStatus>>,
    /// Whether it has ever answered; shared with its watcher.
    pub(super) has_answered: Arc<AtomicBool>,
    pub(super) retire: oneshot::Sender<KillNow>,
    pub(super) _slot: PoolSlot,
}

/// Retires a worker without SIGTERM.
pub(super) struct KillNow;

/// A slot of the pool that a worker fills. Dropping it makes a replacement due, however the worker ended.
pub(super) struct PoolSlot(pub(super) Arc<AtomicUsize>);

impl Drop for PoolSlot {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until the watcher reports the exit of the worker.
pub(super) async fn wait_for_exit(exit: &mut watch::Receiver<Option<ExitStatus>>) -> io::Result<ExitStatus> {
    let status = exit.wait_for(Option::is_some).await.ok().and_then(|status| *status);
    status.ok_or_else(|| io::Error::other("its watcher ended before the worker"))
}
