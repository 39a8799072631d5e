//! Decode, call, encode.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
    vec::IntoIter,
};

use futures_util::{
    Stream, StreamExt,
    stream::{self, Chain, Iter},
};
use phoenix_domain::{OrchestratorErrorCode, TaskId};
use phoenix_platform::{
    RequestContext,
    multiplex::{Handler, ResponseSender},
    propagation::mark_failed,
};
use phoenix_proto::{
    ExecuteTask, InvalidField,
    action::json_object,
    executor::{
        AttemptFailed, AttemptStarted, CancelTaskRequest, CancelTaskResponse, ExecuteTaskRequest,
        ExecuteTaskResponse, TaskFinished, execute_task_response::Event,
        executor_service_server::ExecutorService, task_finished,
    },
    id, status_from_error, to_timestamp,
};
use tonic::{Request, Response, Status};
use tracing::Span;

use crate::{
    executor::Executor,
    task::{Task, TaskEvent, TaskStream},
};

/// A task that ends within this time is told of as a whole.
const QUICK: Duration = Duration::from_millis(20);

/// The wire's side of the executor.
#[derive(Clone)]
pub(crate) struct ExecutorGrpc {
    executor: Arc<Executor>,
}

impl ExecutorGrpc {
    pub(crate) const fn new(executor: Arc<Executor>) -> Self {
        Self { executor }
    }
}

#[tonic::async_trait]
impl ExecutorService for ExecutorGrpc {
    type ExecuteTaskStream = Responses;

    async fn execute_task(
        &self,
        request: Request<ExecuteTaskRequest>,
    ) -> Result<Response<Self::ExecuteTaskStream>, Status> {
        let caller = RequestContext::of(&request);
        let task = task(request.into_inner(), caller)?;
        let mut events = self.executor.execute_task(task).map_err(|error| status_from_error(&error))?;
        let begun = beginning(&mut events).await;
        Ok(Response::new(Responses { events: stream::iter(begun).chain(events), span: Span::current() }))
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
            sender.send(&response?).await?;
        }
        Ok(())
    }
}

/// What a call is answered with, message by message.
pub(crate) struct Responses {
    events: Chain<Iter<IntoIter<TaskEvent>>, TaskStream>,
    /// The call's.
    span: Span,
}

impl Stream for Responses {
    type Item = Result<ExecuteTaskResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(event) = ready!(self.events.poll_next_unpin(cx)) else { return Poll::Ready(None) };
        // A task that fails is an answer and no error of the call, yet the call's span is where a reader looks first.
        if let TaskEvent::Finished { result: Err(error), .. } = &event
            && error.code != OrchestratorErrorCode::Cancelled
        {
            mark_failed(&self.span, error.code.as_str());
        }
        Poll::Ready(Some(encode(event)))
    }
}

/// The first events of a task: all of them, if it is quick. Then what there is to tell is one packet, and the caller wakes
/// up once.
async fn beginning(events: &mut TaskStream) -> Vec<TaskEvent> {
    let mut begun = Vec::with_capacity(2);
    let all = async {
        while let Some(event) = events.next().await {
            begun.push(event);
        }
    };
    // Whoever watches a task that is not quick is told that it was taken in, and that it runs.
    let _ = tokio::time::timeout(QUICK, all).await;
    begun
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
        // Every attempt has a number of its own.
        earlier_attempts: earlier_attempts.map_or(first_attempt - 1, |made| made.min(first_attempt - 1)),
        probe_lease,
    })
}

// By value: what it has to say moves into the message.
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
            })
        }
        TaskEvent::Finished { attempts, ended_at, result, health } => Event::Finished(TaskFinished {
            attempts,
            ended_at: Some(to_timestamp(ended_at)),
            result: Some(match result {
                Ok(output) => task_finished::Result::Output((&output).into()),
                Err(error) => task_finished::Result::Error(error.into()),
            }),
            health: health.map(Into::into),
        }),
        TaskEvent::Interrupted(error) => return Err(status_from_error(&error)),
    };
    Ok(ExecuteTaskResponse { event: Some(event) })
}
