//! A streamed completion.
//!
//! The response starts with the answer, so that a plan that fails before has a status of its own. A plan that takes longer than
//! [`HEADERS_AFTER`] gets its headers before, since proxies and clients drop a connection that stays silent; its failure is then an
//! error in the stream. The stream ends with `[DONE]` or with an error, never without either.

use std::{collections::VecDeque, time::Duration};

use axum::response::{IntoResponse, Response, sse::Event};
use futures_util::stream;
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode};
use phoenix_proto::planner::PlanAndExecuteRequest;
use serde_json::value::RawValue;

use super::plan_header::plan_header;
use crate::{
    clients::Gateway,
    plan_stream::{LiveOutput, PlanItem},
    problem::{ErrorFormat, Failure},
    request_scope::RequestScope,
    routes::{event_stream::respond, followed_plan::FollowedPlan},
    wire::openai::{answer::Answer, chunk::ChunkWriter, request::StreamOptions},
};

/// Time after which a response starts without its first chunk.
const HEADERS_AFTER: Duration = Duration::from_secs(15);

/// Makes the plan of a completion, and answers with its chunks.
///
/// # Errors
/// What prevents the plan from being accepted, and what fails it before its answer begins.
pub(super) async fn completion(
    gateway: &Gateway,
    scope: &RequestScope,
    request: PlanAndExecuteRequest,
    model: &str,
    options: StreamOptions,
) -> Result<Response, OrchestratorError> {
    let plan = FollowedPlan::start(gateway, scope, request).await?;
    let plan_id = plan.plan_id();
    let writer = ChunkWriter::new(plan_id, model.to_owned(), options.include_usage);
    let mut completion = CompletionStream { plan, writer, chunks: VecDeque::new(), is_over: false };
    if let Ok(begun) = tokio::time::timeout(HEADERS_AFTER, completion.read()).await {
        begun?;
    }
    let chunks = stream::unfold(completion, |mut completion| async move {
        let chunk = completion.next().await?;
        Some((Event::default().data(chunk), completion))
    });
    Ok((plan_header(plan_id), respond(chunks)).into_response())
}

/// The chunks of one completion.
struct CompletionStream {
    plan: FollowedPlan,
    writer: ChunkWriter,
    /// Chunks that are written and not sent.
    chunks: VecDeque<String>,
    is_over: bool,
}

impl CompletionStream {
    /// The next chunk; `None` after the last one.
    async fn next(&mut self) -> Option<String> {
        if self.chunks.is_empty()
            && !self.is_over
            && let Err(error) = self.read().await
        {
            self.is_over = true;
            let body = ErrorFormat::OpenAi.body(&Failure::from(error), self.plan.scope().response_id());
            self.chunks.push_back(body);
        }
        self.chunks.pop_front()
    }

    /// Reads the plan up to its next chunks.
    async fn read(&mut self) -> Result<(), OrchestratorError> {
        let plan_id = self.plan.plan_id();
        while self.chunks.is_empty() && !self.is_over {
            match self.plan.next().await {
                PlanItem::Event(_) | PlanItem::Output(LiveOutput::Progress { .. }) => {}
                PlanItem::Output(LiveOutput::Output { part, .. }) => {
                    let delta = part.delta.as_deref().map(RawValue::get);
                    self.chunks.extend(self.writer.part(&part.text, delta));
                }
                PlanItem::Output(LiveOutput::Reset { attempt, .. }) => {
                    if self.writer.has_started() {
                        return Err(broken_off(attempt).with_detail("plan_id", plan_id));
                    }
                }
                PlanItem::Result(result) => {
                    let response = result.map_err(|error| error.with_detail("plan_id", plan_id))?;
                    self.is_over = true;
                    self.chunks.extend(self.writer.finish(&Answer::of(plan_id, response)));
                }
            }
        }
        Ok(())
    }
}

/// The error of an answer of which a part was sent when its agent failed and was started again: a new attempt says something
/// else, which must not be glued to that part.
fn broken_off(attempt: u32) -> OrchestratorError {
    let message = format!(
        "the answer broke off: attempt {attempt} began after a part of the answer of an earlier one was sent; send the request again"
    );
    OrchestratorError::new(OrchestratorErrorCode::ExecutionFailed, message)
}
