//! The plans that run in this planner, by id, with the handle that cancels each of them.

use std::{collections::HashMap, sync::Arc};

use parking_lot::{Mutex, MutexGuard};
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, PlanId, plan::PlanStatus};
use phoenix_platform::propagation::CancelReason;
use tokio::sync::{Notify, SetOnce};

/// The plans that run here. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct PlanRegistry(Arc<Mutex<HashMap<PlanId, CancelHandle>>>);

/// Cancels or wakes one plan, and reports its end. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct CancelHandle(Arc<Signals>);

#[derive(Debug, Default)]
struct Signals {
    cancelled: SetOnce<String>,
    /// Final state of the run: a terminal status, or none when another planner continues the plan.
    ended: SetOnce<Option<PlanStatus>>,
    /// Notified when a decision about a task was written.
    decided: Notify,
}

/// Keeps a plan in the registry until it is dropped.
#[derive(Debug)]
pub(crate) struct Registration {
    registry: PlanRegistry,
    plan_id: PlanId,
    cancel: CancelHandle,
    status: Option<PlanStatus>,
}

/// Cancels a plan when it is dropped.
pub(crate) struct CancelOnDrop(pub(crate) CancelHandle, pub(crate) CancelReason);

impl PlanRegistry {
    /// Registers a plan under the handle that cancels it.
    pub(crate) fn register(&self, plan_id: PlanId, cancel: CancelHandle) -> Registration {
        self.lock().insert(plan_id, cancel.clone());
        Registration { registry: self.clone(), plan_id, cancel, status: None }
    }

    /// The handle of the plan, if it runs here.
    pub(crate) fn get(&self, plan_id: PlanId) -> Option<CancelHandle> {
        self.lock().get(&plan_id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PlanId, CancelHandle>> {
        self.0.lock()
    }
}

impl CancelHandle {
    /// Cancels the plan. The first reason counts.
    pub(crate) fn cancel(&self, reason: impl Into<String>) {
        let _ = self.0.cancelled.set(reason.into());
    }

    /// Whether the plan was cancelled.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.cancelled.initialized()
    }

    /// Waits until the plan is cancelled. Returns the error with the reason.
    pub(crate) async fn cancelled(&self) -> OrchestratorError {
        let reason = self.0.cancelled.wait().await;
        OrchestratorError::new(OrchestratorErrorCode::Cancelled, reason)
    }

    /// Makes the plan look for decisions about its tasks.
    pub(crate) fn wake(&self) {
        self.0.decided.notify_one();
    }

    /// Waits until a decision about a task may have been written.
    pub(crate) async fn woken(&self) {
        self.0.decided.notified().await;
    }

    /// Waits until the plan's end is durable; `None` when it was left to another planner.
    pub(crate) async fn ended(&self) -> Option<PlanStatus> {
        *self.0.ended.wait().await
    }
}

impl Registration {
    pub(crate) const fn plan_id(&self) -> PlanId {
        self.plan_id
    }

    pub(crate) const fn cancel_handle(&self) -> &CancelHandle {
        &self.cancel
    }

    /// Records the plan's durable end.
    pub(crate) fn ended(&mut self, status: PlanStatus) {
        self.status = Some(status);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.plan_id);
        let _ = self.cancel.0.ended.set(self.status);
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel(self.1.get().unwrap_or("the caller went away before the plan ended"));
    }
}
