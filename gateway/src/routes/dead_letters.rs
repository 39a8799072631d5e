//! Dead letters: `/api/v1/dead-letters`.

use axum::{
    Json,
    extract::{Extension, State},
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use phoenix_domain::{OrchestratorError, dead_letter::DeadLetterState};
use phoenix_proto::planner::{
    self, DiscardDeadLettersRequest, ListDeadLettersRequest, ListDeadLettersResponse,
    RedriveDeadLettersRequest,
};

use crate::{
    clients::Gateway,
    delivery::{KeyHeader, Operation},
    extract::JsonObject,
    members::Members,
    planner_client::{PlannerClient, unexpected_response},
    problem::Failure,
    query::Query,
    request_scope::RequestScope,
    wire::{
        dead_letter::{
            DeadLetterPageV1, DeadLetterV1, DiscardDeadLettersV1, DiscardedV1, Limit, RedriveBegunV1,
            RedriveDeadLettersV1,
        },
        dead_letter_filter as filter,
    },
};

/// List dead letters, newest first
///
/// Tasks that failed for good. Each stays `open` until it is redriven or discarded.
#[utoipa::path(
    get, path = "/api/v1/dead-letters", tag = "dead letters",
    responses((status = 200, body = DeadLetterPageV1, description = "One page of dead letters"))
)]
pub(crate) async fn list_dead_letters(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    uri: Uri,
) -> Result<Json<DeadLetterPageV1>, Failure> {
    let page = PlannerClient::new(&gateway, &scope).dead_letters(query(&uri)?).await?;
    let ListDeadLettersResponse { dead_letters, next_page_token } = page;
    let dead_letters = dead_letters.into_iter().map(DeadLetterV1::try_from).collect::<Result<_, _>>();
    Ok(Json(DeadLetterPageV1 {
        dead_letters: dead_letters.map_err(|_| unexpected_response())?,
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
        filter: Some(filter::parse("", |name| query.get(name))?),
        state: state.transpose()?.map_or(planner::DeadLetterState::Open, Into::into).into(),
        page_size: query.page_size()?,
        page_token: query.get("page_token").unwrap_or_default().to_owned(),
    })
}

/// Redrive many dead letters
///
/// Redrives their plans one after the other, as `POST /api/v1/plans/{plan_id}:redrive` does, in the background, at the given
/// rate, and through restarts. Plans that another request redrives or discards meanwhile are skipped.
#[utoipa::path(
    post, path = "/api/v1/dead-letters:redrive", tag = "dead letters", request_body = RedriveDeadLettersV1,
    responses((
        status = 202, body = RedriveBegunV1, description = "The redrive is durable and runs in the background",
        headers(("Location" = String, description = "Path of the new plans")),
    ))
)]
pub(crate) async fn redrive_dead_letters(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    key: KeyHeader,
    JsonObject(request): JsonObject<RedriveDeadLettersV1>,
) -> Result<Response, Failure> {
    let key = key.key_of(&Operation::new("POST /api/v1/dead-letters:redrive"), &request);
    let RedriveDeadLettersV1 { filter: Members(filter), rate_per_second, limit, reason } = request;
    // In the contract 0 stands for the default.
    if rate_per_second == Some(0.0) {
        return Err(OrchestratorError::invalid("rate_per_second", "must be from 0.001 to 1000").into());
    }
    let request = RedriveDeadLettersRequest {
        filter: Some(filter.into_wire()?),
        rate_per_second: rate_per_second.unwrap_or_default(),
        limit: encode_limit(limit),
        reason: reason.unwrap_or_default(),
        idempotency_key: key.key,
        idempotency_digest: key.digest,
    };
    let begun = PlannerClient::new(&gateway, &scope).redrive_dead_letters(request).await?;
    let begun = RedriveBegunV1::try_from(begun).map_err(|_| unexpected_response())?;
    let location = format!("/api/v1/plans?correlation_id={}", begun.correlation_id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(begun)).into_response())
}

/// Discard many dead letters
///
/// Marks them as handled. Their plans and tasks stay as they are; the reason is kept with each.
#[utoipa::path(
    post, path = "/api/v1/dead-letters:discard", tag = "dead letters", request_body = DiscardDeadLettersV1,
    responses((status = 200, body = DiscardedV1, description = "The dead letters are discarded"))
)]
pub(crate) async fn discard_dead_letters(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    key: KeyHeader,
    JsonObject(request): JsonObject<DiscardDeadLettersV1>,
) -> Result<Json<DiscardedV1>, Failure> {
    let key = key.key_of(&Operation::new("POST /api/v1/dead-letters:discard"), &request);
    let DiscardDeadLettersV1 { filter: Members(filter), limit, reason } = request;
    let request = DiscardDeadLettersRequest {
        filter: Some(filter.into_wire()?),
        limit: encode_limit(limit),
        reason,
        idempotency_key: key.key,
        idempotency_digest: key.digest,
    };
    let done = PlannerClient::new(&gateway, &scope).discard_dead_letters(request).await?;
    Ok(Json(DiscardedV1::try_from(done).map_err(|_| unexpected_response())?))
}

/// The limit in the contract, where 0 stands for the default.
fn encode_limit(limit: Option<Limit>) -> u32 {
    limit.map_or(0, |limit| u32::try_from(limit.get()).unwrap_or(u32::MAX))
}
