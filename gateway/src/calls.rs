//! What the gateway asks of the planner, every call with a time limit.
//!
//! Errors that the planner decided on pass through; one that can't be reached or does not answer is `unavailable`.

use std::time::{Duration, Instant};

use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, PlanId, rejections::REPLAY_OF};
use phoenix_platform::{
    RequestContext,
    client::{UNREACHABLE_RETRY_AFTER, call_error},
};
use phoenix_proto::{
    InvalidField, PlanAndExecute,
    common::ActionOutput,
    planner::{
        CancelPlanRequest, CancelPlanResponse, DiscardDeadLettersRequest, DiscardDeadLettersResponse,
        DryRunPlanResponse, ExecutePlanRequest, ExecutePlanResponse, GetPlanRequest, GetStderrRequest,
        GetTaskOutputRequest, ListDeadLettersRequest, ListDeadLettersResponse, ListPlansRequest,
        ListPlansResponse, Plan, PlanAccepted, PlanAndExecuteRequest, PlanAndExecuteResponse,
        RedriveDeadLettersRequest, RedriveDeadLettersResponse, RedrivePlanRequest, RedrivePlanResponse,
        ResumeExecution, SubmitPlanResponse, WatchPlanRequest, WatchPlanResponse,
        execute_plan_request::Subject, execute_plan_response::Step,
    },
};
use tonic::{Response, Status, Streaming};
use tracing::Instrument;

use crate::{correlation::Scope, peers::Gateway};

/// How long the planner has for what it reads from its journal. Not part of the request's own time: how a plan ended is
/// still to be read when the request's time was up.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// The planner, on behalf of one request.
#[derive(Debug, Clone)]
pub(crate) struct Plans {
    gateway: Gateway,
    scope: Scope,
}

/// A plan that has succeeded.
#[derive(Debug)]
pub(crate) struct Finished {
    /// Which.
    pub(crate) plan_id: PlanId,
    /// The answer as a person reads it.
    pub(crate) output: String,
    /// Why that is not complete; nothing when it is.
    pub(crate) finish_reason: Option<String>,
}

impl Plans {
    pub(crate) fn new(gateway: &Gateway, scope: &Scope) -> Self {
        Self { gateway: gateway.clone(), scope: scope.clone() }
    }

    /// Runs a plan to its end.
    ///
    /// The planner is told how much time there is, and answers before it is up; a planner that does not is given up. A
    /// plan that continues without its caller is not bound by the caller's time either.
    pub(crate) async fn run(&self, wish: PlanAndExecuteRequest) -> Result<Finished, OrchestratorError> {
        let continues = wish.continue_on_disconnect;
        let context = if continues { self.scope.context_without_deadline() } else { self.scope.context() };
        // A stream that is shared carries the same answer as a call of its own.
        let call = async {
            self.gateway.planner_calls.call_once::<PlanAndExecute>(&context, wish).await.map(Response::new)
        };
        let PlanAndExecuteResponse { plan_id, output, agent: _, agent_time_us, replay_of, finish_reason } =
            self.within(self.scope.deadline(), call).await?.ok_or_else(|| too_late(continues))?;
        self.repeats(&replay_of)?;
        self.scope.agents_worked(Duration::from_micros(agent_time_us));
        Ok(Finished { plan_id: read_id(&plan_id)?, output, finish_reason })
    }

    /// Executes a plan: its id, and the steps that follow its acceptance.
    pub(crate) async fn execute(
        &self,
        plan: PlanAndExecuteRequest,
    ) -> Result<(PlanId, Streaming<ExecutePlanResponse>), OrchestratorError> {
        // A plan that continues without its caller is not bound by the caller's time.
        let context = if plan.continue_on_disconnect {
            self.scope.context_without_deadline()
        } else {
            self.scope.context()
        };
        let request = context.request(ExecutePlanRequest { subject: Some(Subject::Plan(plan)) });
        let mut planner = self.gateway.planner();
        let accepted = async {
            let mut steps = planner.execute_plan(request).await?.into_inner();
            let first = steps.message().await?;
            Ok(Response::new((first, steps)))
        };
        let (first, steps) = self.within(self.scope.deadline(), accepted).await?.ok_or_else(silent)?;
        let Some(ExecutePlanResponse { step: Some(Step::Accepted(PlanAccepted { plan_id, replay_of })) }) =
            first
        else {
            return Err(unexpected());
        };
        self.repeats(&replay_of)?;
        Ok((read_id(&plan_id)?, steps))
    }

    /// The steps of a plan that was executed before, after position `after_position`.
    pub(crate) async fn resume(
        &self,
        plan_id: PlanId,
        after_position: u64,
        continue_on_disconnect: bool,
    ) -> Result<Streaming<ExecutePlanResponse>, OrchestratorError> {
        let plan_id = plan_id.to_string();
        let resume = ResumeExecution { plan_id, after_position, continue_on_disconnect };
        let request = ExecutePlanRequest { subject: Some(Subject::Resume(resume)) };
        let mut planner = self.gateway.planner();
        let call = planner.execute_plan(self.scope.context_without_deadline().request(request));
        self.within(Instant::now() + READ_LIMIT, call).await?.ok_or_else(silent)
    }

    /// Whether the request was answered before, under the same idempotency key.
    pub(crate) fn is_replay(&self) -> bool {
        self.scope.replay_of().is_some()
    }

    /// Has a plan accepted.
    pub(crate) async fn submit(&self, wish: PlanAndExecuteRequest) -> Result<PlanId, OrchestratorError> {
        let mut planner = self.gateway.planner();
        let call = planner.submit_plan(self.scope.context().request(wish));
        let SubmitPlanResponse { plan_id, replay_of } =
            self.within(self.scope.deadline(), call).await?.ok_or_else(silent)?;
        self.repeats(&replay_of)?;
        read_id(&plan_id)
    }

    /// The order in which tasks would run.
    pub(crate) async fn dry_run(
        &self,
        wish: PlanAndExecuteRequest,
    ) -> Result<Vec<Vec<String>>, OrchestratorError> {
        let (limit, context) = self.to_read();
        let mut planner = self.gateway.planner();
        let call = planner.dry_run_plan(context.request(wish));
        let DryRunPlanResponse { waves } = self.within(limit, call).await?.ok_or_else(silent)?;
        Ok(waves.into_iter().map(|wave| wave.keys).collect())
    }

    /// A plan as it is now.
    pub(crate) async fn get(&self, plan_id: PlanId) -> Result<Plan, OrchestratorError> {
        let (limit, context) = self.to_read();
        let mut planner = self.gateway.planner();
        let call = planner.get_plan(context.request(GetPlanRequest { plan_id: plan_id.to_string() }));
        self.within(limit, call).await?.ok_or_else(silent)?.plan.ok_or_else(unexpected)
    }

    /// A task's whole output.
    pub(crate) async fn task_output(
        &self,
        request: GetTaskOutputRequest,
    ) -> Result<ActionOutput, OrchestratorError> {
        let (limit, context) = self.to_read();
        let mut planner = self.gateway.planner();
        let call = planner.get_task_output(context.request(request));
        self.within(limit, call).await?.ok_or_else(silent)?.output.ok_or_else(unexpected)
    }

    /// An attempt's whole stderr tail.
    pub(crate) async fn stderr(&self, request: GetStderrRequest) -> Result<String, OrchestratorError> {
        let (limit, context) = self.to_read();
        let mut planner = self.gateway.planner();
        let call = planner.get_stderr(context.request(request));
        Ok(self.within(limit, call).await?.ok_or_else(silent)?.stderr_tail)
    }

    /// One page of plans.
    pub(crate) async fn list(
        &self,
        filter: ListPlansRequest,
    ) -> Result<ListPlansResponse, OrchestratorError> {
        let (limit, context) = self.to_read();
        let mut planner = self.gateway.planner();
        let call = planner.list_plans(context.request(filter));
        self.within(limit, call).await?.ok_or_else(silent)
    }

    /// What happens to a plan after `after_position`.
    pub(crate) async fn watch(
        &self,
        plan_id: PlanId,
        after_position: u64,
    ) -> Result<Streaming<WatchPlanResponse>, OrchestratorError> {
        // Its beginning is waited for; the stream itself lasts as long as the plan.
        let context = self.scope.context_without_deadline();
        let mut planner = self.gateway.planner();
        let request = WatchPlanRequest { plan_id: plan_id.to_string(), after_position };
        let call = planner.watch_plan(context.request(request));
        self.within(Instant::now() + READ_LIMIT, call).await?.ok_or_else(silent)
    }

    /// Ends a plan.
    pub(crate) async fn cancel(&self, request: CancelPlanRequest) -> Result<(), OrchestratorError> {
        let limit = self.scope.deadline().max(Instant::now() + READ_LIMIT);
        let context = self.scope.context().with_deadline(limit);
        let mut planner = self.gateway.planner();
        let call = planner.cancel_plan(context.request(request));
        let CancelPlanResponse { replay_of } = self.within(limit, call).await?.ok_or_else(silent)?;
        self.repeats(&replay_of)
    }

    /// Takes a plan up again: the new plan, once it has ended or, for those who do not wait, is durable.
    pub(crate) async fn redrive(&self, request: RedrivePlanRequest) -> Result<PlanId, OrchestratorError> {
        let (wait, continues) = (request.wait, request.wait && request.continue_on_disconnect);
        let context = if continues { self.scope.context_without_deadline() } else { self.scope.context() };
        let mut planner = self.gateway.planner();
        let call = planner.redrive_plan(context.request(request));
        let answer = self.within(self.scope.deadline(), call).await?;
        let RedrivePlanResponse { plan_id, replay_of } =
            answer.ok_or_else(|| if wait { too_late(continues) } else { silent() })?;
        self.repeats(&replay_of)?;
        read_id(&plan_id)
    }

    /// One page of dead letters.
    pub(crate) async fn dead_letters(
        &self,
        request: ListDeadLettersRequest,
    ) -> Result<ListDeadLettersResponse, OrchestratorError> {
        let (limit, context) = self.to_read();
        let mut planner = self.gateway.planner();
        let call = planner.list_dead_letters(context.request(request));
        self.within(limit, call).await?.ok_or_else(silent)
    }

    /// Has many dead letters redriven.
    pub(crate) async fn redrive_dead_letters(
        &self,
        request: RedriveDeadLettersRequest,
    ) -> Result<RedriveDeadLettersResponse, OrchestratorError> {
        let mut planner = self.gateway.planner();
        let call = planner.redrive_dead_letters(self.scope.context().request(request));
        let answer = self.within(self.scope.deadline(), call).await?.ok_or_else(silent)?;
        self.repeats(&answer.replay_of)?;
        Ok(answer)
    }

    /// Has many dead letters discarded.
    pub(crate) async fn discard_dead_letters(
        &self,
        request: DiscardDeadLettersRequest,
    ) -> Result<DiscardDeadLettersResponse, OrchestratorError> {
        let mut planner = self.gateway.planner();
        let call = planner.discard_dead_letters(self.scope.context().request(request));
        let answer = self.within(self.scope.deadline(), call).await?.ok_or_else(silent)?;
        self.repeats(&answer.replay_of)?;
        Ok(answer)
    }

    fn to_read(&self) -> (Instant, RequestContext) {
        let limit = Instant::now() + READ_LIMIT;
        (limit, self.scope.context().with_deadline(limit))
    }

    /// The answer, or nothing when there was none in time.
    async fn within<T>(
        &self,
        limit: Instant,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<Option<T>, OrchestratorError> {
        let call = tokio::time::timeout_at(limit.into(), call.instrument(self.scope.span().clone()));
        let Some(answer) = self.gateway.leaving.run_until_cancelled(call).await else {
            return Err(stopping());
        };
        match answer {
            Ok(Ok(answer)) => Ok(Some(answer.into_inner())),
            Ok(Err(status)) => Err(self.said_before(call_error("the planner", &status))),
            Err(_) => Ok(None),
        }
    }

    /// Takes note of the request whose answer this one is given again, if there is one.
    fn repeats(&self, replay_of: &str) -> Result<(), OrchestratorError> {
        let original = phoenix_proto::optional("replay_of", replay_of);
        let original = original.map_err(|_: InvalidField| unexpected())?;
        original.into_iter().for_each(|original| self.scope.repeats(original));
        Ok(())
    }

    /// The same for an answer that is an error.
    fn said_before(&self, mut error: OrchestratorError) -> OrchestratorError {
        let original = error.details.remove(REPLAY_OF).and_then(|original| original.parse().ok());
        original.into_iter().for_each(|original| self.scope.repeats(original));
        error
    }
}

fn read_id(text: &str) -> Result<PlanId, OrchestratorError> {
    phoenix_proto::id("plan_id", text).map_err(|_: InvalidField| unexpected())
}

/// What an answer that breaks the contract is to our caller: a defect of ours.
pub(crate) fn unexpected() -> OrchestratorError {
    OrchestratorError::internal("the planner answered in an unexpected way")
}

pub(crate) fn too_late(continues: bool) -> OrchestratorError {
    let message = if continues {
        "the request did not end within its time limit; its plan goes on, and can be found by the correlation id"
    } else {
        "the request did not end within its time limit"
    };
    OrchestratorError::new(OrchestratorErrorCode::Timeout, message)
}

/// What callers are told when the drain has taken too long.
fn stopping() -> OrchestratorError {
    let message = "the gateway stops and can't wait for the planner any longer; send the request again";
    OrchestratorError::new(OrchestratorErrorCode::Unavailable, message)
        .with_retry_after(UNREACHABLE_RETRY_AFTER)
}

pub(crate) fn silent() -> OrchestratorError {
    let message = "the planner does not answer at the moment; try again shortly";
    OrchestratorError::new(OrchestratorErrorCode::Unavailable, message)
        .with_retry_after(UNREACHABLE_RETRY_AFTER)
}
