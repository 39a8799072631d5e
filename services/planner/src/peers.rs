//! Calls to other planners, about plans that they run.
//!
//! A planner registers its URL in the journal. Another planner forwards a call about one of its plans to it, once: a
//! [forwarded](ForwardedTo) call is answered by the planner that it names, or refused. Every forwarded call has a fallback in
//! the journal, so no caller depends on it.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use phoenix_domain::{OrchestratorError, PlanId};
use phoenix_platform::{
    RequestContext,
    client::{self, PeerChannel, call_error},
    identity::ServiceIdentity,
    propagation::ForwardedTo,
};
use phoenix_proto::planner::{CancelPlanRequest, planner_service_client::PlannerServiceClient};

use crate::{journal::Journal, store::takeover::PlanOwner};

/// The other planners of a journal. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct PeerPlanners {
    journal: Journal,
    identity: ServiceIdentity,
    /// Channels to planners, by their instance. A channel connects on first use.
    channels: Arc<Mutex<HashMap<String, PeerChannel>>>,
}

/// The planner that runs a plan.
#[derive(Debug)]
pub(crate) struct PeerPlanner {
    owner: PlanOwner,
    client: PlannerServiceClient<PeerChannel>,
}

impl PeerPlanners {
    /// The planners that share `journal`, called under `identity`.
    pub(crate) fn new(journal: Journal, identity: ServiceIdentity) -> Self {
        Self { journal, identity, channels: Arc::default() }
    }

    /// The other planner that runs a plan; none when this one does, when the plan has ended or waits for a takeover, and when its
    /// planner advertises no URL.
    pub(crate) async fn owner_of(&self, plan_id: PlanId) -> Option<PeerPlanner> {
        let owner = match self.journal.owner(plan_id).await {
            Ok(owner) => owner.filter(|owner| owner.planner != self.journal.instance())?,
            Err(error) => {
                // The journal's writer logs that it cannot be used.
                tracing::debug!(%error, %plan_id, "the planner of a plan cannot be looked up");
                return None;
            }
        };
        let channel = match self.channel(&owner).await {
            Ok(channel) => channel,
            Err(error) => {
                let PlanOwner { planner, url } = &owner;
                tracing::warn!(planner, url, %error, "a planner advertises a URL that this one cannot use");
                return None;
            }
        };
        Some(PeerPlanner { owner, client: PlannerServiceClient::new(channel) })
    }

    async fn channel(&self, owner: &PlanOwner) -> Result<PeerChannel, client::InvalidUrl> {
        if let Some(channel) = self.channels.lock().get(&owner.planner) {
            return Ok(channel.clone());
        }
        let channel = client::sibling(&owner.url, &self.identity)?;
        // Planners come and go: each new one is the occasion to forget those that are gone.
        let registered = self.journal.planners().await.ok();
        let mut channels = self.channels.lock();
        if let Some(registered) = registered {
            channels.retain(|planner, _| registered.contains(planner));
        }
        Ok(channels.entry(owner.planner.clone()).or_insert(channel).clone())
    }
}

impl PeerPlanner {
    /// Cancels a plan of this planner, and returns when its end is durable.
    ///
    /// # Errors
    /// `conflict` when the plan has ended; every other error means that the planner cannot be reached or does not run the plan
    /// any more.
    pub(crate) async fn cancel(
        mut self,
        context: &RequestContext,
        plan_id: PlanId,
        reason: &str,
    ) -> Result<(), OrchestratorError> {
        // The key stays with the planner that the caller has called: that one uses it.
        let request =
            CancelPlanRequest { plan_id: plan_id.to_string(), reason: reason.into(), ..Default::default() };
        let mark = ForwardedTo(self.owner.planner.clone());
        let answer = self.client.cancel_plan(mark.mark(context.request(request))).await;
        answer.map(drop).map_err(|status| {
            let PlanOwner { planner, url } = &self.owner;
            let error = call_error("the planner that runs the plan", &status);
            tracing::info!(%plan_id, planner, url, code = %error.code, reason = error.message, "a forwarded cancel was not carried out");
            error
        })
    }
}
