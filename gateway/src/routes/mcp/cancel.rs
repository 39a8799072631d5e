//! `notifications/cancelled` of legacy clients.
//!
//! A client names the request that it cancels by the identifier it gave to it, which is unique in its session. Session and
//! identifier determine the correlation id of the call, so its plan is found in the journal, whichever gateway made it.

use axum::http::HeaderMap;
use phoenix_domain::{CorrelationId, OrchestratorError, limits::MAX_REASON_BYTES, plan::PlanStatus};
use phoenix_platform::propagation::CORRELATION_HEADER;
use phoenix_proto::planner::{CancelPlanRequest, ListPlansRequest};
use sha2::{Digest, Sha256};
use tracing::Instrument;
use uuid::Builder;

use crate::{
    clients::Gateway, plan_stream::Backoff, planner_client::PlannerClient, request_scope::RequestScope,
    wire::mcp::message::RequestId,
};

/// How often the plan of a call is looked for. The call itself may still be on its way to the journal.
const TRIES: u32 = 5;

/// Gives a call the correlation id by which it can be cancelled, unless the client has chosen one.
pub(super) fn identify(scope: &RequestScope, headers: &HeaderMap, session: &str, id: &RequestId) {
    if !headers.contains_key(CORRELATION_HEADER) {
        scope.set_id(correlation_id(session, id));
    }
}

fn correlation_id(session: &str, id: &RequestId) -> CorrelationId {
    let mut digest = Sha256::new();
    for part in ["mcp call", session, &id.to_json()] {
        digest.update(part);
        digest.update([0]);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.finalize()[..16]);
    Builder::from_custom_bytes(bytes).into_uuid().into()
}

/// Cancels the plan of the call `id`, if it runs. A call that is not known is ignored, as the protocol requires.
pub(super) fn cancel(
    gateway: &Gateway,
    scope: &RequestScope,
    session: &str,
    id: &RequestId,
    reason: Option<&str>,
) {
    let call = correlation_id(session, id);
    let reason = reason.filter(|reason| reason.len() <= MAX_REASON_BYTES);
    let reason = reason.unwrap_or("the client cancelled the call").to_owned();
    let planner = PlannerClient::new(gateway, scope);
    let cancelled = async move {
        let mut backoff = Backoff::default();
        for _ in 0..TRIES {
            match cancel_plans(&planner, call, &reason).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::debug!(%call, code = %error.code, "a call could not be cancelled"),
            }
            backoff.wait().await;
        }
    };
    gateway.background.spawn(cancelled.instrument(scope.span().clone()));
}

/// Cancels the plans of a call. Returns whether there are any.
async fn cancel_plans(
    planner: &PlannerClient,
    call: CorrelationId,
    reason: &str,
) -> Result<bool, OrchestratorError> {
    let filter = ListPlansRequest { correlation_id: Some(call.to_string()), ..Default::default() };
    let plans = planner.list(filter).await?.plans;
    for plan in &plans {
        if Option::<PlanStatus>::from(plan.status()).is_some_and(PlanStatus::is_terminal) {
            continue;
        }
        let request = CancelPlanRequest {
            plan_id: plan.plan_id.clone(),
            reason: reason.to_owned(),
            ..Default::default()
        };
        match planner.cancel(request).await {
            Err(error) if error.code.is_retryable() => return Err(error),
            // It has ended meanwhile.
            Ok(()) | Err(_) => {}
        }
    }
    Ok(!plans.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_sessions_have_correlation_ids_of_their_own() {
        let id = |value: &str| RequestId::of(&phoenix_domain::json::Json::parse(value).unwrap()).unwrap();
        let one = correlation_id("a", &id("1"));
        assert_eq!(one, correlation_id("a", &id("1")));
        for other in
            [correlation_id("b", &id("1")), correlation_id("a", &id("\"1\"")), correlation_id("a", &id("2"))]
        {
            assert_ne!(one, other);
        }
    }
}
