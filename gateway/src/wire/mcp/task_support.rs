//! What clients and this server say about their use of tasks.

use axum::http::{HeaderMap, StatusCode};
use phoenix_domain::{
    PlanId,
    json::{Json, Object},
};
use serde::Serialize;

use super::{
    era::CAPABILITIES_MEMBER,
    message::{INVALID_PARAMS, METHOD_NOT_FOUND, RpcError},
    tool::OwnTool,
};
use crate::header_names::MCP_PROTOCOL_VERSION;

/// Name of the extension.
const EXTENSION: &str = "io.modelcontextprotocol/tasks";

/// The client has not declared a capability that its request needs.
const MISSING_CAPABILITY: i32 = -32021;

/// The version whose clients ask for tasks.
pub(crate) const LEGACY_VERSION: &str = "2025-11-25";

/// The extensions of a client or a server that speaks of tasks.
pub(crate) fn extensions() -> Object {
    [(EXTENSION.to_owned(), Object::new().into())].into_iter().collect()
}

/// Whether the client of a request with these parameters takes tasks.
pub(crate) fn is_declared(params: &Object) -> bool {
    let capabilities = params.get("_meta").map(|meta| &meta[CAPABILITIES_MEMBER]);
    capabilities.is_some_and(|declared| declared["extensions"][EXTENSION].as_object().is_some())
}

/// The error of a request about a task by a client that takes none.
pub(crate) fn not_declared() -> RpcError {
    let required: Object = [("extensions".to_owned(), extensions().into())].into_iter().collect();
    let data: Object = [("requiredCapabilities".to_owned(), Json::from(required))].into_iter().collect();
    let message =
        format!("declare the extension `{EXTENSION}` in the capabilities of the client to use tasks");
    RpcError::new(MISSING_CAPABILITY, message).with_status(StatusCode::BAD_REQUEST).with_data(data)
}

/// Whether the handshake of the client that sends these headers has agreed to [`LEGACY_VERSION`].
pub(crate) fn are_offered(headers: &HeaderMap) -> bool {
    headers.get(MCP_PROTOCOL_VERSION).is_some_and(|version| version == LEGACY_VERSION)
}

/// Whether a call asks for a task. How long it is kept is up to the server.
///
/// # Errors
/// When what it asks for is not valid.
pub(crate) fn is_asked_for(params: &Object) -> Result<bool, RpcError> {
    let task = match params.get("task") {
        None | Some(Json::Null) => return Ok(false),
        Some(task) => task.as_object().ok_or_else(|| invalid("`params.task` must be an object"))?,
    };
    match task.get("ttl") {
        None | Some(Json::Null | Json::Number(_)) => Ok(true),
        Some(_) => Err(invalid("`params.task.ttl` must be a number of milliseconds")),
    }
}

/// What the server offers to clients of [`LEGACY_VERSION`].
pub(crate) fn capability() -> Object {
    let member = |name: &str, value: Object| Object::from_iter([(name.to_owned(), Json::from(value))]);
    let mut offered = member("requests", member("tools", member("call", Object::new())));
    offered.extend(member("list", Object::new()));
    offered.extend(member("cancel", Object::new()));
    offered
}

/// The error of a call that cannot be a task.
pub(crate) fn no_task_of(tool: &str) -> RpcError {
    let (tool, task) = (crate::decode_error::shorten(tool), OwnTool::TASK.name());
    let message = format!("calls of `{tool}` cannot be tasks; those of `{task}` can");
    RpcError::new(METHOD_NOT_FOUND, message).with_status(StatusCode::OK)
}

fn invalid(message: &str) -> RpcError {
    RpcError::new(INVALID_PARAMS, message).with_status(StatusCode::OK)
}

/// The task that a result belongs to.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RelatedTask {
    task_id: PlanId,
}

impl RelatedTask {
    /// The task `task_id`.
    pub(crate) const fn new(task_id: PlanId) -> Self {
        Self { task_id }
    }
}
