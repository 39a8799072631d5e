//! A plan whose caller follows its stream: it ends with the plan, or with the gateway's shutdown. A caller that leaves cancels the plan,
//! unless the request says otherwise.

use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, PlanId};
use phoenix_platform::client::UNREACHABLE_RETRY_AFTER;
use phoenix_proto::planner::{CancelPlanRequest, PlanAndExecuteRequest};
use tracing::Instrument;

use crate::{
    clients::Gateway,
    plan_stream::{Backoff, PlanItem, PlanStream},
    planner_client::{PlannerClient, unexpected_response},
    request_scope::RequestScope,
};

/// How often cancelling a plan is tried.
const CANCEL_TRIES: u32 = 4;

/// The stream of one plan. Dropping it before the plan has ended cancels the plan, unless the request says otherwise.
pub(super) struct FollowedPlan {
    gateway: Gateway,
    scope: RequestScope,
    planner: PlannerClient,
    stream: PlanStream,
    /// Whether the gateway ends the stream before the plan has ended.
    is_aborted: bool,
}

impl FollowedPlan {
    /// Makes a plan and follows it to its end. The time limits of its tasks are the only ones.
    ///
    /// # Errors
    /// What prevents the plan from being accepted.
    pub(super) async fn start(
        gateway: &Gateway,
        scope: &RequestScope,
        request: PlanAndExecuteRequest,
    ) -> Result<Self, OrchestratorError> {
        let planner = PlannerClient::new(gateway, scope);
        let stream = PlanStream::execute(planner.clone(), request).await?;
        let (gateway, scope) = (gateway.clone(), scope.clone());
        Ok(Self { gateway, scope, planner, stream, is_aborted: false })
    }

    /// The plan.
    pub(super) const fn plan_id(&self) -> PlanId {
        self.stream.plan_id()
    }

    /// The scope of the request.
    pub(super) const fn scope(&self) -> &RequestScope {
        &self.scope
    }

    /// The next item; the result is the last one.
    pub(super) async fn next(&mut self) -> PlanItem {
        tokio::select! {
            biased;
            item = self.stream.next() => item.unwrap_or_else(|| PlanItem::Result(Err(unexpected_response()))),
            () = self.gateway.shutdown.cancelled() => {
                self.is_aborted = true;
                PlanItem::Result(Err(stopping()))
            }
        }
    }
}

/// The error of a stream whose gateway stops.
pub(super) fn stopping() -> OrchestratorError {
    OrchestratorError::new(OrchestratorErrorCode::Unavailable, "the gateway is stopping; try again shortly")
        .with_retry_after(UNREACHABLE_RETRY_AFTER)
}

impl Drop for FollowedPlan {
    fn drop(&mut self) {
        if self.stream.outlives_stream() {
            return;
        }
        let (plan_id, open) = (self.stream.plan_id(), self.stream.take_open());
        let reason = if self.is_aborted { "the gateway stopped" } else { "the caller went away" };
        tracing::info!(parent: self.scope.span(), %plan_id, reason, "cancelling a plan without a caller");
        // Closing an open stream cancels the plan, without a reason.
        if open.is_some() && !self.is_aborted {
            return;
        }
        let planner = self.planner.clone();
        let request = CancelPlanRequest {
            plan_id: plan_id.to_string(),
            reason: reason.to_owned(),
            ..Default::default()
        };
        let cancelled = async move {
            if let Err(error) = cancel(&planner, request).await {
                tracing::warn!(%plan_id, code = %error.code, "a plan without a caller could not be cancelled");
            }
            drop(open);
        };
        self.gateway.background.spawn(cancelled.instrument(self.scope.span().clone()));
    }
}

/// Cancels a plan, through a restart of the planner.
async fn cancel(planner: &PlannerClient, request: CancelPlanRequest) -> Result<(), OrchestratorError> {
    let mut backoff = Backoff::default();
    for _ in 1..CANCEL_TRIES {
        match planner.cancel(request.clone()).await {
            // Ended meanwhile.
            Err(error) if error.code == OrchestratorErrorCode::Conflict => return Ok(()),
            Err(error) if error.code.is_retryable() => backoff.wait().await,
            answer => return answer,
        }
    }
    planner.cancel(request).await
}
