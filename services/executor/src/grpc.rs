//! `phoenix.executor.v1.ExecutorService`: decode, call, encode.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
    vec::IntoIter,
};

use futures_util::{Stream, StreamExt};
use phoenix_domain::{
    OrchestratorErrorCode, TaskId,
    action::{Chunk, ProgressReport},
    health::HealthState,
};
use phoenix_platform::{
    RequestContext,
    multiplex::{Handler, ResponseSender},
    propagation::mark_failed,
    readiness::Readiness,
};
use phoenix_proto::{
    ExecuteTask, HealthSnapshot, InvalidField,
    action::json_object,
    executor::{
        AttemptFailed, AttemptStarted, CancelTaskRequest, CancelTaskResponse, Catalog, ExecuteTaskRequest,
        ExecuteTaskResponse, InspectAgentRequest, InspectAgentResponse, TaskFinished, TaskOutput,
        TaskProgress, WatchCatalogRequest, execute_task_response::Event,
        executor_service_server::ExecutorService, task_finished,
    },
    id, status_from_error, to_timestamp,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::Span;

use crate::{
    catalog::CatalogFeed,
    executor::Executor,
    task::{Task, TaskEvent, TaskStream},
};

/// Time in which the first events of a task are coalesced into one response.
const COALESCE_WINDOW: Duration = Duration::from_millis(20);

/// The gRPC service of the executor.
#[derive(Clone)]
pub(crate) struct ExecutorGrpc {
    executor: Arc<Executor>,
    catalog: CatalogFeed,
    readiness: Readiness,
    /// Ends catalog streams, which would otherwise keep the server running.
    shutdown: CancellationToken,
}

impl ExecutorGrpc {
    pub(crate) const fn new(
        executor: Arc<Executor>,
        catalog: CatalogFeed,
        readiness: Readiness,
        shutdown: CancellationToken,
    ) -> Self {
        Self { executor, catalog, readiness, shutdown }
    }
}

#[tonic::async_trait]
impl ExecutorService for ExecutorGrpc {
    type ExecuteTaskStream = Responses;
    type WatchCatalogStream = Pin<Box<dyn Stream<Item = Result<Catalog, Status>> + Send>>;

    async fn execute_task(
        &self,
        request: Request<ExecuteTaskRequest>,
    ) -> Result<Response<Self::ExecuteTaskStream>, Status> {
        let caller = RequestContext::of(&request);
        let task = task(request.into_inner(), caller)?;
        let mut events = self.executor.execute_task(task).map_err(|error| status_from_error(&error))?;
        let first = first_events(&mut events).await;
        Ok(Response::new(Responses { first: first.into_iter(), events, span: Span::current() }))
    }

    async fn cancel_task(
        &self,
        request: Request<CancelTaskRequest>,
    ) -> Result<Response<CancelTaskResponse>, Status> {
        let CancelTaskRequest { task_id, reason } = request.into_inner();
        let task_id: TaskId = id("task_id", &task_id)?;
        self.executor.cancel_task(task_id).map_err(|error| status_from_error(&error))?;
        tracing::info!(%task_id, reason, "task is being cancelled");
        Ok(Response::new(CancelTaskResponse {}))
    }

    async fn watch_catalog(
        &self,
        request: Request<WatchCatalogRequest>,
    ) -> Result<Response<Self::WatchCatalogStream>, Status> {
        let WatchCatalogRequest { with_load } = request.into_inner();
        let catalogs = self.catalog.watch(with_load, self.readiness.clone(), self.shutdown.clone());
        Ok(Response::new(Box::pin(catalogs.map(Ok))))
    }

    async fn inspect_agent(
        &self,
        request: Request<InspectAgentRequest>,
    ) -> Result<Response<InspectAgentResponse>, Status> {
        let InspectAgentRequest { agent } = request.into_inner();
        let known = self.executor.inspect(&id("agent", &agent)?).map_err(|e| status_from_error(&e))?;
        let instance_id = self.catalog.instance_id().to_owned();
        Ok(Response::new(InspectAgentResponse { instance_id, ..known }))
    }
}

impl Handler for ExecutorGrpc {
    type Method = ExecuteTask;

    async fn call(
        &self,
        request: Request<ExecuteTaskRequest>,
        sender: &mut ResponseSender,
    ) -> Result<(), Status> {
        let mut responses = self.execute_task(request).await?.into_inner();
        while let Some(response) = responses.next().await {
            let response = response?;
            let mut sent = pin!(sender.send(&response));
            poll_fn(|cx| {
                let sent = sent.as_mut().poll(cx);
                if sent.is_pending() {
                    // The task runs on while its caller reads slowly.
                    responses.events.poll_run(cx);
                }
                sent
            })
            .await?;
        }
        Ok(())
    }
}

/// Response stream of one call.
pub(crate) struct Responses {
    first: IntoIter<TaskEvent>,
    events: TaskStream,
    /// Span of the call.
    span: Span,
}

impl Stream for Responses {
    type Item = Result<ExecuteTaskResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = match self.first.next() {
            Some(event) => event,
            None => match ready!(self.events.poll_next_unpin(cx)) {
                Some(event) => event,
                None => return Poll::Ready(None),
            },
        };
        // A failed task is a response and no error of the call, yet readers of traces look at the call's span first.
        if let TaskEvent::Finished { result: Err(error), .. } = &event
            && error.code != OrchestratorErrorCode::Cancelled
        {
            mark_failed(&self.span, error.code.as_str());
        }
        Poll::Ready(Some(encode(event)))
    }
}

/// The first events of a task, or all of a quick one. They form one packet, so the caller wakes up once.
async fn first_events(events: &mut TaskStream) -> Vec<TaskEvent> {
    let mut first = Vec::with_capacity(2);
    let all = async {
        while let Some(event) = events.next().await {
            let is_output = matches!(event, TaskEvent::Output { .. } | TaskEvent::Progress { .. });
            first.push(event);
            // The caller waits for the first words.
            if is_output {
                return;
            }
        }
    };
    // The caller of a longer task learns after this window that it was accepted and runs.
    let _ = tokio::time::timeout(COALESCE_WINDOW, all).await;
    first
}

fn task(request: ExecuteTaskRequest, caller: RequestContext) -> Result<Task, InvalidField> {
    let ExecuteTaskRequest {
        plan_id,
        task_id,
        agent,
        action,
        context,
        payload_json,
        idempotency_key,
        first_attempt,
        probe_lease,
        earlier_attempts,
        with_output,
        reserved_attempts,
    } = request;
    for (field, text) in [("action", &action), ("idempotency_key", &idempotency_key)] {
        if text.is_empty() {
            return Err(InvalidField::new(field, "is missing"));
        }
    }
    let first_attempt = first_attempt.max(1);
    Ok(Task {
        caller,
        plan_id: id("plan_id", &plan_id)?,
        task_id: id("task_id", &task_id)?,
        agent: id("agent", &agent)?,
        action,
        context,
        payload: json_object("payload_json", &payload_json)?,
        idempotency_key,
        first_attempt,
        // Attempts have distinct numbers, so fewer were made than the first number here.
        earlier_attempts: earlier_attempts.map_or(first_attempt - 1, |made| made.min(first_attempt - 1)),
        last_attempt: match reserved_attempts {
            0 => u32::MAX,
            reserved => first_attempt.saturating_add(reserved - 1),
        },
        probe_lease,
        with_output,
    })
}

// By value, so that its strings move into the message.
fn encode(event: TaskEvent) -> Result<ExecuteTaskResponse, Status> {
    let event = match event {
        TaskEvent::AttemptStarted { attempt, started_at, worker } => Event::AttemptStarted(AttemptStarted {
            attempt,
            started_at: Some(to_timestamp(started_at)),
            worker,
        }),
        TaskEvent::AttemptFailed { attempt, ended_at, failure, retry_in } => {
            Event::AttemptFailed(AttemptFailed {
                attempt,
                ended_at: Some(to_timestamp(ended_at)),
                error_class: failure.class.as_str().into(),
                message: failure.message(),
                stderr_tail: failure.stderr,
                retry_in_ms: retry_in.map(|pause| u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)),
                is_final: failure.may_have_effect,
                model_calls: failure.model_calls.into_iter().map(Into::into).collect(),
            })
        }
        TaskEvent::Output { attempt, chunk: Chunk { data, delta } } => {
            let delta_json = delta.map(|delta| delta.to_string()).unwrap_or_default();
            Event::Output(TaskOutput { attempt, data, delta_json })
        }
        TaskEvent::Progress { attempt, report: ProgressReport { message, progress, total } } => {
            Event::Progress(TaskProgress { attempt, message: message.unwrap_or_default(), progress, total })
        }
        TaskEvent::Finished { attempts, ended_at, result, health } => Event::Finished(TaskFinished {
            attempts,
            ended_at: Some(to_timestamp(ended_at)),
            result: Some(match result {
                Ok(output) => task_finished::Result::Output((&output).into()),
                Err(error) => task_finished::Result::Error(error.into()),
            }),
            health: health.map(|health| short(*health).into()),
        }),
        TaskEvent::Interrupted(error) => return Err(status_from_error(&error)),
    };
    Ok(ExecuteTaskResponse { event: Some(event) })
}

/// The health of an agent without the reason of a change that no longer refuses tasks, which every answer would repeat.
fn short(health: HealthSnapshot) -> HealthSnapshot {
    match health.state {
        HealthState::Unhealthy => health,
        HealthState::Healthy | HealthState::Degraded => HealthSnapshot { standing: None, ..health },
    }
}
