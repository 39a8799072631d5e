//! Requests about dead letters, decoded.

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

use super::{named, page_size};
use crate::{
    redrive::RedriveWish,
    store::{DeadLetterFilter, DeadLetterQuery, SweepAction},
    sweep::{RATES, SweepWish},
};

/// Plans that a sweep redrives each second when nobody says how many.
const DEFAULT_RATE: f64 = 10.0;

/// The most dead letters of one sweep: they are marked in one commit, which everybody waits for.
const LARGEST_SWEEP: u32 = 10_000;

pub(super) fn redrive_wish(
    request: RedrivePlanRequest,
    by: CorrelationId,
) -> Result<RedriveWish, InvalidField> {
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
    Ok(RedriveWish {
        plan_id: id("plan_id", &plan_id)?,
        inputs: inputs.collect::<Result<BTreeMap<_, _>, InvalidField>>()?,
        reason,
        continue_on_disconnect,
        key: named(idempotency_key, idempotency_digest, by)?,
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

pub(super) fn redrive_sweep(
    request: RedriveDeadLettersRequest,
    by: CorrelationId,
) -> Result<SweepWish, InvalidField> {
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
    Ok(SweepWish {
        action: SweepAction::Redrive { rate },
        filter: filter(wanted)?,
        limit: sweep_size(limit)?,
        reason,
        key: named(idempotency_key, idempotency_digest, by)?,
    })
}

pub(super) fn discard_sweep(
    request: DiscardDeadLettersRequest,
    by: CorrelationId,
) -> Result<SweepWish, InvalidField> {
    let DiscardDeadLettersRequest { filter: wanted, limit, reason, idempotency_key, idempotency_digest } =
        request;
    Ok(SweepWish {
        action: SweepAction::Discard,
        filter: filter(wanted)?,
        limit: sweep_size(limit)?,
        reason,
        key: named(idempotency_key, idempotency_digest, by)?,
    })
}

fn filter(wanted: Option<planner::DeadLetterFilter>) -> Result<DeadLetterFilter, InvalidField> {
    let planner::DeadLetterFilter { agent, code, error_class, plan_id, correlation_id, since } =
        wanted.unwrap_or_default();
    Ok(DeadLetterFilter {
        agent: optional("agent", &agent)?,
        code: of_table("code", &code, OrchestratorErrorCode::from_name)?,
        error_class: of_table("error_class", &error_class, FailureClass::from_name)?,
        plan_id: optional("plan_id", &plan_id)?,
        correlation_id: optional("correlation_id", &correlation_id)?,
        since: timestamp("since", since)?,
    })
}

fn of_table<T>(
    field: &'static str,
    name: &str,
    find: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, InvalidField> {
    if name.is_empty() {
        return Ok(None);
    }
    find(name).map(Some).ok_or_else(|| InvalidField::new(field, "is none that there is"))
}

fn sweep_size(limit: u32) -> Result<u32, InvalidField> {
    match limit {
        0 => Ok(LARGEST_SWEEP),
        1..=LARGEST_SWEEP => Ok(limit),
        _ => Err(InvalidField::new("limit", format!("must be at most {LARGEST_SWEEP}"))),
    }
}
