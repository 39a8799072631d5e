//! Graceful shutdown of a process.
//!
//! ```text
//! 1  first SIGTERM, SIGHUP or Ctrl-C: the token is cancelled
//! 2  the server reports NOT_SERVING, so that no new work is sent
//! 3  it stops accepting
//! 4  calls in flight end, or the drain limit passes ([`DRAIN`])
//! 5  spans and log lines are flushed
//! 6  the process exits with 0
//!    a second signal, at any step: exit at once with 130
//! ```
//!
//! SIGUSR1 and SIGUSR2 are ignored. A SIGHUP that was ignored when the process started, as under `nohup`, stays ignored.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Drain limit: time for calls in flight after the first signal.
pub const DRAIN: Duration = Duration::from_secs(30);

/// Signals that stop a process. SIGUSR1 and SIGUSR2 are caught and dropped: a handler, unlike an ignored signal, is not
/// inherited by agents.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
    _ignored: [Signal; 2],
}

impl StopSignals {
    /// Installs the signal handlers. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When a handler cannot be installed.
    pub fn catch() -> std::io::Result<Self> {
        let hangup = SignalKind::hangup();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: if is_ignored(hangup) { None } else { Some(signal(hangup)?) },
            _ignored: [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?],
        })
    }

    /// Waits for the next signal. Returns its name.
    pub async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = hangup => "SIGHUP",
        }
    }
}

/// Whether the process started with the signal ignored, as `proc_pid_status(5)` reports it (`SigIgn`).
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (kind.as_raw_value() - 1) & 1 == 1
}

/// A token that the first SIGTERM, SIGHUP or Ctrl-C cancels. Must be called inside a tokio runtime.
///
/// # Errors
/// When a handler cannot be installed.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut signals = StopSignals::catch()?;
    let token = CancellationToken::new();
    let first = token.clone();
    tokio::spawn(async move {
        let name = signals.next().await;
        tracing::info!(signal = name, "shutting down; a second signal ends the process at once");
        first.cancel();
        signals.next().await;
        tracing::warn!("second signal: exiting at once");
        #[expect(clippy::disallowed_methods, reason = "a second signal exits at once")]
        std::process::exit(130);
    });
    Ok(token)
}
