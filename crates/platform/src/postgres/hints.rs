//! `LISTEN`: hints that another process has changed something. Any of them may be lost, so a poll stands behind each.

use std::{sync::Arc, time::Duration};

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longest time to connect, and to answer that the connection still works.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Time without a notification after which the connection is tested: a connection that broke without notice looks idle.
const TEST_AFTER: Duration = Duration::from_secs(15);

/// Pause before the next connection.
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

/// Hints from one channel. Dropping them ends the connection.
#[derive(Debug)]
pub struct Hints {
    notify: Arc<Notify>,
    _stop: Option<DropGuard>,
}

impl Hints {
    /// No hints.
    pub(super) fn none() -> Self {
        Self { notify: Arc::default(), _stop: None }
    }

    /// Waits for a hint. Several hints since the last call are one; a new connection is one, because it may have missed some.
    pub async fn next(&mut self) {
        self.notify.notified().await;
    }
}

/// Listens on `channel` with a connection of its own, and ignores the payload `own`.
pub(super) fn listen(options: Arc<PgConnectOptions>, channel: &'static str, own: String) -> Hints {
    let notify = Arc::new(Notify::new());
    let stop = CancellationToken::new();
    let (hint, stopped) = (Arc::clone(&notify), stop.clone());
    tokio::spawn(async move {
        let listening = async {
            loop {
                if let Err(error) = Box::pin(receive(&options, channel, &own, &hint)).await {
                    tracing::debug!(channel, %error, "listening again");
                }
                tokio::time::sleep(RECONNECT_AFTER).await;
            }
        };
        stopped.run_until_cancelled(listening).await
    });
    Hints { notify, _stop: Some(stop.drop_guard()) }
}

/// Passes notifications on until the connection breaks.
async fn receive(
    options: &PgConnectOptions,
    channel: &str,
    own: &str,
    hint: &Notify,
) -> Result<(), sqlx::Error> {
    // A pool for this connection only: a broken connection does not count against the next one.
    let pool =
        PgPoolOptions::new().max_connections(1).acquire_timeout(TIMEOUT).connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    within(listener.listen(channel)).await?;
    hint.notify_one();
    loop {
        match tokio::time::timeout(TEST_AFTER, listener.try_recv()).await {
            Ok(Ok(Some(notification))) if notification.payload() == own => {}
            Ok(Ok(Some(_))) => hint.notify_one(),
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => within(sqlx::raw_sql("SELECT 1").execute(&mut listener)).await.map(|_| ())?,
        }
    }
}

/// Waits no longer than [`TIMEOUT`].
async fn within<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    tokio::time::timeout(TIMEOUT, work).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}
