//! Conversions of wire requests into planner requests.

use std::time::Duration;

use jiff::Timestamp;
use phoenix_domain::{
    CorrelationId, OrchestratorError,
    budget::{Limits, OnBudget},
    conversation::{self, Conversation},
    json::Object,
    limits::{MAX_IDEMPOTENCY_KEY_BYTES, MAX_SEARCH_CHARS},
    plan::{MAX_DEADLINE_MS, PlanStatus},
    planning::Strategy,
    wait::not_before,
};
use phoenix_proto::{
    InvalidField, optional,
    planner::{ListPlansRequest, PlanAndExecuteRequest, PlanningStrategy},
    task_spec, timestamp,
};

use crate::{
    planning::request::{PlanRequest, Planning, WaitMode, Work},
    store::{entry::IdempotencyKey, query::PlanFilter},
};

const DEFAULT_PAGE_SIZE: u32 = 50;
const MAX_PAGE_SIZE: u32 = 500;

/// A request for a plan.
pub(super) fn plan_request(
    request: PlanAndExecuteRequest,
    wait_mode: WaitMode,
    by: CorrelationId,
) -> Result<PlanRequest, OrchestratorError> {
    let PlanAndExecuteRequest {
        message,
        context,
        agent,
        tasks,
        deadline_ms,
        continue_on_disconnect,
        idempotency_key,
        idempotency_digest,
        chat_json,
        budget,
        record_output,
        not_before: absolute,
        delay_ms,
        strategy,
        on_budget,
        with_plan: _,
    } = request;
    let planning = planning_of(strategy, false)?;
    let at = Timestamp::now();
    let not_before = not_before("", at, timestamp("not_before", absolute)?, delay_ms)?;
    let work = if tasks.is_empty() {
        let conversation = conversation(&chat_json)?;
        // A request with messages has no message; an empty one is invalid.
        let message = (!message.is_empty() || !conversation.has_messages()).then_some(message);
        Work::Chat { message, agent, conversation }
    } else if !chat_json.is_empty() {
        return Err(InvalidField::new("tasks", "and `chat_json` exclude each other").into());
    } else if message.is_empty() {
        let tasks = tasks.into_iter().enumerate();
        Work::Tasks(tasks.map(|(ordinal, task)| task_spec(at, ordinal, task)).collect::<Result<_, _>>()?)
    } else {
        return Err(InvalidField::new("tasks", "and `message` exclude each other").into());
    };
    if record_output && matches!(work, Work::Tasks(_)) {
        return Err(InvalidField::new("record_output", "is for chats only").into());
    }
    if planning != Planning::Routed && matches!(work, Work::Tasks(_)) {
        return Err(InvalidField::new("strategy", "is for chats only").into());
    }
    if deadline_ms > MAX_DEADLINE_MS {
        let problem = format!("must be at most {MAX_DEADLINE_MS}, not {deadline_ms}");
        return Err(InvalidField::new("deadline_ms", problem).into());
    }
    Ok(PlanRequest {
        work,
        planning,
        context,
        not_before,
        on_budget: known_on_budget(&on_budget)?,
        time_limit: (deadline_ms > 0).then(|| Duration::from_millis(deadline_ms)),
        budget: budget.map_or(Limits::NONE, Limits::from),
        wait_mode,
        // A caller that only waits for the result has no use for it. Others may watch the plan.
        with_output: wait_mode == WaitMode::Async || record_output,
        record_output,
        continue_on_disconnect,
        key: idempotency_key_of(idempotency_key, idempotency_digest, by)?,
    })
}

/// A request for a proposal.
pub(super) fn proposal_request(
    request: PlanAndExecuteRequest,
    by: CorrelationId,
) -> Result<PlanRequest, OrchestratorError> {
    let planning = planning_of(request.strategy, true)?;
    let plan = plan_request(request, WaitMode::Sync, by)?;
    if matches!(plan.work, Work::Tasks(_)) {
        return Err(InvalidField::new("tasks", "are proposed, and not part of the request").into());
    }
    Ok(PlanRequest { planning, ..plan })
}

/// How the tasks of a chat are found.
fn planning_of(strategy: i32, is_proposal: bool) -> Result<Planning, InvalidField> {
    let strategy = PlanningStrategy::try_from(strategy)
        .map_err(|_| InvalidField::new("strategy", format!("is unknown: {strategy}")))?;
    let strategy = match strategy {
        PlanningStrategy::Unspecified if !is_proposal => return Ok(Planning::Routed),
        PlanningStrategy::Unspecified | PlanningStrategy::Configured => {
            return Ok(Planning::Configured { is_proposal });
        }
        PlanningStrategy::Rules => Strategy::Rules,
        PlanningStrategy::Model => Strategy::Model,
        PlanningStrategy::Auto => Strategy::Auto,
    };
    Ok(Planning::Chosen { strategy, is_proposal })
}

/// What happens when a budget is used up; none when the request does not say it.
fn known_on_budget(name: &str) -> Result<Option<OnBudget>, InvalidField> {
    let unknown = || InvalidField::new("on_budget", format!("must be `fail` or `pause`, not `{name}`"));
    (!name.is_empty()).then(|| OnBudget::from_name(name).ok_or_else(unknown)).transpose()
}

/// The conversation of a chat; an empty one without text.
fn conversation(chat_json: &str) -> Result<Conversation, OrchestratorError> {
    if chat_json.is_empty() {
        return Ok(Conversation::default());
    }
    let parsed = Object::parse(chat_json);
    let mut members = parsed.map_err(|problem| InvalidField::new("chat_json", problem))?;
    let conversation = Conversation::take_from(&mut members)?;
    match members.keys().next() {
        Some(unknown) => {
            let known = conversation::MEMBERS.join(", ");
            let problem = format!("has an unknown member `{unknown}`; known are {known}");
            Err(InvalidField::new("chat_json", problem).into())
        }
        None => Ok(conversation),
    }
}

/// The idempotency key of a request, if it has one.
pub(super) fn idempotency_key_of(
    key: String,
    digest: String,
    by: CorrelationId,
) -> Result<Option<IdempotencyKey>, InvalidField> {
    for (field, text) in [("idempotency_key", &key), ("idempotency_digest", &digest)] {
        let (found, limit) = (text.len(), MAX_IDEMPOTENCY_KEY_BYTES);
        if found > limit {
            return Err(InvalidField::new(
                field,
                format!("is {found} bytes long; at most {limit} are allowed"),
            ));
        }
    }
    Ok((!key.is_empty()).then_some(IdempotencyKey { key, digest, by: Some(by) }))
}

/// The filter of a listing of plans.
pub(super) fn plan_filter(request: &ListPlansRequest) -> Result<PlanFilter, InvalidField> {
    let error_text = request.error_text.trim();
    let found = error_text.chars().count();
    if found > MAX_SEARCH_CHARS {
        let problem = format!("is {found} characters long; at most {MAX_SEARCH_CHARS} are allowed");
        return Err(InvalidField::new("error_text", problem));
    }
    let status: Option<PlanStatus> = request.status().into();
    if request.unfinished && status.is_some() {
        return Err(InvalidField::new("unfinished", "and `status` exclude each other"));
    }
    Ok(PlanFilter {
        is_unfinished: request.unfinished,
        is_oldest_first: request.oldest_first,
        error_text: (!error_text.is_empty()).then(|| error_text.to_lowercase()),
        correlation_id: optional("correlation_id", request.correlation_id.as_deref().unwrap_or_default())?,
        status,
        agent: optional("agent", &request.agent)?,
        since: timestamp("since", request.since)?,
        before: optional("page_token", &request.page_token)?,
        limit: page_size(request.page_size)?,
    })
}

/// The size of a page; 0 selects the default.
pub(super) fn page_size(size: u32) -> Result<u32, InvalidField> {
    match size {
        0 => Ok(DEFAULT_PAGE_SIZE),
        1..=MAX_PAGE_SIZE => Ok(size),
        _ => Err(InvalidField::new("page_size", format!("must be at most {MAX_PAGE_SIZE}"))),
    }
}
