//! A streamed chat: the events of its plan as they happen, then the answer.

use axum::response::{Response, sse::Event};
use futures_util::stream;
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use phoenix_platform::client::UNREACHABLE_RETRY_AFTER;
use phoenix_proto::planner::{CancelPlanRequest, PlanAndExecuteRequest, PlanAndExecuteResponse};
use tracing::Instrument;

use crate::{
    clients::Gateway,
    plan_stream::{Backoff, PlanItem, PlanStream},
    planner_client::{PlannerClient, deadline_exceeded, unexpected_response},
    problem::{ErrorFormat, Failure},
    request_scope::RequestScope,
    routes::event_stream::{encode, respond},
    wire::chat::{ChatResponseV1, FinishedPlan, RESPONSE},
};

/// How often cancelling a plan is tried.
const CANCEL_TRIES: u32 = 4;

/// Makes the chat's plan, and answers with its stream: until its result, the request's deadline, or the gateway's shutdown.
pub(super) async fn chat(
    gateway: &Gateway,
    scope: &RequestScope,
    request: PlanAndExecuteRequest,
) -> Result<Response, Failure> {
    let planner = PlannerClient::new(gateway, scope);
    let stream = PlanStream::execute(planner.clone(), request).await?;
    let continues = stream.outlives_stream();
    let (gateway, scope) = (gateway.clone(), scope.clone());
    let chat = ChatStream { gateway, scope, planner, stream, continues, abort: None };
    Ok(respond(stream::unfold(Some(chat), |chat| async move {
        let mut chat = chat?;
        match chat.next().await {
            Step::Event(event) => Some((event, Some(chat))),
            Step::Answer(answer) => Some((answer, None)),
        }
    })))
}

/// The next server-sent event.
enum Step {
    /// An event of the plan.
    Event(Event),
    /// The answer, which is the last event.
    Answer(Event),
}

/// Why the gateway ends a stream before the plan has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Abort {
    Deadline,
    Shutdown,
}

/// The stream of one chat. Dropping it before the plan has ended cancels the plan, unless the request says otherwise.
struct ChatStream {
    gateway: Gateway,
    scope: RequestScope,
    planner: PlannerClient,
    stream: PlanStream,
    continues: bool,
    abort: Option<Abort>,
}

impl ChatStream {
    /// The next event of the plan, or the answer.
    async fn next(&mut self) -> Step {
        let (abort, result) = tokio::select! {
            biased;
            item = self.stream.next() => match item {
                Some(PlanItem::Event(event)) => match encode(event) {
                    Some(event) => return Step::Event(event),
                    None => (None, Err(unexpected_response())),
                },
                Some(PlanItem::Result(result)) => (None, result),
                None => (None, Err(unexpected_response())),
            },
            () = self.gateway.shutdown.cancelled() => (Some(Abort::Shutdown), Err(stopping())),
            () = tokio::time::sleep_until(self.scope.deadline().into()) => {
                (Some(Abort::Deadline), Err(deadline_exceeded(self.continues)))
            }
        };
        self.abort = abort;
        Step::Answer(Event::default().event(RESPONSE).data(self.answer(result)))
    }

    fn answer(&self, result: Result<PlanAndExecuteResponse, OrchestratorError>) -> String {
        let plan_id = self.stream.plan_id();
        match result {
            Ok(PlanAndExecuteResponse { output, finish_reason, .. }) => {
                let finished = FinishedPlan { plan_id, output, finish_reason };
                let answer = ChatResponseV1::success(self.scope.response_id(), finished);
                // Strings and ids can always be written.
                serde_json::to_string(&answer).unwrap_or_default()
            }
            Err(error) => {
                let failure = Failure::from(error.with_detail("plan_id", plan_id));
                ErrorFormat::Chat.body(&failure, self.scope.response_id())
            }
        }
    }
}

/// The error of a chat whose gateway stops.
fn stopping() -> OrchestratorError {
    OrchestratorError::new(OrchestratorErrorCode::Unavailable, "the gateway is stopping; try again shortly")
        .with_retry_after(UNREACHABLE_RETRY_AFTER)
}

impl Drop for ChatStream {
    fn drop(&mut self) {
        if self.stream.outlives_stream() {
            return;
        }
        let (plan_id, open) = (self.stream.plan_id(), self.stream.take_open());
        let reason = match self.abort {
            Some(Abort::Shutdown) => "the gateway stopped",
            Some(Abort::Deadline) => "the request's time was up",
            None => "the caller went away",
        };
        tracing::info!(parent: self.scope.span(), %plan_id, reason, "cancelling a plan without a caller");
        // Closing an open stream cancels the plan, without a reason.
        if open.is_some() && self.abort != Some(Abort::Shutdown) {
            return;
        }
        let planner = self.planner.clone();
        let request = CancelPlanRequest {
            plan_id: plan_id.to_string(),
            reason: reason.to_owned(),
            ..Default::default()
        };
        let cancelled = async move {
            if let Err(error) = cancel(&planner, request).await {
                tracing::warn!(%plan_id, code = %error.code, "a plan without a caller could not be cancelled");
            }
            drop(open);
        };
        self.gateway.background.spawn(cancelled.instrument(self.scope.span().clone()));
    }
}

/// Cancels a plan, through a restart of the planner.
async fn cancel(planner: &PlannerClient, request: CancelPlanRequest) -> Result<(), OrchestratorError> {
    let mut backoff = Backoff::default();
    for _ in 1..CANCEL_TRIES {
        match planner.cancel(request.clone()).await {
            // Ended meanwhile.
            Err(error) if error.code == OrchestratorErrorCode::Conflict => return Ok(()),
            Err(error) if error.code.is_retryable() => backoff.wait().await,
            answer => return answer,
        }
    }
    planner.cancel(request).await
}
