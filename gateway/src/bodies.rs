//! Memory of request bodies while they are read: many slow callers together must not exhaust it.

use std::sync::Arc;

use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of all bodies that are read at the same time.
const BUDGET_BYTES: usize = 64 * 1024 * 1024;

/// Memory budget of all bodies. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct BodyBudget(Arc<Semaphore>);

/// The part of the budget that one body has reserved, released on drop.
#[derive(Debug)]
pub(crate) struct BodyReservation {
    budget: BodyBudget,
    permit: Option<OwnedSemaphorePermit>,
}

impl BodyBudget {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET_BYTES)))
    }

    /// The reservation of a body that has not arrived.
    pub(crate) fn reservation(&self) -> BodyReservation {
        BodyReservation { budget: self.clone(), permit: None }
    }
}

impl BodyReservation {
    /// Reserves `bytes` more.
    ///
    /// # Errors
    /// `overloaded` when other bodies have reserved them.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Result<(), OrchestratorError> {
        let count = u32::try_from(bytes).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.budget.0).try_acquire_many_owned(count).map_err(|_| {
            let message = format!(
                "the gateway reads {BUDGET_BYTES} bytes of request bodies, the most at once; retry after 1 s"
            );
            OrchestratorError::new(OrchestratorErrorCode::Overloaded, message)
                .with_retry_after(std::time::Duration::from_secs(1))
        })?;
        match &mut self.permit {
            Some(reserved) => reserved.merge(permit),
            none => *none = Some(permit),
        }
        Ok(())
    }
}
