//! Dead letters: `/api/v1/dead-letters`. Tasks that failed for good, and what is to become of many of them at once.

mod filter;

use axum::{
    Json,
    extract::{Extension, State},
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use phoenix_domain::{
    BulkRedriveId, CorrelationId, OrchestratorError, PlanId, TaskId, dead_letter::DeadLetterState,
};
use phoenix_proto::{
    InvalidField, id, optional,
    planner::{
        self, DiscardDeadLettersRequest, DiscardDeadLettersResponse, ListDeadLettersRequest,
        ListDeadLettersResponse, RedriveDeadLettersRequest, RedriveDeadLettersResponse,
    },
    required, required_timestamp,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    openapi::schemas,
    plans::view::{as_text, error_body, states},
};
use crate::{
    calls::{Plans, unexpected},
    correlation::Scope,
    delivery::{Key, Operation},
    extract::JsonObject,
    members::{Members, Whole},
    peers::Gateway,
    problem::{ErrorBody, Failure},
    query::Query,
};
use filter::DeadLetterFilterV1;

/// The most dead letters that one request is about, and how many it is about when it does not say.
const LARGEST_SWEEP: u64 = 10_000;

/// Plans that are redriven each second when the request does not say how many.
const DEFAULT_RATE: f64 = 10.0;

/// How many dead letters a request is about.
type Limit = Whole<1, LARGEST_SWEEP>;

/// One page of dead letters.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeadLetterPageV1 {
    /// Newest first.
    dead_letters: Vec<DeadLetterV1>,
    /// `page_token` of the next page; null on the last.
    #[schema(required)]
    next_page_token: Option<String>,
}

/// A task that failed for good.
#[derive(Debug, Serialize, ToSchema)]
struct DeadLetterV1 {
    /// Its plan.
    #[schema(value_type = String, format = Uuid)]
    plan_id: PlanId,
    /// The request that made the plan.
    #[schema(value_type = String, format = Uuid)]
    correlation_id: CorrelationId,
    /// The task.
    #[schema(value_type = String, format = Uuid)]
    task_id: TaskId,
    /// The task's name inside its plan; a chat's only task is `chat`.
    #[schema(examples("status"))]
    key: String,
    /// Who was to do it.
    #[schema(examples("git_agent"))]
    agent: String,
    /// What was to be done.
    action: String,
    /// Why it was not.
    error: ErrorBody,
    /// How often it was tried; 0 of a task that was refused without a process.
    attempts: u32,
    /// When it failed for good.
    #[schema(value_type = String, format = DateTime)]
    dead_lettered_at: Timestamp,
    /// What has become of it.
    #[schema(schema_with = dead_letter_states)]
    #[serde(serialize_with = "as_text")]
    state: DeadLetterState,
    /// Who decided that; null while it is open.
    #[schema(required)]
    settled: Option<SettledV1>,
}

/// The decision about a dead letter.
#[derive(Debug, Serialize, ToSchema)]
struct SettledV1 {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// By which request: whoever has the token may decide, and nobody has a name.
    #[schema(value_type = String, format = Uuid)]
    correlation_id: CorrelationId,
    /// Why, in their words.
    #[schema(required)]
    reason: Option<String>,
    /// The plan in which the task is tried again; null of a discarded one.
    #[schema(value_type = Option<String>, format = Uuid, required)]
    redriven_as: Option<PlanId>,
}

/// Which dead letters to redrive, and how fast. Unknown fields are refused.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RedriveDeadLettersV1 {
    /// Which are meant; `{}` means all that are open.
    #[schema(value_type = DeadLetterFilterV1)]
    filter: Members<DeadLetterFilterV1>,
    /// So many plans each second, at most.
    #[serde(skip_serializing_if = "is_default_rate")]
    #[schema(minimum = 0.001, maximum = 1000, default = 10)]
    rate_per_second: Option<f64>,
    /// At most so many dead letters, the oldest first.
    #[serde(skip_serializing_if = "is_default_limit")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 10_000, default = 10_000)]
    limit: Option<Limit>,
    /// One sentence for those who read the journal later: at most 1024 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1024)]
    reason: Option<String>,
}

/// A redrive of many dead letters, which goes on in the background.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RedriveBegunV1 {
    /// Its name.
    #[schema(value_type = String, format = Uuid)]
    sweep_id: BulkRedriveId,
    /// How many dead letters will be redriven.
    selected: u64,
    /// The request that began it: `GET /api/v1/plans?correlation_id=…` lists the new plans.
    #[schema(value_type = String, format = Uuid)]
    correlation_id: CorrelationId,
}

/// Which dead letters to discard. Unknown fields are refused.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiscardDeadLettersV1 {
    /// Which are meant; `{}` means all that are open.
    #[schema(value_type = DeadLetterFilterV1)]
    filter: Members<DeadLetterFilterV1>,
    /// At most so many, the oldest first.
    #[serde(skip_serializing_if = "is_default_limit")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 10_000, default = 10_000)]
    limit: Option<Limit>,
    /// Why they can be done without: at most 1024 bytes, not blank.
    #[schema(schema_with = schemas::reason)]
    reason: String,
}

/// What was discarded.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DiscardedV1 {
    /// The discard's name.
    #[schema(value_type = String, format = Uuid)]
    sweep_id: BulkRedriveId,
    /// How many dead letters were discarded.
    discarded: u64,
    /// The request that discarded them.
    #[schema(value_type = String, format = Uuid)]
    correlation_id: CorrelationId,
}

/// Dead letters, newest first
///
/// Tasks that failed for good. Each stays `open` until it is redriven or discarded.
#[utoipa::path(
    get, path = "/api/v1/dead-letters", tag = "dead letters",
    responses((status = 200, body = DeadLetterPageV1, description = "One page of dead letters"))
)]
pub(crate) async fn list_dead_letters(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<Scope>,
    uri: Uri,
) -> Result<Json<DeadLetterPageV1>, Failure> {
    let page = Plans::new(&gateway, &scope).dead_letters(query(&uri)?).await?;
    let ListDeadLettersResponse { dead_letters, next_page_token } = page;
    let dead_letters = dead_letters.into_iter().map(DeadLetterV1::try_from).collect::<Result<_, _>>();
    Ok(Json(DeadLetterPageV1 {
        dead_letters: dead_letters.map_err(|_| unexpected())?,
        next_page_token: Some(next_page_token).filter(|token| !token.is_empty()),
    }))
}

fn query(uri: &Uri) -> Result<ListDeadLettersRequest, OrchestratorError> {
    let query = Query::of(uri, &[filter::FIELDS, &["state", "page_size", "page_token"]].concat())?;
    let state = query.get("state").map(|name| {
        DeadLetterState::from_name(name)
            .ok_or_else(|| OrchestratorError::invalid("state", "must be `open`, `redriven` or `discarded`"))
    });
    Ok(ListDeadLettersRequest {
        filter: Some(filter::read("", |name| query.get(name))?),
        state: state.transpose()?.map_or(planner::DeadLetterState::Open, Into::into).into(),
        page_size: query.page_size()?,
        page_token: query.get("page_token").unwrap_or_default().to_owned(),
    })
}

/// Redrive many dead letters
///
/// Their plans are redriven one after the other, as by `POST /api/v1/plans/{plan_id}:redrive`, in the background and at the
/// rate that is given, also through a restart. Plans that are redriven or discarded by somebody else meanwhile are left out.
#[utoipa::path(
    post, path = "/api/v1/dead-letters:redrive", tag = "dead letters", request_body = RedriveDeadLettersV1,
    responses((
        status = 202, body = RedriveBegunV1, description = "They will be redriven",
        headers(("Location" = String, description = "Where the new plans are")),
    ))
)]
pub(crate) async fn redrive_dead_letters(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<Scope>,
    key: Key,
    JsonObject(request): JsonObject<RedriveDeadLettersV1>,
) -> Result<Response, Failure> {
    let named = key.name(&Operation::new("POST /api/v1/dead-letters:redrive"), &request);
    let RedriveDeadLettersV1 { filter: Members(filter), rate_per_second, limit, reason } = request;
    // What is 0 on the wire is the planner's choice.
    if rate_per_second == Some(0.0) {
        return Err(OrchestratorError::invalid("rate_per_second", "must be from 0.001 to 1000").into());
    }
    let request = RedriveDeadLettersRequest {
        filter: Some(filter.into_wire()?),
        rate_per_second: rate_per_second.unwrap_or_default(),
        limit: read_limit(limit),
        reason: reason.unwrap_or_default(),
        idempotency_key: named.key,
        idempotency_digest: named.digest,
    };
    let begun = Plans::new(&gateway, &scope).redrive_dead_letters(request).await?;
    let begun = RedriveBegunV1::try_from(begun).map_err(|_| unexpected())?;
    let location = format!("/api/v1/plans?correlation_id={}", begun.correlation_id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(begun)).into_response())
}

/// Discard many dead letters
///
/// Nobody needs to look at them any more. Their plans and tasks stay as they are; the reason is kept with each.
#[utoipa::path(
    post, path = "/api/v1/dead-letters:discard", tag = "dead letters", request_body = DiscardDeadLettersV1,
    responses((status = 200, body = DiscardedV1, description = "They are discarded"))
)]
pub(crate) async fn discard_dead_letters(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<Scope>,
    key: Key,
    JsonObject(request): JsonObject<DiscardDeadLettersV1>,
) -> Result<Json<DiscardedV1>, Failure> {
    let named = key.name(&Operation::new("POST /api/v1/dead-letters:discard"), &request);
    let DiscardDeadLettersV1 { filter: Members(filter), limit, reason } = request;
    let request = DiscardDeadLettersRequest {
        filter: Some(filter.into_wire()?),
        limit: read_limit(limit),
        reason,
        idempotency_key: named.key,
        idempotency_digest: named.digest,
    };
    let done = Plans::new(&gateway, &scope).discard_dead_letters(request).await?;
    Ok(Json(DiscardedV1::try_from(done).map_err(|_| unexpected())?))
}

/// As the planner is told: 0 is its own choice, the largest.
fn read_limit(limit: Option<Limit>) -> u32 {
    limit.map_or(0, |limit| u32::try_from(limit.get()).unwrap_or(u32::MAX))
}

#[expect(clippy::ref_option, reason = "serde hands fields over by reference")]
fn is_default_limit(limit: &Option<Limit>) -> bool {
    limit.is_none_or(|limit| limit.get() == LARGEST_SWEEP)
}

#[expect(clippy::ref_option, reason = "serde hands fields over by reference")]
fn is_default_rate(rate: &Option<f64>) -> bool {
    rate.is_none_or(|rate| rate.to_bits() == DEFAULT_RATE.to_bits())
}

fn dead_letter_states() -> utoipa::openapi::schema::Object {
    states("What has become of it.", DeadLetterState::ALL.iter().map(|state| state.as_str()))
}

impl TryFrom<planner::DeadLetter> for DeadLetterV1 {
    type Error = InvalidField;

    fn try_from(wire: planner::DeadLetter) -> Result<Self, InvalidField> {
        let state = wire.state().into();
        let planner::DeadLetter {
            plan_id,
            correlation_id,
            task_id,
            key,
            agent,
            action,
            error,
            attempts,
            dead_lettered_at,
            state: _,
            settled,
        } = wire;
        Ok(Self {
            plan_id: id("plan_id", &plan_id)?,
            correlation_id: id("correlation_id", &correlation_id)?,
            task_id: id("task_id", &task_id)?,
            key,
            agent,
            action,
            error: error_body(required("error", error)?),
            attempts,
            dead_lettered_at: required_timestamp("dead_lettered_at", dead_lettered_at)?,
            state,
            settled: settled.map(SettledV1::try_from).transpose()?,
        })
    }
}

impl TryFrom<planner::dead_letter::Settled> for SettledV1 {
    type Error = InvalidField;

    fn try_from(wire: planner::dead_letter::Settled) -> Result<Self, InvalidField> {
        let planner::dead_letter::Settled { at, correlation_id, reason, redriven_as } = wire;
        Ok(Self {
            at: required_timestamp("at", at)?,
            correlation_id: id("correlation_id", &correlation_id)?,
            reason: Some(reason).filter(|reason| !reason.is_empty()),
            redriven_as: optional("redriven_as", &redriven_as)?,
        })
    }
}

impl TryFrom<RedriveDeadLettersResponse> for RedriveBegunV1 {
    type Error = InvalidField;

    fn try_from(wire: RedriveDeadLettersResponse) -> Result<Self, InvalidField> {
        let RedriveDeadLettersResponse { sweep_id, selected, correlation_id, replay_of: _ } = wire;
        let (sweep_id, correlation_id) = (id("sweep_id", &sweep_id)?, id("correlation_id", &correlation_id)?);
        Ok(Self { sweep_id, selected, correlation_id })
    }
}

impl TryFrom<DiscardDeadLettersResponse> for DiscardedV1 {
    type Error = InvalidField;

    fn try_from(wire: DiscardDeadLettersResponse) -> Result<Self, InvalidField> {
        let DiscardDeadLettersResponse { sweep_id, discarded, correlation_id, replay_of: _ } = wire;
        let (sweep_id, correlation_id) = (id("sweep_id", &sweep_id)?, id("correlation_id", &correlation_id)?);
        Ok(Self { sweep_id, discarded, correlation_id })
    }
}
