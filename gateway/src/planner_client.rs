//! Calls to the planner, each with a time limit.
//!
//! Errors of the planner pass through; a planner that is unreachable or does not respond is `unavailable`.

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
        CancelPlanRequest, CancelPlanResponse, DecideApprovalRequest, DecideApprovalResponse,
        DiscardDeadLettersRequest, DiscardDeadLettersResponse, DryRunPlanResponse, ExecutePlanRequest,
        ExecutePlanResponse, GetPlanRequest, GetStatisticsRequest, GetStatisticsResponse, GetStderrRequest,
        GetTaskOutputRequest, ListApprovalsRequest, ListApprovalsResponse, ListBudgetsRequest,
        ListBudgetsResponse, ListDeadLettersRequest, ListDeadLettersResponse, ListPlansRequest,
        ListPlansResponse, Plan, PlanAccepted, PlanAndExecuteRequest, PlanAndExecuteResponse,
        ProposePlanResponse, RedriveDeadLettersRequest, RedriveDeadLettersResponse, RedrivePlanRequest,
        RedrivePlanResponse, ResumeExecution, SubmitPlanResponse, WatchPlanRequest, WatchPlanResponse,
        execute_plan_request::Subject, execute_plan_response::Step,
    },
};
use tonic::{Response, Status, Streaming};
use tracing::Instrument;

use crate::{clients::Gateway, request_scope::RequestScope};

/// Time limit of reads from the journal. Independent of the request's deadline: the end of a plan is read after a timeout, too.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of the planner for one request.
#[derive(Debug, Clone)]
pub(crate) struct PlannerClient {
    gateway: Gateway,
    scope: RequestScope,
}

/// Output in the stream of a plan that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WatchedOutput {
    /// As it is said, not journaled.
    Live,
    /// As it is journaled, for plans that record it.
    Recorded,
    /// Not at all.
    Nothing,
}

impl PlannerClient {
    pub(crate) fn new(gateway: &Gateway, scope: &RequestScope) -> Self {
        Self { gateway: gateway.clone(), scope: scope.clone() }
    }

    /// Runs a plan to its end.
    ///
    /// The call carries the deadline, and the planner responds before it; the call ends at the deadline in any case. A plan
    /// that continues without its caller has no deadline of the caller.
    pub(crate) async fn run(
        &self,
        plan: PlanAndExecuteRequest,
    ) -> Result<(PlanId, PlanAndExecuteResponse), OrchestratorError> {
        let continues = plan.continue_on_disconnect;
        let context = if continues { self.scope.context_without_deadline() } else { self.scope.context() };
        let call = async {
            self.gateway.planner_calls.call_once::<PlanAndExecute>(&context, plan).await.map(Response::new)
        };
        let answer =
            self.within(self.scope.deadline(), call).await?.ok_or_else(|| deadline_exceeded(continues))?;
        self.record_replay(&answer.replay_of)?;
        self.scope.set_agent_time(Duration::from_micros(answer.agent_time_us));
        Ok((read_id(&answer.plan_id)?, answer))
    }

    /// Executes a plan: its id, and the steps that follow its acceptance. The plan is not bound by the deadline of the request.
    pub(crate) async fn execute(
        &self,
        plan: PlanAndExecuteRequest,
    ) -> Result<(PlanId, Streaming<ExecutePlanResponse>), OrchestratorError> {
        let context = self.scope.context_without_deadline();
        let request =
            context.request(ExecutePlanRequest { subject: Some(Subject::Plan(plan)), with_output: true });
        let mut planner = self.gateway.planner();
        let accepted = async {
            let mut steps = planner.execute_plan(request).await?.into_inner();
            let first = steps.message().await?;
            Ok(Response::new((first, steps)))
        };
        let (first, steps) = self.response(self.scope.deadline(), accepted).await?;
        let Some(ExecutePlanResponse { step: Some(Step::Accepted(PlanAccepted { plan_id, replay_of })) }) =
            first
        else {
            return Err(unexpected_response());
        };
        self.record_replay(&replay_of)?;
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
        let request = ExecutePlanRequest { subject: Some(Subject::Resume(resume)), with_output: true };
        let mut planner = self.gateway.planner();
        let call = planner.execute_plan(self.scope.context_without_deadline().request(request));
        self.response(Instant::now() + READ_TIMEOUT, call).await
    }

    /// Whether the request was answered before, under the same idempotency key.
    pub(crate) fn is_replay(&self) -> bool {
        self.scope.replay_of().is_some()
    }

    /// Submits a plan.
    pub(crate) async fn submit(&self, plan: PlanAndExecuteRequest) -> Result<PlanId, OrchestratorError> {
        let mut planner = self.gateway.planner();
        let call = planner.submit_plan(self.scope.context().request(plan));
        let SubmitPlanResponse { plan_id, replay_of } = self.response(self.scope.deadline(), call).await?;
        self.record_replay(&replay_of)?;
        read_id(&plan_id)
    }

    /// The order in which the tasks of a plan would run.
    pub(crate) async fn dry_run(
        &self,
        plan: PlanAndExecuteRequest,
    ) -> Result<Vec<Vec<String>>, OrchestratorError> {
        let (limit, context) = self.read_context();
        let mut planner = self.gateway.planner();
        let call = planner.dry_run_plan(context.request(plan));
        let DryRunPlanResponse { waves } = self.response(limit, call).await?;
        Ok(waves.into_iter().map(|wave| wave.keys).collect())
    }

    /// Tasks that are proposed for a chat.
    pub(crate) async fn propose(
        &self,
        chat: PlanAndExecuteRequest,
    ) -> Result<ProposePlanResponse, OrchestratorError> {
        let continues = chat.continue_on_disconnect;
        let context = if continues { self.scope.context_without_deadline() } else { self.scope.context() };
        let mut planner = self.gateway.planner();
        let call = planner.propose_plan(context.request(chat));
        let proposal = self.within(self.scope.deadline(), call).await?;
        let proposal = proposal.ok_or_else(|| deadline_exceeded(continues))?;
        self.record_replay(&proposal.replay_of)?;
        Ok(proposal)
    }

    /// The current state of a plan.
    pub(crate) async fn get(&self, plan_id: PlanId) -> Result<Plan, OrchestratorError> {
        let (limit, context) = self.read_context();
        let mut planner = self.gateway.planner();
        let call = planner.get_plan(context.request(GetPlanRequest { plan_id: plan_id.to_string() }));
        self.response(limit, call).await?.plan.ok_or_else(unexpected_response)
    }

    /// The whole output of a task.
    pub(crate) async fn task_output(
        &self,
        request: GetTaskOutputRequest,
    ) -> Result<ActionOutput, OrchestratorError> {
        let (limit, context) = self.read_context();
        let mut planner = self.gateway.planner();
        let call = planner.get_task_output(context.request(request));
        self.response(limit, call).await?.output.ok_or_else(unexpected_response)
    }

    /// The whole stderr tail of an attempt.
    pub(crate) async fn stderr(&self, request: GetStderrRequest) -> Result<String, OrchestratorError> {
        let (limit, context) = self.read_context();
        let mut planner = self.gateway.planner();
        let call = planner.get_stderr(context.request(request));
        Ok(self.response(limit, call).await?.stderr_tail)
    }

    /// One page of plans.
    pub(crate) async fn list(
        &self,
        filter: ListPlansRequest,
    ) -> Result<ListPlansResponse, OrchestratorError> {
        let (limit, context) = self.read_context();
        let mut planner = self.gateway.planner();
        let call = planner.list_plans(context.request(filter));
        self.response(limit, call).await
    }

    /// The events of a plan after `after_position`, and its output.
    pub(crate) async fn watch(
        &self,
        plan_id: PlanId,
        after_position: u64,
        output: WatchedOutput,
    ) -> Result<Streaming<WatchPlanResponse>, OrchestratorError> {
        // The limit applies to the start of the stream; the stream itself lasts as long as the plan.
        let context = self.scope.context_without_deadline();
        let mut planner = self.gateway.planner();
        let request = WatchPlanRequest {
            plan_id: plan_id.to_string(),
            after_position,
            with_output: output == WatchedOutput::Live,
            with_recorded_output: output == WatchedOutput::Recorded,
        };
        let call = planner.watch_plan(context.request(request));
        self.response(Instant::now() + READ_TIMEOUT, call).await
    }

    /// Cancels a plan.
    pub(crate) async fn cancel(&self, request: CancelPlanRequest) -> Result<(), OrchestratorError> {
        let limit = self.scope.deadline().max(Instant::now() + READ_TIMEOUT);
        let context = self.scope.context().with_deadline(limit);
        let mut planner = self.gateway.planner();
        let call = planner.cancel_plan(context.request(request));
        let CancelPlanResponse { replay_of } = self.response(limit, call).await?;
        self.record_replay(&replay_of)
    }

    /// Redrives a plan: the new plan, when it has ended or, without `wait`, when it is durable.
    pub(crate) async fn redrive(&self, request: RedrivePlanRequest) -> Result<PlanId, OrchestratorError> {
        let (wait, continues) = (request.wait, request.wait && request.continue_on_disconnect);
        let context = if continues { self.scope.context_without_deadline() } else { self.scope.context() };
        let mut planner = self.gateway.planner();
        let call = planner.redrive_plan(context.request(request));
        let answer = self.within(self.scope.deadline(), call).await?;
        let RedrivePlanResponse { plan_id, replay_of } =
            answer.ok_or_else(|| if wait { deadline_exceeded(continues) } else { planner_unresponsive() })?;
        self.record_replay(&replay_of)?;
        read_id(&plan_id)
    }

    /// One page of dead letters.
    pub(crate) async fn dead_letters(
        &self,
        request: ListDeadLettersRequest,
    ) -> Result<ListDeadLettersResponse, OrchestratorError> {
        let (limit, context) = self.read_context();
        let mut planner = self.gateway.planner();
        let call = planner.list_dead_letters(context.request(request));
        self.response(limit, call).await
    }

    /// Decides about an approval.
    pub(crate) async fn decide_approval(
        &self,
        request: DecideApprovalRequest,
    ) -> Result<DecideApprovalResponse, OrchestratorError> {
        let limit = self.scope.deadline().max(Instant::now() + READ_TIMEOUT);
        let context = self.scope.context().with_deadline(limit);
        let mut planner = self.gateway.planner();
        let call = planner.decide_approval(context.request(request));
        let decided = self.response(limit, call).await?;
        self.record_replay(&decided.replay_of)?;
        Ok(decided)
    }

    /// One page of approvals that wait.
    pub(crate) async fn approvals(
        &self,
        request: ListApprovalsRequest,
    ) -> Result<ListApprovalsResponse, OrchestratorError> {
        let (limit, context) = self.read_context();
        let mut planner = self.gateway.planner();
        let call = planner.list_approvals(context.request(request));
        self.response(limit, call).await
    }

    /// The budgets.
    pub(crate) async fn budgets(
        &self,
        request: ListBudgetsRequest,
    ) -> Result<ListBudgetsResponse, OrchestratorError> {
        let (limit, context) = self.read_context();
        let mut planner = self.gateway.planner();
        let call = planner.list_budgets(context.request(request));
        self.response(limit, call).await
    }

    /// The statistics of a window.
    pub(crate) async fn statistics(
        &self,
        request: GetStatisticsRequest,
    ) -> Result<GetStatisticsResponse, OrchestratorError> {
        let (limit, context) = self.read_context();
        let mut planner = self.gateway.planner();
        let call = planner.get_statistics(context.request(request));
        self.response(limit, call).await
    }

    /// Redrives many dead letters.
    pub(crate) async fn redrive_dead_letters(
        &self,
        request: RedriveDeadLettersRequest,
    ) -> Result<RedriveDeadLettersResponse, OrchestratorError> {
        let mut planner = self.gateway.planner();
        let call = planner.redrive_dead_letters(self.scope.context().request(request));
        let answer = self.response(self.scope.deadline(), call).await?;
        self.record_replay(&answer.replay_of)?;
        Ok(answer)
    }

    /// Discards many dead letters.
    pub(crate) async fn discard_dead_letters(
        &self,
        request: DiscardDeadLettersRequest,
    ) -> Result<DiscardDeadLettersResponse, OrchestratorError> {
        let mut planner = self.gateway.planner();
        let call = planner.discard_dead_letters(self.scope.context().request(request));
        let answer = self.response(self.scope.deadline(), call).await?;
        self.record_replay(&answer.replay_of)?;
        Ok(answer)
    }

    fn read_context(&self) -> (Instant, RequestContext) {
        let limit = Instant::now() + READ_TIMEOUT;
        (limit, self.scope.context().with_deadline(limit))
    }

    /// The response to `call`; an error when there is none before `limit`.
    async fn response<T>(
        &self,
        limit: Instant,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, OrchestratorError> {
        self.within(limit, call).await?.ok_or_else(planner_unresponsive)
    }

    /// The response to `call`; `None` when there is none before `limit`.
    async fn within<T>(
        &self,
        limit: Instant,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<Option<T>, OrchestratorError> {
        let call = tokio::time::timeout_at(limit.into(), call.instrument(self.scope.span().clone()));
        let Some(answer) = self.gateway.abort.run_until_cancelled(call).await else {
            return Err(drain_overdue());
        };
        match answer {
            Ok(Ok(answer)) => Ok(Some(answer.into_inner())),
            Ok(Err(status)) => Err(self.record_replay_of_error(call_error("the planner", &status))),
            Err(_) => Ok(None),
        }
    }

    /// Records the request whose response is replayed, if there is one.
    fn record_replay(&self, replay_of: &str) -> Result<(), OrchestratorError> {
        let original = phoenix_proto::optional("replay_of", replay_of);
        let original = original.map_err(|_: InvalidField| unexpected_response())?;
        original.into_iter().for_each(|original| self.scope.set_replay_of(original));
        Ok(())
    }

    /// The same for a response that is an error.
    fn record_replay_of_error(&self, mut error: OrchestratorError) -> OrchestratorError {
        let original = error.details.remove(REPLAY_OF).and_then(|original| original.parse().ok());
        original.into_iter().for_each(|original| self.scope.set_replay_of(original));
        error
    }
}

fn read_id(text: &str) -> Result<PlanId, OrchestratorError> {
    phoenix_proto::id("plan_id", text).map_err(|_: InvalidField| unexpected_response())
}

/// The error of a response that violates the contract: a defect of Phoenix.
pub(crate) fn unexpected_response() -> OrchestratorError {
    OrchestratorError::internal("the planner answered in an unexpected way")
}

/// The error of a request that reached its deadline.
pub(crate) fn deadline_exceeded(continues: bool) -> OrchestratorError {
    let message = if continues {
        "the request did not end within its time limit; its plan continues, and can be found by the correlation id"
    } else {
        "the request did not end within its time limit"
    };
    OrchestratorError::new(OrchestratorErrorCode::Timeout, message)
}

/// The error of calls in flight when the drain is overdue.
fn drain_overdue() -> OrchestratorError {
    let message =
        "the gateway is stopping and cannot wait for the planner any longer; send the request again";
    OrchestratorError::new(OrchestratorErrorCode::Unavailable, message)
        .with_retry_after(UNREACHABLE_RETRY_AFTER)
}

/// The error of a planner that does not respond.
pub(crate) fn planner_unresponsive() -> OrchestratorError {
    let message = "the planner does not respond; try again shortly";
    OrchestratorError::new(OrchestratorErrorCode::Unavailable, message)
        .with_retry_after(UNREACHABLE_RETRY_AFTER)
}
