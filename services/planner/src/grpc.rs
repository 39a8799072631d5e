//! `PlannerService`: decode, call, encode.

mod dead_letters;

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt};
use phoenix_domain::{
    CorrelationId, OrchestratorError, OrchestratorErrorCode, PlanId,
    limits::{MAX_IDEMPOTENCY_KEY_BYTES, MAX_KEY_CHARS},
    plan::{AttemptOutcome, MAX_DEADLINE_MS, Task, TaskSpec},
    rejections::no_such_plan,
};
use phoenix_platform::{
    RequestContext,
    multiplex::{Handler, ResponseSender},
};
use phoenix_proto::{
    InvalidField, PlanAndExecute, id, optional,
    planner::{
        CancelPlanRequest, CancelPlanResponse, DiscardDeadLettersRequest, DiscardDeadLettersResponse,
        DryRunPlanResponse, GetPlanRequest, GetPlanResponse, GetStderrRequest, GetStderrResponse,
        GetTaskOutputRequest, GetTaskOutputResponse, ListDeadLettersRequest, ListDeadLettersResponse,
        ListPlansRequest, ListPlansResponse, PlanAndExecuteRequest, PlanAndExecuteResponse,
        RedriveDeadLettersRequest, RedriveDeadLettersResponse, RedrivePlanRequest, RedrivePlanResponse,
        SubmitPlanResponse, WatchPlanRequest, WatchPlanResponse, dry_run_plan_response::Wave,
        planner_service_server::PlannerService,
    },
    status_from_error, timestamp, to_timestamp,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    make::{Waits, Wish, Work},
    planner::{Answer, Planner, Submitted},
    store::{Event, IdempotencyKey, JournalError, PlanFilter},
    sweep::Swept,
    watch,
};

const DEFAULT_PAGE: u32 = 50;
const LARGEST_PAGE: u32 = 500;

/// The service over a [`Planner`].
#[derive(Debug, Clone)]
pub struct PlannerGrpc {
    planner: Planner,
    /// Ends streams.
    shutdown: CancellationToken,
}

impl PlannerGrpc {
    /// Serves `planner`; streams end with `shutdown`.
    #[must_use]
    pub const fn new(planner: Planner, shutdown: CancellationToken) -> Self {
        Self { planner, shutdown }
    }
}

#[tonic::async_trait]
impl PlannerService for PlannerGrpc {
    type WatchPlanStream = Pin<Box<dyn Stream<Item = Result<WatchPlanResponse, Status>> + Send>>;

    async fn plan_and_execute(
        &self,
        request: Request<PlanAndExecuteRequest>,
    ) -> Result<Response<PlanAndExecuteResponse>, Status> {
        let context = RequestContext::of(&request);
        let wish = wish(request.into_inner(), Waits::Caller, context.correlation_id)?;
        let answer = self.planner.plan_and_execute_v1(context, wish).await;
        let Answer { plan_id, output, finish_reason, agent, agent_time, replay_of } =
            answer.map_err(|error| status_from_error(&error))?;
        Ok(Response::new(PlanAndExecuteResponse {
            plan_id: plan_id.to_string(),
            output: output.unwrap_or_default(),
            agent: agent.into(),
            agent_time_us: u64::try_from(agent_time.as_micros()).unwrap_or(u64::MAX),
            replay_of: text(replay_of),
            finish_reason,
        }))
    }

    async fn submit_plan(
        &self,
        request: Request<PlanAndExecuteRequest>,
    ) -> Result<Response<SubmitPlanResponse>, Status> {
        let context = RequestContext::of(&request);
        let request = request.into_inner();
        let waits = if request.caller_waits { Waits::Caller } else { Waits::Nobody };
        let wish = wish(request, waits, context.correlation_id)?;
        let submitted = self.planner.submit_plan(context, wish).await;
        let Submitted { plan_id, replay_of } = submitted.map_err(|error| status_from_error(&error))?;
        Ok(Response::new(SubmitPlanResponse { plan_id: plan_id.to_string(), replay_of: text(replay_of) }))
    }

    async fn dry_run_plan(
        &self,
        request: Request<PlanAndExecuteRequest>,
    ) -> Result<Response<DryRunPlanResponse>, Status> {
        let by = RequestContext::of(&request).correlation_id;
        let wish = wish(request.into_inner(), Waits::Caller, by)?;
        let waves = self.planner.dry_run(wish).map_err(|error| status_from_error(&error))?;
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
        let filter = filter(request.get_ref())?;
        let page = self.planner.journal().plans(&filter).await.map_err(journal_status)?;
        let next_page_token = page.last.map(|last| last.to_string()).unwrap_or_default();
        let plans = page.items.into_iter().map(Into::into).collect();
        Ok(Response::new(ListPlansResponse { plans, next_page_token }))
    }

    async fn watch_plan(
        &self,
        request: Request<WatchPlanRequest>,
    ) -> Result<Response<Self::WatchPlanStream>, Status> {
        let WatchPlanRequest { plan_id, after_position } = request.into_inner();
        let plan_id: PlanId = id("plan_id", &plan_id)?;
        let journal = self.planner.journal().clone();
        if journal.plan(plan_id).await.map_err(journal_status)?.is_none() {
            return Err(status_from_error(&no_such_plan(plan_id)));
        }
        let events = watch::events(journal, plan_id, after_position, self.shutdown.clone());
        Ok(Response::new(Box::pin(events.map(|event| event.map(encode_event).map_err(journal_status)))))
    }

    async fn cancel_plan(
        &self,
        request: Request<CancelPlanRequest>,
    ) -> Result<Response<CancelPlanResponse>, Status> {
        let by = RequestContext::of(&request).correlation_id;
        let CancelPlanRequest { plan_id, reason, idempotency_key, idempotency_digest } = request.into_inner();
        let plan_id: PlanId = id("plan_id", &plan_id)?;
        let key = named(idempotency_key, idempotency_digest, by)?;
        let cancelled = self.planner.cancel(plan_id, reason, key).await;
        let replay_of = cancelled.map_err(|error| status_from_error(&error))?;
        Ok(Response::new(CancelPlanResponse { replay_of: text(replay_of) }))
    }

    async fn redrive_plan(
        &self,
        request: Request<RedrivePlanRequest>,
    ) -> Result<Response<RedrivePlanResponse>, Status> {
        let (context, wait) = (RequestContext::of(&request), request.get_ref().wait);
        let wish = dead_letters::redrive_wish(request.into_inner(), context.correlation_id)?;
        let redriven = if wait {
            let answer = self.planner.redrive_and_wait(context, wish).await;
            answer.map(|Answer { plan_id, replay_of, .. }| Submitted { plan_id, replay_of })
        } else {
            self.planner.redrive(context, wish).await
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

    async fn redrive_dead_letters(
        &self,
        request: Request<RedriveDeadLettersRequest>,
    ) -> Result<Response<RedriveDeadLettersResponse>, Status> {
        let context = RequestContext::of(&request);
        let wish = dead_letters::redrive_sweep(request.into_inner(), context.correlation_id)?;
        let begun = self.planner.sweep(context, wish).await;
        let Swept { sweep, selected, replay_of } = begun.map_err(|error| status_from_error(&error))?;
        let (sweep_id, correlation_id) = (sweep.sweep_id.to_string(), sweep.by.to_string());
        let replay_of = text(replay_of);
        Ok(Response::new(RedriveDeadLettersResponse { sweep_id, selected, correlation_id, replay_of }))
    }

    async fn discard_dead_letters(
        &self,
        request: Request<DiscardDeadLettersRequest>,
    ) -> Result<Response<DiscardDeadLettersResponse>, Status> {
        let context = RequestContext::of(&request);
        let wish = dead_letters::discard_sweep(request.into_inner(), context.correlation_id)?;
        let done = self.planner.sweep(context, wish).await;
        let Swept { sweep, selected, replay_of } = done.map_err(|error| status_from_error(&error))?;
        let (sweep_id, correlation_id) = (sweep.sweep_id.to_string(), sweep.by.to_string());
        let (discarded, replay_of) = (selected, text(replay_of));
        Ok(Response::new(DiscardDeadLettersResponse { sweep_id, discarded, correlation_id, replay_of }))
    }
}

impl PlannerGrpc {
    /// A task of a plan, by its key.
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

fn wish(request: PlanAndExecuteRequest, waits: Waits, by: CorrelationId) -> Result<Wish, InvalidField> {
    let PlanAndExecuteRequest {
        message,
        context,
        agent,
        tasks,
        deadline_ms,
        continue_on_disconnect,
        idempotency_key,
        idempotency_digest,
        caller_waits: _,
    } = request;
    let work = if tasks.is_empty() {
        Work::Chat { message, agent }
    } else if message.is_empty() {
        Work::Tasks(tasks.into_iter().map(TaskSpec::try_from).collect::<Result<_, _>>()?)
    } else {
        return Err(InvalidField::new("tasks", "and `message` exclude each other"));
    };
    if deadline_ms > MAX_DEADLINE_MS {
        let problem = format!("must be at most {MAX_DEADLINE_MS}, not {deadline_ms}");
        return Err(InvalidField::new("deadline_ms", problem));
    }
    Ok(Wish {
        work,
        context,
        time_limit: (deadline_ms > 0).then(|| Duration::from_millis(deadline_ms)),
        waits,
        continue_on_disconnect,
        key: named(idempotency_key, idempotency_digest, by)?,
    })
}

/// The name of a request, if it has one.
fn named(key: String, digest: String, by: CorrelationId) -> Result<Option<IdempotencyKey>, InvalidField> {
    for (field, text) in [("idempotency_key", &key), ("idempotency_digest", &digest)] {
        let (found, limit) = (text.len(), MAX_IDEMPOTENCY_KEY_BYTES);
        if found > limit {
            return Err(InvalidField::new(
                field,
                format!("is {found} bytes long; at most {limit} are allowed"),
            ));
        }
    }
    Ok((!key.is_empty()).then_some(IdempotencyKey { key, digest, by: Some(by) }))
}

/// As text; empty when there is none.
fn text(id: Option<CorrelationId>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

fn encode_event(Event { position, kind, at, task_key, data }: Event) -> WatchPlanResponse {
    WatchPlanResponse { position, kind, at: Some(to_timestamp(at)), task_key, data_json: data }
}

fn filter(request: &ListPlansRequest) -> Result<PlanFilter, InvalidField> {
    Ok(PlanFilter {
        correlation_id: optional("correlation_id", request.correlation_id.as_deref().unwrap_or_default())?,
        status: request.status().into(),
        agent: optional("agent", &request.agent)?,
        since: timestamp("since", request.since)?,
        before: optional("page_token", &request.page_token)?,
        limit: page_size(request.page_size)?,
    })
}

fn page_size(size: u32) -> Result<u32, InvalidField> {
    match size {
        0 => Ok(DEFAULT_PAGE),
        1..=LARGEST_PAGE => Ok(size),
        _ => Err(InvalidField::new("page_size", format!("must be at most {LARGEST_PAGE}"))),
    }
}

fn journal_status(error: JournalError) -> Status {
    // The journal has told of what is damaged.
    if !matches!(error, JournalError::Damaged(_)) {
        tracing::error!(%error, "the journal cannot be read");
    }
    status_from_error(&error.into())
}
