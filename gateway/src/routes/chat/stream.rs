//! A streamed chat: the events of its plan and what its agent says, as they happen, then the answer.

use axum::response::{Response, sse::Event};
use futures_util::stream;
use phoenix_domain::OrchestratorError;
use phoenix_proto::planner::{PlanAndExecuteRequest, PlanAndExecuteResponse};

use crate::{
    clients::Gateway,
    plan_stream::PlanItem,
    planner_client::unexpected_response,
    problem::{ErrorFormat, Failure},
    request_scope::RequestScope,
    routes::{
        event_stream::{encode, encode_live, respond},
        followed_plan::FollowedPlan,
    },
    wire::chat::{ChatResponseV1, FinishedPlan, RESPONSE},
};

/// Makes the chat's plan, and answers with its stream: until its result, or the gateway's shutdown.
pub(super) async fn chat(
    gateway: &Gateway,
    scope: &RequestScope,
    request: PlanAndExecuteRequest,
) -> Result<Response, Failure> {
    let plan = FollowedPlan::start(gateway, scope, request).await?;
    // In a box, or else the future of the next event would have room for another one.
    Ok(respond(stream::unfold(Some(Box::new(plan)), |plan| async move {
        let mut plan = plan?;
        match next(&mut plan).await {
            Step::Event(event) => Some((event, Some(plan))),
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

/// The next event of the plan, or the answer.
async fn next(plan: &mut FollowedPlan) -> Step {
    let result = match plan.next().await {
        PlanItem::Event(event) => match encode(event) {
            Some(event) => return Step::Event(event),
            None => Err(unexpected_response()),
        },
        PlanItem::Output(output) => match encode_live(output) {
            Some(event) => return Step::Event(event),
            None => Err(unexpected_response()),
        },
        PlanItem::Result(result) => result,
    };
    Step::Answer(Event::default().event(RESPONSE).data(answer(plan, result)))
}

fn answer(plan: &FollowedPlan, result: Result<PlanAndExecuteResponse, OrchestratorError>) -> String {
    let (plan_id, correlation_id) = (plan.plan_id(), plan.scope().response_id());
    match result {
        Ok(response) => {
            let finished = FinishedPlan::of(plan_id, response);
            let answer = ChatResponseV1::success(correlation_id, finished);
            // Strings and ids can always be written.
            serde_json::to_string(&answer).unwrap_or_default()
        }
        Err(error) => {
            let failure = Failure::from(error.with_detail("plan_id", plan_id));
            ErrorFormat::Chat.body(&failure, correlation_id)
        }
    }
}
