//! The trace of a plan across its requests and planners: which span accepted it, as the journal has it.
//!
//! A redrive is a plan in a trace of its own, whose span is linked to the plan's that it redrives. A planner that takes a plan over
//! continues the trace. Neither reads anything unless spans are exported.

use phoenix_domain::{PlanId, json::Object};
use phoenix_platform::{propagation::TraceContext, spans};
use tracing::Span;

use crate::journal::Journal;

/// The `traceparent` of the span that accepted a plan, if it was exported. A trace is not worth an error.
async fn traceparent(journal: &Journal, plan_id: PlanId) -> Option<String> {
    if !spans::is_exporting() {
        return None;
    }
    let first = journal.events(plan_id, 0, 1).await.ok()?.into_iter().next()?;
    let facts: Object = serde_json::from_str(&first.data).ok()?;
    Some(facts.get("traceparent")?.as_str()?.to_owned())
}

/// Links the current span to that of the plan which it redrives.
pub(crate) async fn link_redriven(journal: &Journal, original: PlanId) {
    if let Some(traceparent) = traceparent(journal, original).await {
        spans::link(&Span::current(), &traceparent, "redrive_of");
    }
}

/// The trace in which a plan that is taken over continues; a new one if it is not known.
pub(crate) async fn continued(journal: &Journal, plan_id: PlanId) -> TraceContext {
    let known = traceparent(journal, plan_id).await;
    let known = known.and_then(|traceparent| TraceContext::of_texts(traceparent, String::new()));
    known.unwrap_or_else(TraceContext::generate)
}
