//! A plan followed from its acceptance to its result.
//!
//! The result is read from the journal after the event that ends the plan, so a stream that resumes another gives the same
//! result. Dropping a stream before its plan has ended cancels the plan, unless the request says otherwise.

use std::{sync::Arc, time::Duration};

use phoenix_domain::{
    CorrelationId, OrchestratorError, OrchestratorErrorCode, PlanId, rejections::no_such_plan,
};
use phoenix_platform::{RequestContext, client::UNREACHABLE_RETRY_AFTER, propagation::CancelReason};
use tokio_util::sync::CancellationToken;

use crate::{
    agent_time,
    cancellation::{CancelRequest, Cancellation},
    deps::Deps,
    plan_feed::{PlanFeed, PlanFeeds, Selection},
    plan_run::{active::PlanResult, registry::CancelHandle},
    planning::request::PlanRequest,
    store::query::Event,
    submission::{Accepted, Submissions, Submitted},
};

/// Kind of the event that ends a plan.
const PLAN_ENDED: &str = "plan_ended";

/// Reason of a cancel when the caller gives none.
const CALLER_LEFT: &str = "the caller went away before the plan ended";

/// One step of a plan's stream.
#[derive(Debug)]
pub(crate) enum PlanStep {
    /// The plan is durable. The first step.
    Accepted {
        /// The plan.
        plan_id: PlanId,
        /// The earlier request that the idempotency key belongs to.
        replay_of: Option<CorrelationId>,
    },
    /// An event of the plan, or output of its tasks.
    Event(Event),
    /// The plan's result. The last step.
    Result(Result<PlanResult, OrchestratorError>),
}

/// A request to follow a plan again after its stream broke.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resume {
    /// The plan.
    pub(crate) plan_id: PlanId,
    /// Journal position of the last event that the caller has.
    pub(crate) after_position: u64,
    /// Whether the stream has output.
    pub(crate) with_output: bool,
    /// Whether the plan runs on when the stream is dropped.
    pub(crate) continue_on_disconnect: bool,
}

/// Starts plans and follows them to their results. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Executions {
    submissions: Submissions,
    cancellation: Cancellation,
    feeds: PlanFeeds,
}

/// A plan that is followed to its result.
pub(crate) struct PlanStream {
    deps: Arc<Deps>,
    plan_id: PlanId,
    replay_of: Option<CorrelationId>,
    feed: PlanFeed,
    /// Events up to this position are skipped.
    after: u64,
    phase: Phase,
    /// Absent when the plan outlives the stream.
    guard: Option<CancelGuard>,
}

/// The step that comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Accepted,
    Events,
    Result,
    Done,
}

/// Cancels a plan when it is dropped while it is armed.
struct CancelGuard {
    target: Target,
    cancel_reason: CancelReason,
    is_armed: bool,
}

/// The plan that a guard cancels.
enum Target {
    /// A plan that runs in this planner.
    Own(CancelHandle),
    /// A plan that may run in another planner.
    Other(Box<(Cancellation, CancelRequest)>),
}

impl CancelGuard {
    const fn new(target: Target, cancel_reason: CancelReason) -> Self {
        Self { target, cancel_reason, is_armed: true }
    }
}

impl Drop for CancelGuard {
    fn drop(&mut self) {
        if !self.is_armed {
            return;
        }
        let reason = self.cancel_reason.get().unwrap_or(CALLER_LEFT).to_owned();
        match &self.target {
            Target::Own(cancel) => cancel.cancel(reason),
            Target::Other(target) => {
                let (cancellation, request) = (**target).clone();
                let plan_id = request.plan_id;
                tokio::spawn(async move {
                    // A conflict means that the plan has ended meanwhile.
                    if let Err(error) = cancellation.cancel(CancelRequest { reason, ..request }, None).await
                        && error.code != OrchestratorErrorCode::Conflict
                    {
                        tracing::warn!(%plan_id, code = %error.code, "a plan without a caller could not be cancelled");
                    }
                });
            }
        }
    }
}

impl Executions {
    pub(crate) const fn new(submissions: Submissions, cancellation: Cancellation, feeds: PlanFeeds) -> Self {
        Self { submissions, cancellation, feeds }
    }

    /// Starts a plan and follows it to its result. The caller's deadline becomes the plan's, durably.
    ///
    /// # Errors
    /// As [`Submissions::submit`].
    pub(crate) async fn start(
        &self,
        context: RequestContext,
        mut request: PlanRequest,
        shutdown: &CancellationToken,
    ) -> Result<PlanStream, OrchestratorError> {
        let (cancel, with_output) = (CancelHandle::default(), request.with_output);
        let mut guard = None;
        if !request.continue_on_disconnect {
            guard = Some(CancelGuard::new(Target::Own(cancel.clone()), context.cancel_reason.clone()));
            request.time_limit = request.time_limit.into_iter().chain(context.remaining()).min();
        }
        let accepted = self.submissions.submit(context.clone(), request, cancel).await?;
        let Submitted { plan_id, replay_of } = accepted.submitted();
        let select = |guard: Option<&CancelGuard>| {
            let end = end_of_feed(guard, shutdown);
            Selection { plan_id, after: 0, with_output, with_recorded_output: false, end }
        };
        let feed = if matches!(accepted, Accepted::Replay(..)) {
            // The plan of an earlier request is not this caller's to cancel, and may run in another planner.
            guard = None;
            self.feeds.open(&context, select(None)).await
        } else {
            PlanFeed::Local(self.feeds.local(select(guard.as_ref())))
        };
        Ok(PlanStream { replay_of, ..self.stream(plan_id, guard, feed) })
    }

    /// Follows a plan again after its stream broke.
    ///
    /// # Errors
    /// `not_found`, or a journal that cannot be read.
    pub(crate) async fn resume(
        &self,
        context: RequestContext,
        resume: Resume,
        shutdown: &CancellationToken,
    ) -> Result<PlanStream, OrchestratorError> {
        let Resume { plan_id, after_position, with_output, continue_on_disconnect } = resume;
        let plan = self.submissions.deps.journal.plan(plan_id).await?.ok_or_else(|| no_such_plan(plan_id))?;
        let has_ended = plan.status.is_terminal();
        let guard = (!continue_on_disconnect && !has_ended).then(|| {
            let here = self.submissions.registry.get(plan_id).map(Target::Own);
            let target = here.unwrap_or_else(|| {
                // The cancel outlives the call.
                let context = RequestContext { deadline: None, ..context.clone() };
                let request = CancelRequest { plan_id, reason: String::new(), context };
                Target::Other(Box::new((self.cancellation.clone(), request)))
            });
            CancelGuard::new(target, context.cancel_reason.clone())
        });
        // The event that ends the plan may lie before `after_position`, and has to be read all the same.
        let from = if has_ended { 0 } else { after_position };
        let end = end_of_feed(guard.as_ref(), shutdown);
        let selection = Selection {
            plan_id,
            after: from,
            with_output: with_output && !has_ended,
            with_recorded_output: false,
            end,
        };
        let feed = self.feeds.open(&context, selection).await;
        Ok(PlanStream { after: after_position, ..self.stream(plan_id, guard, feed) })
    }

    fn stream(&self, plan_id: PlanId, guard: Option<CancelGuard>, feed: PlanFeed) -> PlanStream {
        let deps = Arc::clone(&self.submissions.deps);
        PlanStream { deps, plan_id, replay_of: None, feed, after: 0, phase: Phase::Accepted, guard }
    }
}

/// When a feed ends. A waiting caller is served to the end of a plan that runs here, as by `PlanAndExecute`.
fn end_of_feed(guard: Option<&CancelGuard>, shutdown: &CancellationToken) -> CancellationToken {
    let outlasts_shutdown = matches!(guard, Some(CancelGuard { target: Target::Own(_), .. }));
    if outlasts_shutdown { CancellationToken::new() } else { shutdown.clone() }
}

impl PlanStream {
    /// The next step; `None` after the result.
    ///
    /// # Errors
    /// `unavailable` when the planner stops or cannot read its journal. The plan runs on, and its stream can be resumed.
    pub(crate) async fn next(&mut self) -> Result<Option<PlanStep>, OrchestratorError> {
        let step = self.advance().await;
        if step.is_err() {
            self.disarm();
        }
        step
    }

    async fn advance(&mut self) -> Result<Option<PlanStep>, OrchestratorError> {
        loop {
            match self.phase {
                Phase::Accepted => {
                    self.phase = Phase::Events;
                    let (plan_id, replay_of) = (self.plan_id, self.replay_of);
                    return Ok(Some(PlanStep::Accepted { plan_id, replay_of }));
                }
                Phase::Events => {
                    let event = self.feed.next().await.ok_or_else(stopping)??;
                    if event.kind == PLAN_ENDED {
                        self.disarm();
                        self.phase = Phase::Result;
                    }
                    if event.position > self.after || event.is_live() {
                        return Ok(Some(PlanStep::Event(event)));
                    }
                }
                Phase::Result => {
                    self.phase = Phase::Done;
                    return Ok(Some(PlanStep::Result(self.result().await?)));
                }
                Phase::Done => return Ok(None),
            }
        }
    }

    fn disarm(&mut self) {
        if let Some(guard) = &mut self.guard {
            guard.is_armed = false;
        }
    }

    /// The result of the plan, which has ended.
    async fn result(&mut self) -> Result<Result<PlanResult, OrchestratorError>, OrchestratorError> {
        let plan = self.deps.journal.plan(self.plan_id).await?.ok_or_else(|| no_such_plan(self.plan_id))?;
        let agent_time = match self.replay_of {
            None => agent_time::of_attempts(plan.tasks.iter().flat_map(|task| &task.attempts)),
            Some(_) => Duration::ZERO,
        };
        let result = PlanResult::stored(plan, &self.deps.default_agent()).ok_or_else(stopping)?;
        Ok(result.map(|result| PlanResult { agent_time, replay_of: self.replay_of, ..result }))
    }
}

fn stopping() -> OrchestratorError {
    let message = "the planner is stopping; resume the plan's stream shortly";
    OrchestratorError::new(OrchestratorErrorCode::Unavailable, message)
        .with_retry_after(UNREACHABLE_RETRY_AFTER)
}
