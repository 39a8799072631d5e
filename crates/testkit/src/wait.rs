//! Waiting for conditions.

use std::time::Duration;

/// Timeout of every wait in a test. Long, so that a test fails only for a condition that never holds, not on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not hold within [`TIMEOUT`]; `what` describes it.
pub async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    until_some(what, async || condition().await.then_some(())).await;
}

/// Waits until `probe` returns a value, and returns it.
///
/// # Panics
/// When it does not within [`TIMEOUT`]; `what` describes the value.
pub async fn until_some<T>(what: &str, probe: impl AsyncFn() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(TIMEOUT, wait).await {
        Ok(found) => found,
        Err(_) => panic!("timed out after {} s: {what}", TIMEOUT.as_secs()),
    }
}
