//! The registration of a planner in its journal, at the start.

use std::time::{Duration, Instant};

use phoenix_platform::postgres::PATIENCE;
use uuid::Uuid;

use crate::store::{backend::Store, error::JournalError};

/// Pause before the next attempt.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// A registered planner.
pub(super) struct Registration {
    /// Identity of the planner.
    pub(super) instance: String,
    /// Position of the journal.
    pub(super) position: u64,
}

/// Registers a new planner. A database that fails in a way that may pass is tried again, under another identity: the first one
/// may have been registered without an answer, and other planners see it die.
///
/// # Errors
/// When the journal cannot be used, for longer than [`PATIENCE`] if that may pass.
pub(super) async fn register(store: &dyn Store) -> Result<Registration, JournalError> {
    let started_at = Instant::now();
    let mut is_waiting = false;
    loop {
        let instance = Uuid::new_v4().to_string();
        let registered = async {
            store.register(&instance).await?;
            store.position().await
        };
        let error = match registered.await {
            Ok(position) => return Ok(Registration { instance, position }),
            Err(error) => error,
        };
        if !error.may_pass() || started_at.elapsed() >= PATIENCE {
            return Err(error);
        }
        if !std::mem::replace(&mut is_waiting, true) {
            tracing::warn!(%error, "waiting for the database");
        }
        tokio::time::sleep(RETRY_AFTER).await;
    }
}
