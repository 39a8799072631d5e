//! Cancellation of plans, whichever planner runs them.
//!
//! A plan that runs here is cancelled through its handle. For any other plan the request is journaled first; the plan's owner,
//! or the planner that takes the plan over, applies it. A durable request survives both planners. Then the cancel is forwarded
//! to the owner, which need not look for it in the journal.

use std::time::{Duration, Instant};

use phoenix_domain::{
    CorrelationId, OrchestratorError, OrchestratorErrorCode, PlanId,
    dead_letter::check_reason,
    plan::PlanStatus,
    rejections::{no_such_plan, plan_has_ended},
};
use phoenix_platform::RequestContext;
use tokio_util::sync::CancellationToken;

use crate::{
    idempotency::{IdempotencyKeys, Lookup, Reservation},
    journal::Journal,
    peers::{PeerPlanners, not_here},
    plan_run::registry::PlanRegistry,
    store::{entry::IdempotencyKey, error::JournalError},
};

/// How long a cancel waits for another planner to apply it. Long enough for the plan to be taken over first.
const APPLY_TIMEOUT: Duration = Duration::from_secs(8);

/// Interval at which the plan's status is read meanwhile.
const STATUS_INTERVAL: Duration = Duration::from_millis(50);

/// Interval at which the requests of other planners are applied.
const REQUESTS_INTERVAL: Duration = Duration::from_millis(250);

/// Reason of a cancel without one.
const NO_REASON: &str = "the plan was cancelled";

/// Cancels plans. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Cancellation {
    journal: Journal,
    registry: PlanRegistry,
    keys: IdempotencyKeys,
    peers: PeerPlanners,
}

/// A request to cancel a plan.
#[derive(Debug, Clone)]
pub(crate) struct CancelRequest {
    pub(crate) plan_id: PlanId,
    /// Reason; may be empty.
    pub(crate) reason: String,
    /// Context of the call, for the planner that it is forwarded to.
    pub(crate) context: RequestContext,
}

impl Cancellation {
    pub(crate) const fn new(
        journal: Journal,
        registry: PlanRegistry,
        keys: IdempotencyKeys,
        peers: PeerPlanners,
    ) -> Self {
        Self { journal, registry, keys, peers }
    }

    /// Cancels a plan, and returns when its end is durable. Running tasks are cancelled without waiting for their end.
    /// Returns the earlier request with the same key, if there was one.
    ///
    /// # Errors
    /// `not_found`; `conflict` when the plan has ended, unless this request has cancelled it before.
    pub(crate) async fn cancel(
        &self,
        mut request: CancelRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<Option<CorrelationId>, OrchestratorError> {
        check_reason(&request.reason)?;
        if request.reason.is_empty() {
            NO_REASON.clone_into(&mut request.reason);
        }
        match self.keys.reserve(key).await? {
            Lookup::New(reservation) => self.end(&request, Some(reservation), false).await.map(|()| None),
            // A planner that died since may not have applied the first request, so it is applied again.
            Lookup::Replay(used) => self.end(&request, None, true).await.map(|()| used.by),
        }
    }

    /// Cancels a plan that runs here, for the planner that forwarded the cancel to `instance`. The request is in the journal
    /// already. Returns when the plan's end is durable.
    ///
    /// # Errors
    /// `conflict` when the plan has ended otherwise; `unavailable` when it does not run here, or this planner is another instance.
    pub(crate) async fn cancel_forwarded(
        &self,
        instance: &str,
        request: CancelRequest,
    ) -> Result<(), OrchestratorError> {
        let CancelRequest { plan_id, reason, context: _ } = request;
        check_reason(&reason)?;
        self.peers.accept(instance)?;
        let Some(handle) = self.registry.get(plan_id) else {
            return Err(not_here("the plan does not run in this planner"));
        };
        handle.cancel(reason);
        match handle.ended().await {
            Some(PlanStatus::Cancelled) => Ok(()),
            Some(status) => Err(plan_has_ended(status)),
            None => Err(not_here("this planner stops, and leaves the plan to the next one")),
        }
    }

    async fn end(
        &self,
        request: &CancelRequest,
        reservation: Option<Reservation>,
        is_replay: bool,
    ) -> Result<(), OrchestratorError> {
        let Some(handle) = self.registry.get(request.plan_id) else {
            return self.cancel_elsewhere(request, reservation.as_ref(), is_replay).await;
        };
        self.use_key(request.plan_id, reservation.as_ref()).await?;
        handle.cancel(request.reason.clone());
        match handle.ended().await {
            Some(PlanStatus::Cancelled) => Ok(()),
            // The plan ended before the cancel reached it.
            Some(status) => Err(plan_has_ended(status)),
            // This planner shuts down and leaves the plan to the next one.
            None => self.cancel_elsewhere(request, None, is_replay).await,
        }
    }

    /// Applies the cancel requests of other planners, until `stop`.
    pub(crate) async fn follow_requests(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(REQUESTS_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            if let Err(error) = self.apply_requests().await {
                // The journal's writer logs that it cannot be used.
                tracing::debug!(%error, "cancel requests cannot be read");
            }
        }
    }

    /// Cancels the plans of this planner for which another planner has journaled a request.
    ///
    /// # Errors
    /// When the journal cannot be used.
    pub(crate) async fn apply_requests(&self) -> Result<(), JournalError> {
        let requests = self.journal.cancel_requests().await?;
        if requests.is_empty() {
            return Ok(());
        }
        for (plan_id, reason) in requests {
            if let Some(handle) = self.registry.get(plan_id) {
                handle.cancel(reason);
            }
        }
        self.journal.delete_finished_cancel_requests().await
    }

    /// Requests the cancel of a plan that does not run here, and waits for its end. A cancelled plan is a success for a
    /// replay.
    async fn cancel_elsewhere(
        &self,
        request: &CancelRequest,
        reservation: Option<&Reservation>,
        is_replay: bool,
    ) -> Result<(), OrchestratorError> {
        let CancelRequest { plan_id, reason, context } = request;
        let plan_id = *plan_id;
        let plan = self.journal.plan(plan_id).await?.ok_or_else(|| no_such_plan(plan_id))?;
        match plan.status {
            PlanStatus::Cancelled if is_replay => return Ok(()),
            status if status.is_terminal() => return Err(plan_has_ended(status)),
            _ => {}
        }
        drop(plan);
        self.use_key(plan_id, reservation).await?;
        // First, so that the cancel holds when the owner dies.
        self.journal.request_cancel(plan_id, reason).await?;
        let forwarded = async {
            let owner = self.peers.owner_of(plan_id).await?;
            match owner.cancel(context, plan_id, reason).await {
                Ok(()) => Some(Ok(())),
                Err(error) if error.code == OrchestratorErrorCode::Conflict => Some(Err(error)),
                // The journaled request holds.
                Err(_) => None,
            }
        };
        tokio::select! {
            Some(result) = forwarded => result,
            result = self.until_applied(plan_id) => result,
        }
    }

    /// Waits until a planner has applied the journaled cancel of a plan.
    async fn until_applied(&self, plan_id: PlanId) -> Result<(), OrchestratorError> {
        let requested = Instant::now();
        while requested.elapsed() < APPLY_TIMEOUT {
            match self.journal.applied_status(plan_id).await? {
                Some(PlanStatus::Cancelled) => return Ok(()),
                Some(status) if status.is_terminal() => return Err(plan_has_ended(status)),
                None => return Err(no_such_plan(plan_id)),
                Some(_) => tokio::time::sleep(STATUS_INTERVAL).await,
            }
        }
        Err(not_applied_yet())
    }

    /// Makes the request's key name the plan.
    async fn use_key(
        &self,
        plan_id: PlanId,
        reservation: Option<&Reservation>,
    ) -> Result<(), OrchestratorError> {
        let Some(reservation) = reservation else { return Ok(()) };
        let Some(used) = reservation.entry(*plan_id.as_uuid()) else { return Ok(()) };
        match self.journal.create(vec![used]).await {
            Err(JournalError::AlreadyReserved) => reservation.existing().await.map(drop),
            created => Ok(created?),
        }
    }
}

fn not_applied_yet() -> OrchestratorError {
    let message = "the cancel is recorded, and the planner that runs the plan has not carried it out yet; \
                   read the plan to see its end";
    OrchestratorError::new(OrchestratorErrorCode::Unavailable, message)
        .with_retry_after(Duration::from_secs(1))
}
