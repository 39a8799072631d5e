//! `PlannerService`: decode, call, encode.

mod approvals;
mod budgets;
mod dead_letters;
mod decode;
mod encode;
mod execute;
mod statistics;

use std::pin::Pin;

use futures_util::{Stream, stream};
use jiff::Timestamp;
use phoenix_domain::{
    OrchestratorError, OrchestratorErrorCode, PlanId,
    limits::MAX_KEY_CHARS,
    plan::{AttemptOutcome, Task},
    rejections::no_such_plan,
};
use phoenix_platform::{
    RequestContext,
    multiplex::{Handler, ResponseSender},
    propagation::ForwardedTo,
};
use phoenix_proto::{
    PlanAndExecute, id,
    planner::{
        CancelPlanRequest, CancelPlanResponse, DecideApprovalRequest, DecideApprovalResponse,
        DiscardDeadLettersRequest, DiscardDeadLettersResponse, DryRunPlanResponse, ExecutePlanRequest,
        GetPlanRequest, GetPlanResponse, GetStatisticsRequest, GetStatisticsResponse, GetStderrRequest,
        GetStderrResponse, GetTaskOutputRequest, GetTaskOutputResponse, ListApprovalsRequest,
        ListApprovalsResponse, ListBudgetsRequest, ListBudgetsResponse, ListDeadLettersRequest,
        ListDeadLettersResponse, ListPlansRequest, ListPlansResponse, PlanAndExecuteRequest,
        PlanAndExecuteResponse, ProposePlanResponse, RedriveDeadLettersRequest, RedriveDeadLettersResponse,
        RedrivePlanRequest, RedrivePlanResponse, SubmitPlanResponse, WatchPlanRequest, WatchPlanResponse,
        dry_run_plan_response::Wave, planner_service_server::PlannerService,
    },
    status_from_error,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    background::bulk_redrive::StartedBulk,
    cancellation::CancelRequest,
    grpc::{
        decode::{idempotency_key_of, plan_filter, plan_request, proposal_request},
        encode::{encode_event, encode_proposal, encode_result, text},
    },
    plan_feed::{PlanFeed, Selection},
    plan_run::active::PlanResult,
    planning::request::WaitMode,
    service::Planner,
    store::error::JournalError,
    submission::Submitted,
};

/// gRPC service of a [`Planner`].
#[derive(Debug, Clone)]
pub struct PlannerGrpc {
    planner: Planner,
    /// Ends event streams.
    shutdown: CancellationToken,
}

impl PlannerGrpc {
    /// A service of `planner`; its streams end with `shutdown`.
    #[must_use]
    pub const fn new(planner: Planner, shutdown: CancellationToken) -> Self {
        Self { planner, shutdown }
    }
}

#[tonic::async_trait]
impl PlannerService for PlannerGrpc {
    type ExecutePlanStream = execute::Steps;
    type WatchPlanStream = Pin<Box<dyn Stream<Item = Result<WatchPlanResponse, Status>> + Send>>;

    async fn plan_and_execute(
        &self,
        request: Request<PlanAndExecuteRequest>,
    ) -> Result<Response<PlanAndExecuteResponse>, Status> {
        let context = RequestContext::of(&request);
        let with_plan = request.get_ref().with_plan;
        let plan = plan_request(request.into_inner(), WaitMode::Sync, context.correlation_id);
        let plan = plan.map_err(|error| status_from_error(&error))?;
        let result = self.planner.plan_and_execute_v1(context, plan).await;
        let result = result.map_err(|error| status_from_error(&error))?;
        let plan = if with_plan { self.planner.journal().just_ended(result.plan_id) } else { None };
        Ok(Response::new(encode_result(result, plan)))
    }

    async fn execute_plan(
        &self,
        request: Request<ExecutePlanRequest>,
    ) -> Result<Response<Self::ExecutePlanStream>, Status> {
        let context = RequestContext::of(&request);
        let stream = execute::open(&self.planner, context, request.into_inner(), &self.shutdown).await?;
        Ok(Response::new(execute::steps(stream)))
    }

    async fn submit_plan(
        &self,
        request: Request<PlanAndExecuteRequest>,
    ) -> Result<Response<SubmitPlanResponse>, Status> {
        let context = RequestContext::of(&request);
        let plan = plan_request(request.into_inner(), WaitMode::Async, context.correlation_id);
        let plan = plan.map_err(|error| status_from_error(&error))?;
        let submitted = self.planner.submit_plan(context, plan).await;
        let Submitted { plan_id, replay_of } = submitted.map_err(|error| status_from_error(&error))?;
        Ok(Response::new(SubmitPlanResponse { plan_id: plan_id.to_string(), replay_of: text(replay_of) }))
    }

    async fn propose_plan(
        &self,
        request: Request<PlanAndExecuteRequest>,
    ) -> Result<Response<ProposePlanResponse>, Status> {
        let context = RequestContext::of(&request);
        let request = proposal_request(request.into_inner(), context.correlation_id);
        let request = request.map_err(|error| status_from_error(&error))?;
        let proposal = self.planner.propose(context, request).await;
        Ok(Response::new(encode_proposal(proposal.map_err(|error| status_from_error(&error))?)))
    }

    async fn dry_run_plan(
        &self,
        request: Request<PlanAndExecuteRequest>,
    ) -> Result<Response<DryRunPlanResponse>, Status> {
        let by = RequestContext::of(&request).correlation_id;
        let plan = plan_request(request.into_inner(), WaitMode::Sync, by);
        let plan = plan.map_err(|error| status_from_error(&error))?;
        let waves = self.planner.dry_run(plan).map_err(|error| status_from_error(&error))?;
        Ok(Response::new(DryRunPlanResponse { waves: waves.into_iter().map(|keys| Wave { keys }).collect() }))
    }

    async fn get_plan(&self, request: Request<GetPlanRequest>) -> Result<Response<GetPlanResponse>, Status> {
        let plan_id: PlanId = id("plan_id", &request.get_ref().plan_id)?;
        let plan = self.planner.journal().plan(plan_id).await.map_err(journal_status)?;
        let plan = plan.ok_or_else(|| status_from_error(&no_such_plan(plan_id)))?;
        Ok(Response::new(GetPlanResponse { plan: Some(plan.into()) }))
    }

    async fn get_task_output(
        &self,
        request: Request<GetTaskOutputRequest>,
    ) -> Result<Response<GetTaskOutputResponse>, Status> {
        let GetTaskOutputRequest { plan_id, task_key } = request.into_inner();
        let task = self.task(&plan_id, &task_key).await?;
        let output = task.output.as_ref().ok_or_else(|| {
            let message = format!("task `{task_key}` has no output; it is {}", task.status);
            status_from_error(&OrchestratorError::new(OrchestratorErrorCode::NotFound, message))
        })?;
        Ok(Response::new(GetTaskOutputResponse { output: Some(output.into()) }))
    }

    async fn get_stderr(
        &self,
        request: Request<GetStderrRequest>,
    ) -> Result<Response<GetStderrResponse>, Status> {
        let GetStderrRequest { plan_id, task_key, attempt } = request.into_inner();
        let task = self.task(&plan_id, &task_key).await?;
        let found = task.attempts.into_iter().find(|known| known.number == attempt);
        match found.map(|attempt| attempt.outcome) {
            Some(Some(AttemptOutcome::Failed { stderr_tail, .. })) => {
                Ok(Response::new(GetStderrResponse { stderr_tail }))
            }
            Some(_) => Ok(Response::new(GetStderrResponse::default())),
            None => {
                let message = format!("task `{task_key}` has no attempt {attempt}");
                Err(status_from_error(&OrchestratorError::new(OrchestratorErrorCode::NotFound, message)))
            }
        }
    }

    async fn list_plans(
        &self,
        request: Request<ListPlansRequest>,
    ) -> Result<Response<ListPlansResponse>, Status> {
        let filter = plan_filter(request.get_ref())?;
        let page = self.planner.journal().plans(&filter).await.map_err(journal_status)?;
        let next_page_token = page.last.map(|last| last.to_string()).unwrap_or_default();
        let plans = page.items.into_iter().map(Into::into).collect();
        Ok(Response::new(ListPlansResponse { plans, next_page_token }))
    }

    async fn watch_plan(
        &self,
        request: Request<WatchPlanRequest>,
    ) -> Result<Response<Self::WatchPlanStream>, Status> {
        let (context, forwarded) = (RequestContext::of(&request), ForwardedTo::of(&request));
        let WatchPlanRequest { plan_id, after_position, with_output, with_recorded_output } =
            request.into_inner();
        let plan_id: PlanId = id("plan_id", &plan_id)?;
        let (after, end) = (after_position, self.shutdown.clone());
        let selection = Selection { plan_id, after, with_output, with_recorded_output, end };
        let feed = match forwarded {
            Some(ForwardedTo(instance)) => self.planner.feeds().open_forwarded(&instance, selection),
            None => Ok(self.feed(&context, selection).await?),
        };
        let feed = feed.map_err(|error| status_from_error(&error))?;
        let stream = stream::unfold(Box::new(feed), async |mut feed| {
            let event = feed.next().await?;
            Some((event.map(encode_event).map_err(journal_status), feed))
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn cancel_plan(
        &self,
        request: Request<CancelPlanRequest>,
    ) -> Result<Response<CancelPlanResponse>, Status> {
        let (context, forwarded) = (RequestContext::of(&request), ForwardedTo::of(&request));
        let by = context.correlation_id;
        let CancelPlanRequest { plan_id, reason, idempotency_key, idempotency_digest } = request.into_inner();
        let plan_id: PlanId = id("plan_id", &plan_id)?;
        let key = idempotency_key_of(idempotency_key, idempotency_digest, by)?;
        let cancel = CancelRequest { plan_id, reason, context };
        let cancelled = match forwarded {
            Some(ForwardedTo(instance)) => {
                self.planner.cancel_forwarded(&instance, cancel).await.map(|()| None)
            }
            None => self.planner.cancel(cancel, key).await,
        };
        let replay_of = cancelled.map_err(|error| status_from_error(&error))?;
        Ok(Response::new(CancelPlanResponse { replay_of: text(replay_of) }))
    }

    async fn redrive_plan(
        &self,
        request: Request<RedrivePlanRequest>,
    ) -> Result<Response<RedrivePlanResponse>, Status> {
        let (context, wait) = (RequestContext::of(&request), request.get_ref().wait);
        let redrive = dead_letters::redrive_request(request.into_inner(), context.correlation_id)?;
        let redriven = if wait {
            let result = self.planner.redrive_and_wait(context, redrive).await;
            result.map(|PlanResult { plan_id, replay_of, .. }| Submitted { plan_id, replay_of })
        } else {
            self.planner.redrive(context, redrive).await
        };
        let Submitted { plan_id, replay_of } = redriven.map_err(|error| status_from_error(&error))?;
        Ok(Response::new(RedrivePlanResponse { plan_id: plan_id.to_string(), replay_of: text(replay_of) }))
    }

    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        let query = dead_letters::query(request.into_inner())?;
        let page = self.planner.journal().dead_letters(&query).await.map_err(journal_status)?;
        let next_page_token = page.last.map(|last| last.to_string()).unwrap_or_default();
        let dead_letters = page.items.into_iter().map(Into::into).collect();
        Ok(Response::new(ListDeadLettersResponse { dead_letters, next_page_token }))
    }

    async fn decide_approval(
        &self,
        request: Request<DecideApprovalRequest>,
    ) -> Result<Response<DecideApprovalResponse>, Status> {
        let by = RequestContext::of(&request).correlation_id;
        let request = approvals::decision_request(request.into_inner(), by)?;
        let decided = self.planner.approvals().decide(request).await;
        Ok(Response::new(approvals::decided(decided.map_err(|error| status_from_error(&error))?)))
    }

    async fn list_approvals(
        &self,
        request: Request<ListApprovalsRequest>,
    ) -> Result<Response<ListApprovalsResponse>, Status> {
        let listed = approvals::list(self.planner.journal(), request.into_inner()).await;
        Ok(Response::new(listed.map_err(|error| status_from_error(&error))?))
    }

    async fn list_budgets(
        &self,
        request: Request<ListBudgetsRequest>,
    ) -> Result<Response<ListBudgetsResponse>, Status> {
        let budgets = budgets::list(&self.planner, request.into_inner(), Timestamp::now()).await;
        Ok(Response::new(budgets.map_err(|error| status_from_error(&error))?))
    }

    async fn get_statistics(
        &self,
        request: Request<GetStatisticsRequest>,
    ) -> Result<Response<GetStatisticsResponse>, Status> {
        let statistics = statistics::get(&self.planner, request.into_inner(), Timestamp::now()).await;
        Ok(Response::new(statistics.map_err(|error| status_from_error(&error))?))
    }

    async fn redrive_dead_letters(
        &self,
        request: Request<RedriveDeadLettersRequest>,
    ) -> Result<Response<RedriveDeadLettersResponse>, Status> {
        let context = RequestContext::of(&request);
        let bulk = dead_letters::bulk_redrive(request.into_inner(), context.correlation_id)?;
        let started = self.planner.start_bulk(context, bulk).await;
        let StartedBulk { operation, selected, replay_of } =
            started.map_err(|error| status_from_error(&error))?;
        let (sweep_id, correlation_id) = (operation.sweep_id.to_string(), operation.by.to_string());
        let replay_of = text(replay_of);
        Ok(Response::new(RedriveDeadLettersResponse { sweep_id, selected, correlation_id, replay_of }))
    }

    async fn discard_dead_letters(
        &self,
        request: Request<DiscardDeadLettersRequest>,
    ) -> Result<Response<DiscardDeadLettersResponse>, Status> {
        let context = RequestContext::of(&request);
        let bulk = dead_letters::bulk_discard(request.into_inner(), context.correlation_id)?;
        let started = self.planner.start_bulk(context, bulk).await;
        let StartedBulk { operation, selected, replay_of } =
            started.map_err(|error| status_from_error(&error))?;
        let (sweep_id, correlation_id) = (operation.sweep_id.to_string(), operation.by.to_string());
        let (discarded, replay_of) = (selected, text(replay_of));
        Ok(Response::new(DiscardDeadLettersResponse { sweep_id, discarded, correlation_id, replay_of }))
    }
}

impl PlannerGrpc {
    /// Opens the feed of a plan, whichever planner runs it.
    async fn feed(&self, context: &RequestContext, selection: Selection) -> Result<PlanFeed, Status> {
        let plan_id = selection.plan_id;
        let plan = self.planner.journal().plan(plan_id).await.map_err(journal_status)?;
        let plan = plan.ok_or_else(|| status_from_error(&no_such_plan(plan_id)))?;
        // What has ended says no more.
        let with_output = selection.with_output && !plan.status.is_terminal();
        Ok(self.planner.feeds().open(context, Selection { with_output, ..selection }).await)
    }

    /// Reads a task of a plan, by its key.
    async fn task(&self, plan_id: &str, key: &str) -> Result<Task, Status> {
        let plan_id: PlanId = id("plan_id", plan_id)?;
        let plan = self.planner.journal().plan(plan_id).await.map_err(journal_status)?;
        let plan = plan.ok_or_else(|| status_from_error(&no_such_plan(plan_id)))?;
        plan.tasks.into_iter().find(|task| task.spec.key == key).ok_or_else(|| {
            let shown: String = key.chars().take(MAX_KEY_CHARS).collect();
            let message = format!("plan {plan_id} has no task `{shown}`");
            status_from_error(&OrchestratorError::new(OrchestratorErrorCode::NotFound, message))
        })
    }
}

impl Handler for PlannerGrpc {
    type Method = PlanAndExecute;

    async fn call(
        &self,
        request: Request<PlanAndExecuteRequest>,
        responses: &mut ResponseSender,
    ) -> Result<(), Status> {
        let answer = self.plan_and_execute(request).await?;
        responses.send(answer.get_ref()).await
    }
}

fn journal_status(error: JournalError) -> Status {
    // The journal logs damaged records itself.
    if !matches!(error, JournalError::Damaged(_)) {
        tracing::error!(%error, "the journal cannot be read");
    }
    status_from_error(&error.into())
}
