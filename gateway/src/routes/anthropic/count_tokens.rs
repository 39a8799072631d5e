//! `POST /v1/messages/count_tokens`.

use axum::{Json, extract::State};

use crate::{
    clients::Gateway,
    extract::{ConversationBody, JsonObject},
    problem::Failure,
    wire::anthropic::{request::TokenCountBody, tokens::TokenCount},
};

/// Path of the endpoint.
pub(crate) const PATH: &str = "/v1/messages/count_tokens";

/// Count the tokens of a message
///
/// An estimate, rather too high than too low: a token for every three bytes of text, 1600 for an image, and the instructions that a
/// provider adds for tools. No provider is asked, and no plan is made.
#[utoipa::path(
    post, path = "/v1/messages/count_tokens", tag = "anthropic", request_body = TokenCountBody,
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 200, body = TokenCount, description = "The estimate"))
)]
pub(crate) async fn count_tokens(
    State(gateway): State<Gateway>,
    JsonObject(body): ConversationBody<TokenCountBody>,
) -> Result<Json<TokenCount>, Failure> {
    let conversation = body.into_conversation(&gateway.models)?;
    Ok(Json(TokenCount::of(conversation)?))
}
