//! What the bodies of all requests may take while they are read: callers that send slowly must not fill the memory together.

use std::sync::Arc;

use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bytes of bodies that are read at once.
const BUDGET_BYTES: usize = 64 * 1024 * 1024;

/// The budget that all bodies share. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct BodyBudget(Arc<Semaphore>);

/// What one body has taken of the budget, given back on drop.
#[derive(Debug)]
pub(crate) struct Admitted {
    budget: BodyBudget,
    taken: Option<OwnedSemaphorePermit>,
}

impl BodyBudget {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET_BYTES)))
    }

    /// A body of which nothing has arrived.
    pub(crate) fn body(&self) -> Admitted {
        Admitted { budget: self.clone(), taken: None }
    }
}

impl Admitted {
    /// Takes so many bytes more.
    ///
    /// # Errors
    /// `overloaded` when other bodies have taken them.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), OrchestratorError> {
        let count = u32::try_from(bytes).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.budget.0).try_acquire_many_owned(count).map_err(|_| {
            let message = format!(
                "the gateway reads {BUDGET_BYTES} bytes of request bodies, the most at once; retry after 1 s"
            );
            OrchestratorError::new(OrchestratorErrorCode::Overloaded, message)
                .with_retry_after(std::time::Duration::from_secs(1))
        })?;
        match &mut self.taken {
            Some(taken) => taken.merge(permit),
            none => *none = Some(permit),
        }
        Ok(())
    }
}
