//! Cancelling plans, whichever planner runs them.
//!
//! A plan that runs here is told to end. For any other the request is journaled, and its owner, or whoever takes the plan
//! over, carries it out: a request that was made durable outlives both planners.

use std::time::{Duration, Instant};

use phoenix_domain::{
    CorrelationId, OrchestratorError, OrchestratorErrorCode, PlanId,
    dead_letter::check_reason,
    plan::PlanStatus,
    rejections::{no_such_plan, plan_has_ended},
};

use super::Planner;
use crate::{
    keys::{Claim, Use},
    store::{IdempotencyKey, JournalError},
};

/// How long the end of a plan is waited for that another planner is to cancel. Enough to have it taken over first.
const PATIENCE: Duration = Duration::from_secs(8);

/// How often the plan is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Reason of a cancel that gives none.
const NO_REASON: &str = "the plan was cancelled";

impl Planner {
    /// Ends a plan, and answers when its end is durable. What runs of it is told to end, and not waited for. The answer is
    /// the earlier request with the same key, if there was one.
    ///
    /// # Errors
    /// `not_found`; `conflict` when it has ended already, unless this very request has cancelled it before.
    pub async fn cancel(
        &self,
        plan_id: PlanId,
        reason: String,
        key: Option<IdempotencyKey>,
    ) -> Result<Option<CorrelationId>, OrchestratorError> {
        check_reason(&reason)?;
        let reason = if reason.is_empty() { NO_REASON.to_owned() } else { reason };
        match self.keys().take(key).await? {
            Use::First(claim) => self.end(plan_id, reason, Some(claim), false).await.map(|()| None),
            // Asked for before: a planner that died meanwhile may have left it undone, so it is done again.
            Use::Again(used) => self.end(plan_id, reason, None, true).await.map(|()| used.by),
        }
    }

    async fn end(
        &self,
        plan_id: PlanId,
        reason: String,
        claim: Option<Claim>,
        again: bool,
    ) -> Result<(), OrchestratorError> {
        let Some(stop) = self.running().get(plan_id) else {
            return self.cancel_elsewhere(plan_id, &reason, claim.as_ref(), again).await;
        };
        self.use_key(plan_id, claim.as_ref()).await?;
        stop.cancel(reason.clone());
        match stop.ended().await {
            Some(PlanStatus::Cancelled) => Ok(()),
            // It had come to its own end before the cancel came to it.
            Some(status) => Err(plan_has_ended(status)),
            // This planner stops, and leaves it to the next.
            None => self.cancel_elsewhere(plan_id, &reason, None, again).await,
        }
    }

    /// Cancels the plans of this planner that others were asked to cancel.
    ///
    /// # Errors
    /// When the journal can't be used.
    pub(crate) async fn cancel_requested(&self) -> Result<(), JournalError> {
        let requests = self.journal().cancel_requests().await?;
        if requests.is_empty() {
            return Ok(());
        }
        for (plan_id, reason) in requests {
            if let Some(stop) = self.running().get(plan_id) {
                stop.cancel(reason);
            }
        }
        self.journal().forget_cancel_requests().await
    }

    /// Has a plan that does not run here cancelled by its owner. A plan that is cancelled is fine if that was asked for
    /// `again`.
    async fn cancel_elsewhere(
        &self,
        plan_id: PlanId,
        reason: &str,
        claim: Option<&Claim>,
        again: bool,
    ) -> Result<(), OrchestratorError> {
        let plan = self.journal().plan(plan_id).await?.ok_or_else(|| no_such_plan(plan_id))?;
        match plan.status {
            PlanStatus::Cancelled if again => return Ok(()),
            status if status.is_terminal() => return Err(plan_has_ended(status)),
            _ => {}
        }
        drop(plan);
        self.use_key(plan_id, claim).await?;
        self.journal().request_cancel(plan_id, reason).await?;
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            match self.journal().moved_status(plan_id).await? {
                Some(PlanStatus::Cancelled) => return Ok(()),
                Some(status) if status.is_terminal() => return Err(plan_has_ended(status)),
                None => return Err(no_such_plan(plan_id)),
                Some(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
        Err(not_yet())
    }

    /// Makes the request's key stand for the plan.
    async fn use_key(&self, plan_id: PlanId, claim: Option<&Claim>) -> Result<(), OrchestratorError> {
        let Some(claim) = claim else { return Ok(()) };
        let Some(used) = claim.entry(*plan_id.as_uuid()) else { return Ok(()) };
        match self.journal().accept(vec![used]).await {
            Err(JournalError::Taken) => claim.winner().await.map(drop),
            written => Ok(written?),
        }
    }
}

fn not_yet() -> OrchestratorError {
    let message = "the cancel is recorded, and the planner that runs the plan has not carried it out yet; \
                   read the plan to see its end";
    OrchestratorError::new(OrchestratorErrorCode::Unavailable, message)
        .with_retry_after(Duration::from_secs(1))
}
