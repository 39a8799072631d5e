//! The planner: the operations on plans that the gRPC service offers.
//!
//! ```text
//! submission.rs   a request becomes a plan ──┐
//! redrive.rs      a plan runs again ─────────┼──▶ plan_run/   the plan's tasks, one by one
//! recovery.rs     a plan is taken over ──────┘
//! ```

use std::{sync::Arc, time::Duration};

use phoenix_domain::{CorrelationId, OrchestratorError, rejections::no_such_plan};
use phoenix_platform::{RequestContext, catalogs::CatalogView, identity::ServiceIdentity};
use tokio_util::sync::CancellationToken;

use crate::{
    agent_health::HealthView,
    approvals::Approvals,
    background::bulk_redrive::{BulkOperations, BulkRequest, StartedBulk},
    cancellation::{CancelRequest, Cancellation},
    deps::{Deps, Limits},
    idempotency::IdempotencyKeys,
    journal::Journal,
    peers::PeerPlanners,
    plan_feed::PlanFeeds,
    plan_run::{
        active::PlanResult,
        registry::{CancelHandle, CancelOnDrop, PlanRegistry},
    },
    plan_stream::{Executions, PlanStream, Resume},
    planning::{
        build::build_plan,
        request::{PlanRequest, RedriveRequest, WaitMode},
    },
    proposals::Proposal,
    recovery::Recovery,
    redrive::Redrives,
    store::entry::IdempotencyKey,
    submission::{Submissions, Submitted},
};

/// The planner. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Planner(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    deps: Arc<Deps>,
    submissions: Submissions,
    feeds: PlanFeeds,
    executions: Executions,
    redrives: Redrives,
    approvals: Approvals,
    cancellation: Cancellation,
    bulk: BulkOperations,
    recovery: Recovery,
}

impl Planner {
    /// A planner with these dependencies, which calls other planners under `identity`. Its background work ends with `stopping`.
    #[must_use]
    pub fn new(
        agents: CatalogView,
        limits: Limits,
        journal: Journal,
        health: HealthView,
        identity: ServiceIdentity,
        stopping: CancellationToken,
    ) -> Self {
        let keys = IdempotencyKeys::new(journal.clone(), limits.key_ttl);
        let registry = PlanRegistry::default();
        let peers = PeerPlanners::new(journal.clone(), identity);
        let cancellation = Cancellation::new(journal.clone(), registry.clone(), keys.clone(), peers.clone());
        let deps = Arc::new(Deps::new(agents, limits, journal, health, stopping));
        let submissions =
            Submissions { deps: Arc::clone(&deps), registry: registry.clone(), keys: keys.clone() };
        let feeds = PlanFeeds::new(Arc::clone(&deps), registry.clone(), peers);
        let executions = Executions::new(submissions.clone(), cancellation.clone(), feeds.clone());
        let redrives = Redrives::new(submissions.clone());
        let approvals = Approvals::new(Arc::clone(&deps), registry.clone(), keys.clone());
        let bulk = BulkOperations::new(Arc::clone(&deps), keys, redrives.clone());
        let recovery = Recovery::new(Arc::clone(&deps), registry, cancellation.clone(), bulk.clone());
        Self(Arc::new(Parts {
            deps,
            submissions,
            feeds,
            executions,
            redrives,
            approvals,
            cancellation,
            bulk,
            recovery,
        }))
    }

    /// The journal, for reads.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.0.deps.journal
    }

    pub(crate) fn deps(&self) -> Arc<Deps> {
        Arc::clone(&self.0.deps)
    }

    pub(crate) fn feeds(&self) -> &PlanFeeds {
        &self.0.feeds
    }

    pub(crate) fn recovery(&self) -> Recovery {
        self.0.recovery.clone()
    }

    pub(crate) fn approvals(&self) -> Approvals {
        self.0.approvals.clone()
    }

    pub(crate) fn cancellation(&self) -> Cancellation {
        self.0.cancellation.clone()
    }

    /// Waits until the end of every started plan is durable, at most for `limit`; the others are left to the next planner.
    /// Called after the server has stopped accepting requests.
    pub async fn drained(&self, limit: Duration) {
        let Deps { admission, tasks, .. } = &*self.0.deps;
        admission.close();
        tasks.close();
        if tokio::time::timeout(limit, tasks.wait()).await.is_err() {
            tracing::warn!(plans = tasks.len(), "plans did not end in time; left to the next planner");
        }
    }

    /// Runs a plan and waits for its result. Dropping the future cancels the plan, unless the request says otherwise.
    ///
    /// # Errors
    /// The first problem of the request, the failure of an agent, `overloaded`, `unavailable`, `agent_unavailable`, `timeout`. Once there is
    /// a plan, the details name it.
    #[tracing::instrument(skip_all, fields(plan_id = tracing::field::Empty, otel.status_description = tracing::field::Empty))]
    pub async fn plan_and_execute_v1(
        &self,
        context: RequestContext,
        request: PlanRequest,
    ) -> Result<PlanResult, OrchestratorError> {
        let (cancel, _guard) = cancel_handle(&context, request.continue_on_disconnect);
        let submissions = &self.0.submissions;
        let accepted = submissions.submit(context, request, cancel).await?;
        submissions.result(accepted).await
    }

    /// Starts a plan and follows it to its result. Dropping the future, or the stream before the plan has ended, cancels the
    /// plan, unless the request says otherwise.
    ///
    /// # Errors
    /// The first problem of the request, `overloaded`, or a journal that cannot be written.
    #[tracing::instrument(skip_all, fields(plan_id = tracing::field::Empty, otel.status_description = tracing::field::Empty))]
    pub(crate) async fn execute_plan(
        &self,
        context: RequestContext,
        request: PlanRequest,
        shutdown: &CancellationToken,
    ) -> Result<PlanStream, OrchestratorError> {
        self.0.executions.start(context, request, shutdown).await
    }

    /// Follows a plan again after its stream broke.
    ///
    /// # Errors
    /// `not_found`, or a journal that cannot be read.
    pub(crate) async fn resume_execution(
        &self,
        context: RequestContext,
        resume: Resume,
        shutdown: &CancellationToken,
    ) -> Result<PlanStream, OrchestratorError> {
        self.0.executions.resume(context, resume, shutdown).await
    }

    /// Starts a plan, and returns as soon as it is durable.
    ///
    /// # Errors
    /// The first problem of the request, `overloaded`, or a journal that cannot be written.
    #[tracing::instrument(skip_all, fields(plan_id = tracing::field::Empty, otel.status_description = tracing::field::Empty))]
    pub async fn submit_plan(
        &self,
        context: RequestContext,
        request: PlanRequest,
    ) -> Result<Submitted, OrchestratorError> {
        let submissions = &self.0.submissions;
        let accepted =
            submissions.submit(without_deadline(context), request, CancelHandle::default()).await?;
        Ok(accepted.submitted())
    }

    /// Validates a request and returns the order in which its tasks would run, by key.
    ///
    /// # Errors
    /// The first problem of the request.
    pub fn dry_run(&self, request: PlanRequest) -> Result<Vec<Vec<String>>, OrchestratorError> {
        let Deps { agents, planning, .. } = &*self.0.deps;
        let (plan, graph) = build_plan(&agents.catalog()?, CorrelationId::generate(), request, planning)?;
        let key = |ordinal: &usize| plan.tasks[*ordinal].spec.key.clone();
        Ok(graph.order().iter().map(|wave| wave.iter().map(key).collect()).collect())
    }

    /// Proposes tasks for a chat. When a language model is asked, a plan of its own does so, and the future waits for its end.
    ///
    /// # Errors
    /// As [`Self::plan_and_execute_v1`]; `planning_failed` when the language model proposes no valid plan.
    pub(crate) async fn propose(
        &self,
        context: RequestContext,
        request: PlanRequest,
    ) -> Result<Proposal, OrchestratorError> {
        let Deps { agents, planning, journal, .. } = &*self.0.deps;
        let (plan, graph) =
            build_plan(&agents.catalog()?, context.correlation_id, request.clone(), planning)?;
        if !plan.kind.is_planned() {
            return Ok(Proposal::of_rules(plan, &graph));
        }
        let PlanResult { plan_id, replay_of, .. } = self.plan_and_execute_v1(context, request).await?;
        let plan = journal.plan(plan_id).await?.ok_or_else(|| no_such_plan(plan_id))?;
        Proposal::of_model(&plan, planning, replay_of)
    }

    /// Cancels a plan, and returns when its end is durable. Returns the earlier request with the same key, if there was one.
    ///
    /// # Errors
    /// `not_found`; `conflict` when the plan has ended, unless this request has cancelled it before.
    pub(crate) async fn cancel(
        &self,
        request: CancelRequest,
        key: Option<IdempotencyKey>,
    ) -> Result<Option<CorrelationId>, OrchestratorError> {
        self.0.cancellation.cancel(request, key).await
    }

    /// Cancels a plan that runs here, for the planner that forwarded the cancel to `instance`.
    ///
    /// # Errors
    /// `conflict` when the plan has ended; `unavailable` when it does not run here.
    pub(crate) async fn cancel_forwarded(
        &self,
        instance: &str,
        request: CancelRequest,
    ) -> Result<(), OrchestratorError> {
        self.0.cancellation.cancel_forwarded(instance, request).await
    }

    /// Redrives a plan and waits for the result of the new one. Dropping the future cancels the new plan, unless the request
    /// says otherwise.
    ///
    /// # Errors
    /// As [`Self::redrive`], and the failure of the new plan; the details then name it.
    #[tracing::instrument(skip_all, fields(plan_id = tracing::field::Empty, otel.status_description = tracing::field::Empty, redrive_of = %request.plan_id))]
    pub async fn redrive_and_wait(
        &self,
        context: RequestContext,
        request: RedriveRequest,
    ) -> Result<PlanResult, OrchestratorError> {
        let (cancel, _guard) = cancel_handle(&context, request.continue_on_disconnect);
        let accepted = self.0.redrives.start(context, request, WaitMode::Sync, None, cancel).await?;
        self.0.submissions.result(accepted).await
    }

    /// Redrives a plan, and returns as soon as the new plan is durable.
    ///
    /// # Errors
    /// `not_found`; `conflict` when the plan is not terminal, when all of its tasks have succeeded, or when it was redriven
    /// before (the details then name the new plan); the first problem of the new inputs.
    #[tracing::instrument(skip_all, fields(plan_id = tracing::field::Empty, otel.status_description = tracing::field::Empty, redrive_of = %request.plan_id))]
    pub async fn redrive(
        &self,
        context: RequestContext,
        request: RedriveRequest,
    ) -> Result<Submitted, OrchestratorError> {
        let (context, cancel) = (without_deadline(context), CancelHandle::default());
        let accepted = self.0.redrives.start(context, request, WaitMode::Async, None, cancel).await?;
        Ok(accepted.submitted())
    }

    /// Starts a bulk operation on dead letters, and returns as soon as it is durable.
    ///
    /// # Errors
    /// A reason that is missing or too long, or a journal that cannot be written.
    pub async fn start_bulk(
        &self,
        context: RequestContext,
        request: BulkRequest,
    ) -> Result<StartedBulk, OrchestratorError> {
        self.0.bulk.start(context, request).await
    }
}

/// A cancel handle, and the guard that cancels the plan when its caller disconnects.
fn cancel_handle(
    context: &RequestContext,
    continue_on_disconnect: bool,
) -> (CancelHandle, Option<CancelOnDrop>) {
    let cancel = CancelHandle::default();
    let guard =
        (!continue_on_disconnect).then(|| CancelOnDrop(cancel.clone(), context.cancel_reason.clone()));
    (cancel, guard)
}

/// The time that a caller waits for the acceptance of a plan does not limit the plan.
fn without_deadline(context: RequestContext) -> RequestContext {
    RequestContext { deadline: None, ..context }
}
