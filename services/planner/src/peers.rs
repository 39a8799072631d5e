//! Calls to other planners, about plans that they run.
//!
//! A planner registers its URL in the journal. Another planner forwards a call about one of its plans to it, once: a
//! [forwarded](ForwardedTo) call is answered by the planner that it names, or refused. Every forwarded call has a fallback in
//! the journal, so no caller depends on it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, PlanId};
use phoenix_platform::{
    RequestContext,
    client::{self, PeerChannel, call_error},
    identity::ServiceIdentity,
    propagation::ForwardedTo,
    server::MAX_MESSAGE_BYTES,
};
use phoenix_proto::planner::{
    CancelPlanRequest, WatchPlanRequest, WatchPlanResponse, planner_service_client::PlannerServiceClient,
};
use tonic::{Code, Status, Streaming};

use crate::{journal::Journal, store::takeover::PlanOwner};

/// How long a planner may take to answer that it lets a plan be watched.
const WATCH_TIMEOUT: Duration = Duration::from_secs(2);

/// The other planners of a journal. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct PeerPlanners {
    journal: Journal,
    identity: ServiceIdentity,
    /// Channels to planners, by their instance, and the URL of each. A channel connects on first use.
    channels: Arc<Mutex<HashMap<String, (String, PeerChannel)>>>,
    silent: SilentPeers,
}

/// The planners that could not be reached, so that each is reported once. Cheap to clone.
#[derive(Debug, Clone, Default)]
struct SilentPeers(Arc<Mutex<HashSet<String>>>);

/// The planner that runs a plan.
#[derive(Debug)]
pub(crate) struct PeerPlanner {
    owner: PlanOwner,
    client: PlannerServiceClient<PeerChannel>,
    silent: SilentPeers,
}

impl PeerPlanners {
    /// The planners that share `journal`, called under `identity`.
    pub(crate) fn new(journal: Journal, identity: ServiceIdentity) -> Self {
        Self { journal, identity, channels: Arc::default(), silent: SilentPeers::default() }
    }

    /// Accepts a call that another planner forwarded to `instance`.
    ///
    /// # Errors
    /// `unavailable` when this planner is another instance.
    pub(crate) fn accept(&self, instance: &str) -> Result<(), OrchestratorError> {
        if instance == self.journal.instance() {
            return Ok(());
        }
        Err(not_here("the planner that the call is for does not serve at this address"))
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
        let client = PlannerServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Some(PeerPlanner { owner, client, silent: self.silent.clone() })
    }

    async fn channel(&self, owner: &PlanOwner) -> Result<PeerChannel, client::InvalidUrl> {
        if let Some((url, channel)) = self.channels.lock().get(&owner.planner)
            && *url == owner.url
        {
            return Ok(channel.clone());
        }
        let channel = client::sibling(&owner.url, &self.identity)?;
        // Planners come and go: each new one is the occasion to forget those that are gone.
        let registered = self.journal.planners().await.ok();
        let mut channels = self.channels.lock();
        if let Some(registered) = registered {
            channels.retain(|planner, _| registered.contains(planner));
            self.silent.0.lock().retain(|planner| registered.contains(planner));
        }
        channels.insert(owner.planner.clone(), (owner.url.clone(), channel.clone()));
        Ok(channel)
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

    /// Watches a plan of this planner from the event that follows position `after`, with output.
    ///
    /// # Errors
    /// When the planner cannot be reached, or does not run the plan any more (`NOT_FOUND`).
    pub(crate) async fn watch(
        mut self,
        context: &RequestContext,
        plan_id: PlanId,
        after: u64,
    ) -> Result<Streaming<WatchPlanResponse>, Status> {
        let request = WatchPlanRequest {
            plan_id: plan_id.to_string(),
            after_position: after,
            with_output: true,
            with_recorded_output: false,
        };
        let mark = ForwardedTo(self.owner.planner.clone());
        let answer = self.client.watch_plan(mark.mark(context.request(request)));
        let late = |_| Status::deadline_exceeded(format!("no answer within {} s", WATCH_TIMEOUT.as_secs()));
        let answer = tokio::time::timeout(WATCH_TIMEOUT, answer).await.map_err(late).flatten();
        self.silent.watched(&self.owner, answer.as_ref().err());
        Ok(answer?.into_inner())
    }
}

impl SilentPeers {
    /// Records whether a planner could be asked for the output of its plans.
    fn watched(&self, owner: &PlanOwner, failure: Option<&Status>) {
        let PlanOwner { planner, url } = owner;
        // A plan that has ended or moved says nothing about its planner.
        let Some(status) = failure.filter(|status| status.code() != Code::NotFound) else {
            self.0.lock().remove(planner);
            return;
        };
        if self.0.lock().insert(planner.clone()) {
            let error = call_error("the planner that runs the plan", status);
            tracing::warn!(planner, url, code = %error.code, reason = error.message, "plans of another planner are followed without their output");
        }
    }
}

/// Error for the planner that forwarded a call; it uses the journal then.
pub(crate) fn not_here(message: &str) -> OrchestratorError {
    OrchestratorError::new(OrchestratorErrorCode::Unavailable, message)
        .with_retry_after(Duration::from_secs(1))
}
