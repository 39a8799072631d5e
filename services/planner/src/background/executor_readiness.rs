//! Readiness of the executor.

use std::time::Duration;

use phoenix_platform::{
    client::{self, PeerChannel},
    readiness::Readiness,
};
use tokio_util::sync::CancellationToken;

/// Interval and timeout of the checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Interval until the executor is ready for the first time, so that a stack starts fast.
const FIRST_INTERVAL: Duration = Duration::from_millis(20);

/// Sets the condition `executor` of `readiness` to what the executor reports, until `stop`.
pub(crate) async fn run(executor: PeerChannel, readiness: Readiness, stop: CancellationToken) {
    let mut interval = FIRST_INTERVAL;
    while !stop.is_cancelled() {
        let is_serving = client::is_serving(executor.clone(), CHECK_INTERVAL).await;
        readiness.set("executor", is_serving);
        if is_serving {
            interval = CHECK_INTERVAL;
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = stop.cancelled() => {}
        }
    }
}
