//! Conversions of wire requests about dead letters.

use std::collections::BTreeMap;

use phoenix_domain::{CorrelationId, FailureClass, OrchestratorErrorCode};
use phoenix_proto::{
    InvalidField,
    action::json_object,
    id, optional,
    planner::{
        self, DiscardDeadLettersRequest, ListDeadLettersRequest, RedriveDeadLettersRequest,
        RedrivePlanRequest,
    },
    timestamp,
};

use crate::{
    background::bulk_redrive::{BulkRequest, RATES},
    grpc::decode::{idempotency_key_of, page_size},
    planning::request::RedriveRequest,
    store::dead_letter::{BulkAction, DeadLetterFilter, DeadLetterQuery},
};

/// Plans per second that a bulk redrive starts by default.
const DEFAULT_RATE: f64 = 10.0;

/// Maximum number of dead letters of a bulk operation: one commit marks them, and all others wait for it.
const MAX_BULK_SIZE: u32 = 10_000;

pub(super) fn redrive_request(
    request: RedrivePlanRequest,
    by: CorrelationId,
) -> Result<RedriveRequest, InvalidField> {
    let RedrivePlanRequest {
        plan_id,
        inputs_json,
        reason,
        wait: _,
        continue_on_disconnect,
        idempotency_key,
        idempotency_digest,
    } = request;
    let inputs = inputs_json.into_iter().map(|(key, input)| Ok((key, json_object("inputs_json", &input)?)));
    Ok(RedriveRequest {
        plan_id: id("plan_id", &plan_id)?,
        inputs: inputs.collect::<Result<BTreeMap<_, _>, InvalidField>>()?,
        reason,
        continue_on_disconnect,
        key: idempotency_key_of(idempotency_key, idempotency_digest, by)?,
    })
}

pub(super) fn query(request: ListDeadLettersRequest) -> Result<DeadLetterQuery, InvalidField> {
    let state = request.state().into();
    let ListDeadLettersRequest { filter: wanted, state: _, page_size: size, page_token } = request;
    Ok(DeadLetterQuery {
        filter: filter(wanted)?,
        state,
        before: optional("page_token", &page_token)?,
        limit: page_size(size)?,
    })
}

pub(super) fn bulk_redrive(
    request: RedriveDeadLettersRequest,
    by: CorrelationId,
) -> Result<BulkRequest, InvalidField> {
    let RedriveDeadLettersRequest {
        filter: wanted,
        rate_per_second,
        limit,
        reason,
        idempotency_key,
        idempotency_digest,
    } = request;
    let rate = if rate_per_second == 0.0 { DEFAULT_RATE } else { rate_per_second };
    if !RATES.contains(&rate) {
        let problem = format!("must be from {} to {}", RATES.start(), RATES.end());
        return Err(InvalidField::new("rate_per_second", problem));
    }
    Ok(BulkRequest {
        action: BulkAction::Redrive { rate },
        filter: filter(wanted)?,
        limit: bulk_size(limit)?,
        reason,
        key: idempotency_key_of(idempotency_key, idempotency_digest, by)?,
    })
}

pub(super) fn bulk_discard(
    request: DiscardDeadLettersRequest,
    by: CorrelationId,
) -> Result<BulkRequest, InvalidField> {
    let DiscardDeadLettersRequest { filter: wanted, limit, reason, idempotency_key, idempotency_digest } =
        request;
    Ok(BulkRequest {
        action: BulkAction::Discard,
        filter: filter(wanted)?,
        limit: bulk_size(limit)?,
        reason,
        key: idempotency_key_of(idempotency_key, idempotency_digest, by)?,
    })
}

fn filter(wanted: Option<planner::DeadLetterFilter>) -> Result<DeadLetterFilter, InvalidField> {
    let planner::DeadLetterFilter { agent, code, error_class, plan_id, correlation_id, since } =
        wanted.unwrap_or_default();
    Ok(DeadLetterFilter {
        agent: optional("agent", &agent)?,
        code: named_value("code", &code, OrchestratorErrorCode::from_name)?,
        error_class: named_value("error_class", &error_class, FailureClass::from_name)?,
        plan_id: optional("plan_id", &plan_id)?,
        correlation_id: optional("correlation_id", &correlation_id)?,
        since: timestamp("since", since)?,
    })
}

fn named_value<T>(
    field: &'static str,
    name: &str,
    find: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, InvalidField> {
    if name.is_empty() {
        return Ok(None);
    }
    find(name).map(Some).ok_or_else(|| InvalidField::new(field, "is none that there is"))
}

fn bulk_size(limit: u32) -> Result<u32, InvalidField> {
    match limit {
        0 => Ok(MAX_BULK_SIZE),
        1..=MAX_BULK_SIZE => Ok(limit),
        _ => Err(InvalidField::new("limit", format!("must be at most {MAX_BULK_SIZE}"))),
    }
}
