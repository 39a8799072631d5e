//! How a process ends.
//!
//! ```text
//! 1  first SIGTERM, SIGHUP or Ctrl-C: the token is cancelled
//! 2  the server says NOT_SERVING, so that nobody sends new work
//! 3  it stops accepting
//! 4  what is in flight ends, or its time runs out ([`DRAIN`])
//! 5  spans and log lines are flushed
//! 6  the process exits with 0
//!    a second signal, at any step: exit at once with 130
//! ```
//!
//! SIGUSR1 and SIGUSR2 mean nothing here and are ignored. A SIGHUP that was ignored when the process was started, as under
//! `nohup`, stays ignored.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long work in flight may take to end after the first signal.
pub const DRAIN: Duration = Duration::from_secs(30);

/// The signals that ask a process to stop. Signals without a meaning are caught too, and ignored: a handler, unlike an
/// ignored signal, is not inherited by agents.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Signal>,
    _ignored: [Signal; 2],
}

impl StopSignals {
    /// Catches them from now on. To be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the signals can't be caught.
    pub fn catch() -> std::io::Result<Self> {
        let hangup = SignalKind::hangup();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: if is_ignored(hangup) { None } else { Some(signal(hangup)?) },
            _ignored: [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?],
        })
    }

    /// The name of the next one that arrives.
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

/// Whether this process was started with the signal ignored, where the system tells (`proc_pid_status(5)`, `SigIgn`).
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (kind.as_raw_value() - 1) & 1 == 1
}

/// A token that the first SIGTERM, SIGHUP or Ctrl-C cancels. To be called inside a tokio runtime.
///
/// # Errors
/// When the signals can't be caught.
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
        #[expect(clippy::disallowed_methods, reason = "the person asked twice")]
        std::process::exit(130);
    });
    Ok(token)
}
