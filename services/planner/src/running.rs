//! The plans that are on their way here, by id, so that anyone can end one.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, PlanId, plan::PlanStatus};
use phoenix_platform::propagation::CancelReason;
use tokio::sync::SetOnce;

/// The list. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct RunningPlans(Arc<Mutex<HashMap<PlanId, Stop>>>);

/// Ends one plan before its tasks have ended, and hears of its end. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<Signals>);

#[derive(Debug, Default)]
struct Signals {
    asked: SetOnce<String>,
    /// The state in which it was left: a terminal one, unless another planner goes on with it.
    ended: SetOnce<Option<PlanStatus>>,
}

/// Keeps a plan on the list.
#[derive(Debug)]
pub(crate) struct Listed {
    list: RunningPlans,
    plan_id: PlanId,
    stop: Stop,
    status: Option<PlanStatus>,
}

/// Ends a plan as cancelled when it is dropped.
pub(crate) struct CancelOnDrop(pub(crate) Stop, pub(crate) CancelReason);

impl RunningPlans {
    /// Puts a plan on the list, for whoever wants to `stop` it.
    pub(crate) fn list(&self, plan_id: PlanId, stop: Stop) -> Listed {
        self.lock().insert(plan_id, stop.clone());
        Listed { list: self.clone(), plan_id, stop, status: None }
    }

    /// What ends the plan, if it is on its way here.
    pub(crate) fn get(&self, plan_id: PlanId) -> Option<Stop> {
        self.lock().get(&plan_id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PlanId, Stop>> {
        // Nothing panics while the list is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stop {
    /// Ends the plan as cancelled. The first reason counts.
    pub(crate) fn cancel(&self, reason: impl Into<String>) {
        let _ = self.0.asked.set(reason.into());
    }

    /// Whether somebody wants the plan ended.
    pub(crate) fn is_asked(&self) -> bool {
        self.0.asked.initialized()
    }

    /// Waits until somebody wants the plan ended; why.
    pub(crate) async fn asked(&self) -> OrchestratorError {
        let reason = self.0.asked.wait().await;
        OrchestratorError::new(OrchestratorErrorCode::Cancelled, reason)
    }

    /// Waits until the plan's end is durable; `None` when it was left to another planner.
    pub(crate) async fn ended(&self) -> Option<PlanStatus> {
        *self.0.ended.wait().await
    }
}

impl Listed {
    pub(crate) const fn plan_id(&self) -> PlanId {
        self.plan_id
    }

    pub(crate) fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// The plan's end is durable.
    pub(crate) fn ended(&mut self, status: PlanStatus) {
        self.status = Some(status);
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.list.lock().remove(&self.plan_id);
        let _ = self.stop.0.ended.set(self.status);
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel(self.1.get().unwrap_or("the caller went away before the plan ended"));
    }
}
