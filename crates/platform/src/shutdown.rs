//! How a process ends.
//!
//! ```text
//! 1  first SIGTERM or Ctrl-C: the token is cancelled
//! 2  the server says NOT_SERVING, so that nobody sends new work
//! 3  it stops accepting
//! 4  what is in flight ends, or its time runs out ([`DRAIN`])
//! 5  spans and log lines are flushed
//! 6  the process exits with 0
//!    a second signal, at any step: exit at once with 130
//! ```

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long work in flight may take to end after the first signal.
pub const DRAIN: Duration = Duration::from_secs(30);

/// A token that the first SIGTERM or Ctrl-C cancels. To be called inside a tokio runtime.
///
/// # Errors
/// When the signals can't be caught.
pub fn on_signal() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let first = token.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let name = next().await;
        tracing::info!(signal = name, "shutting down; a second signal ends the process at once");
        first.cancel();
        next().await;
        tracing::warn!("second signal: exiting at once");
        #[expect(clippy::disallowed_methods, reason = "the person asked twice")]
        std::process::exit(130);
    });
    Ok(token)
}
