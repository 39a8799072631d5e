//! Responses with one message.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::wire::mcp::message::{self, RequestId, RpcError};

/// The response with the result of the request `id`.
pub(super) fn answered(id: &RequestId, result: &impl Serialize) -> Response {
    json(StatusCode::OK, message::answer(id, result))
}

/// The response to a request that was not understood.
pub(super) fn refused(id: Option<&RequestId>, error: &RpcError) -> Response {
    json(error.status, message::error(id, error))
}

/// A response with this message.
pub(super) fn json(status: StatusCode, message: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], message).into_response()
}
