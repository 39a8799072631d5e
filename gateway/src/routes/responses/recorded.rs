//! The stream of a response in the background.
//!
//! It is made of the plan's journal alone, from the first event on, and so every reader gets the same events under the same numbers,
//! whichever planner and gateway it reads from. A reader that continues skips the events that it has.

use std::collections::VecDeque;

use axum::response::{IntoResponse, Response, sse::Event};
use futures_util::stream;
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, PlanId};
use phoenix_platform::client::UNREACHABLE_RETRY_AFTER;
use phoenix_proto::planner::WatchPlanResponse;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::ending::{Ending, ending, no_such_response};
use crate::{
    clients::Gateway,
    plan_stream::{Backoff, PLAN_ENDED, PlanItem, PlanStream},
    planner_client::{PlannerClient, WatchedOutput, unexpected_response},
    request_scope::RequestScope,
    routes::{answer::plan_header, event_stream::respond},
    wire::{
        answer_writer::Frame,
        responses::{response::Head, writer::ResponseWriter},
    },
};

/// Facts of an event of an attempt.
#[derive(Deserialize)]
struct Attempt {
    attempt: u32,
    #[serde(default)]
    outcome: String,
}

/// Facts of an event with output.
#[derive(Deserialize)]
struct Output {
    attempt: u32,
    parts: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    text: String,
    #[serde(default)]
    delta: Option<Box<RawValue>>,
}

/// Responds with the events of the response of a plan that journals its output, those after number `after`.
///
/// # Errors
/// `not_found`, or what keeps the planner from answering.
pub(super) async fn recorded(
    gateway: &Gateway,
    scope: &RequestScope,
    head: Head,
    after: Option<u64>,
) -> Result<Response, OrchestratorError> {
    let (planner, plan_id) = (PlannerClient::new(gateway, scope), head.plan_id);
    let plan = PlanStream::watch(planner.clone(), plan_id, 0, WatchedOutput::Recorded).await?;
    let response = RecordedResponse {
        planner,
        plan,
        shutdown: gateway.shutdown.clone(),
        answer: RecordedAnswer { writer: ResponseWriter::new(head), attempt: 0, is_lost: false },
        frames: VecDeque::new(),
        number: 0,
        after,
        is_over: false,
    };
    let events = stream::unfold(Box::new(response), |mut response| async move {
        let Frame { name, data } = Box::pin(response.next()).await?;
        Some((Event::default().event(name.unwrap_or_default()).data(data), response))
    });
    Ok((plan_header(plan_id), respond(events)).into_response())
}

/// The events of one response, as one reader gets them.
struct RecordedResponse {
    planner: PlannerClient,
    plan: PlanStream,
    shutdown: CancellationToken,
    answer: RecordedAnswer,
    /// Events that are written and not sent.
    frames: VecDeque<Frame>,
    /// Number of the first of them.
    number: u64,
    /// Number of the last event that the reader has.
    after: Option<u64>,
    is_over: bool,
}

impl RecordedResponse {
    /// The next event that the reader does not have; `None` after the last one.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            while let Some(frame) = self.frames.pop_front() {
                self.number += 1;
                if self.after.is_none_or(|after| self.number > after.saturating_add(1)) {
                    return Some(frame);
                }
            }
            if self.is_over {
                return None;
            }
            let shutdown = self.shutdown.clone();
            let read = Box::pin(shutdown.run_until_cancelled(self.read())).await;
            let read = read.unwrap_or_else(|| Err(stopping()));
            if let Err(error) = read {
                self.is_over = true;
                // Not an event of the response: it has the number of the last one, which is where the reader continues.
                let last = self.after.max(self.number.checked_sub(1)).unwrap_or_default();
                return Some(self.answer.writer.interrupted(&error, last));
            }
        }
    }

    /// Reads one event of the plan.
    async fn read(&mut self) -> Result<(), OrchestratorError> {
        let plan_id = self.plan.plan_id();
        match self.plan.next().await {
            Some(PlanItem::Event(event)) if event.kind == PLAN_ENDED => {
                let frames = match self.ending(plan_id).await? {
                    Ending::Answer(answer) => self.answer.writer.completed(&answer),
                    Ending::Failure(error) => self.answer.writer.failed(&error),
                };
                self.frames.extend(frames);
                self.is_over = true;
            }
            Some(PlanItem::Event(event)) => self.frames.extend(self.answer.event(&event)?),
            // Not in this stream.
            Some(PlanItem::Output(_) | PlanItem::Result(_)) => {}
            None => return Err(no_such_response(&Head::id(plan_id))),
        }
        Ok(())
    }

    /// How the plan ended, as soon as that can be read.
    async fn ending(&self, plan_id: PlanId) -> Result<Ending, OrchestratorError> {
        let mut backoff = Backoff::default();
        loop {
            let plan = self.planner.get(plan_id).await;
            let ended = match plan {
                Ok(plan) => ending(&self.planner, plan_id, &plan).await,
                Err(error) => Err(error),
            };
            match ended {
                Ok(ended) => return ended.ok_or_else(unexpected_response),
                Err(error) if error.code.is_retryable() => backoff.wait().await,
                Err(error) => return Err(error),
            }
        }
    }
}

/// An answer that is written as the journal tells it.
struct RecordedAnswer {
    writer: ResponseWriter,
    /// The attempt that answers.
    attempt: u32,
    /// Whether the API cannot express what the attempt says next. The rest follows with the whole answer.
    is_lost: bool,
}

impl RecordedAnswer {
    /// The response's events for an event of its plan.
    fn event(&mut self, event: &WatchPlanResponse) -> Result<Vec<Frame>, OrchestratorError> {
        let mut frames = Vec::new();
        match event.kind.as_str() {
            "plan_accepted" => frames.extend(self.writer.created()),
            "task_dispatched" => frames.extend(self.writer.started()),
            "attempt_started" => {
                let Attempt { attempt, .. } = facts(event)?;
                frames.extend(self.begin(attempt));
            }
            "attempt_ended" => {
                let Attempt { attempt, outcome } = facts(event)?;
                if outcome != "succeeded" && attempt == self.attempt {
                    frames.extend(self.writer.discard());
                }
            }
            "task_output" => {
                let Output { attempt, parts } = facts(event)?;
                frames.extend(self.begin(attempt));
                if attempt == self.attempt {
                    frames.extend(parts.iter().flat_map(|part| self.part(part)));
                }
            }
            _ => {}
        }
        Ok(frames)
    }

    /// Begins with an attempt, unless it is not a later one. What an earlier one has said is void.
    fn begin(&mut self, attempt: u32) -> Vec<Frame> {
        if attempt <= self.attempt {
            return Vec::new();
        }
        (self.attempt, self.is_lost) = (attempt, false);
        self.writer.discard()
    }

    fn part(&mut self, Part { text, delta }: &Part) -> Vec<Frame> {
        if self.is_lost {
            return Vec::new();
        }
        self.writer.said(text, delta.as_deref().map(RawValue::get)).unwrap_or_else(|_| {
            self.is_lost = true;
            self.writer.discard()
        })
    }
}

fn facts<T: DeserializeOwned>(event: &WatchPlanResponse) -> Result<T, OrchestratorError> {
    serde_json::from_str(&event.data_json).map_err(|error| {
        let WatchPlanResponse { kind, position, .. } = event;
        tracing::error!(%error, kind, position, "the planner sent an invalid event");
        unexpected_response()
    })
}

/// The error of a stream whose gateway stops.
fn stopping() -> OrchestratorError {
    let message = "the gateway is stopping; continue the stream shortly";
    OrchestratorError::new(OrchestratorErrorCode::Unavailable, message)
        .with_retry_after(UNREACHABLE_RETRY_AFTER)
}
