//! `/mcp`: Phoenix as a server of the Model Context Protocol, over streamable HTTP.
//!
//! Every message is a `POST`. Nothing is kept between two messages, so any gateway can take any of them: the session of a legacy
//! client is a number that only serves to find the plan of a call that it cancels. See `docs/mcp.md`.

mod actions;
mod call;
mod cancel;
mod context;
mod legacy_tasks;
mod messages;
mod own_tools;
mod response;
mod running_call;
mod tasks;

use axum::{
    extract::{Extension, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use phoenix_domain::json::{Json, Object};
use uuid::Uuid;

use self::{
    context::{CallContext, TaskUse},
    response::{answered, refused},
};
use crate::{
    accept,
    clients::Gateway,
    extract::JsonObject,
    header_names::MCP_SESSION_ID,
    request_scope::RequestScope,
    wire::{
        mcp::{
            era::Era,
            message::{METHOD_NOT_FOUND, Message, Notification, Request, RequestId, RpcError},
            result::{DiscoverResult, InitializeResult},
            task_support,
        },
        members_body::AnyMembers,
    },
};

/// Path of the endpoint.
pub(crate) const PATH: &str = "/mcp";

/// Takes one message.
pub(crate) async fn post_message(
    State(gateway): State<Gateway>,
    Extension(scope): Extension<RequestScope>,
    headers: HeaderMap,
    JsonObject(body): JsonObject<AnyMembers>,
) -> Response {
    match Message::read(body) {
        Ok(Message::Request(request)) => respond(&gateway, &scope, &headers, request).await,
        Ok(Message::Notification(notification)) => notified(&gateway, &scope, &headers, &notification),
        // This server asks its clients for nothing.
        Ok(Message::Response) => StatusCode::ACCEPTED.into_response(),
        Err(rejected) => refused(rejected.id.as_ref(), &rejected.error),
    }
}

/// The response to a request.
async fn respond(gateway: &Gateway, scope: &RequestScope, headers: &HeaderMap, request: Request) -> Response {
    let Request { id, method, params } = request;
    let era = match Era::of(headers, &method, &params) {
        Ok(era) => era,
        Err(error) => return refused(Some(&id), &error),
    };
    match (era, method.as_str()) {
        (Era::Legacy, "initialize") => initialized(&id, &params),
        (Era::Legacy, "ping") => answered(&id, &Object::new()),
        (Era::Modern, "server/discover") => answered(&id, &DiscoverResult::new()),
        (_, "tools/list") => {
            let has_tasks = task_support::are_offered(headers);
            actions::list(gateway, scope, (era, has_tasks), &id, &params).await
        }
        (_, "tools/call") => {
            let tasks = match task_use(era, headers, &params) {
                Ok(tasks) => tasks,
                Err(error) => return refused(Some(&id), &error),
            };
            // A task is cancelled by its own identifier.
            if let (Era::Legacy, TaskUse::No, Some(session)) = (era, tasks, session(headers)) {
                cancel::identify(scope, headers, session, &id);
            }
            let streams = accept::prefers_events(headers);
            call::call(CallContext { gateway, scope, era, id, streams, tasks }, params).await
        }
        (Era::Modern, "tasks/get" | "tasks/update" | "tasks/cancel") => {
            let context = CallContext { gateway, scope, era, id, streams: false, tasks: TaskUse::Taken };
            tasks::respond(&context, &method, &params).await
        }
        (Era::Legacy, "tasks/get" | "tasks/result" | "tasks/list" | "tasks/cancel") => {
            let streams = accept::prefers_events(headers);
            let context = CallContext { gateway, scope, era, id, streams, tasks: TaskUse::Asked };
            legacy_tasks::respond(context, &method, &params).await
        }
        _ => refused(Some(&id), &unknown_method(era, &method)),
    }
}

/// Whether a call is answered by a task.
fn task_use(era: Era, headers: &HeaderMap, params: &Object) -> Result<TaskUse, RpcError> {
    Ok(match era {
        Era::Modern if task_support::is_declared(params) => TaskUse::Taken,
        Era::Legacy if task_support::are_offered(headers) && task_support::is_asked_for(params)? => {
            TaskUse::Asked
        }
        Era::Modern | Era::Legacy => TaskUse::No,
    })
}

/// The response to a notification.
fn notified(gateway: &Gateway, scope: &RequestScope, headers: &HeaderMap, sent: &Notification) -> Response {
    if let Err(error) = Era::check_notification(headers) {
        return refused(None, &error);
    }
    let cancelled = sent.params.get("requestId").and_then(RequestId::of);
    if let ("notifications/cancelled", Some(session), Some(id)) =
        (sent.method.as_str(), session(headers), cancelled)
    {
        let reason = sent.params.get("reason").and_then(Json::as_str);
        cancel::cancel(gateway, scope, session, &id, reason);
    }
    StatusCode::ACCEPTED.into_response()
}

/// The session that a legacy client names.
fn session(headers: &HeaderMap) -> Option<&str> {
    headers.get(MCP_SESSION_ID)?.to_str().ok().filter(|session| !session.is_empty())
}

/// The response to the handshake, with a new session.
fn initialized(id: &RequestId, params: &Object) -> Response {
    let result = InitializeResult::of(params.get("protocolVersion").and_then(Json::as_str));
    ([(MCP_SESSION_ID, Uuid::new_v4().to_string())], answered(id, &result)).into_response()
}

fn unknown_method(era: Era, method: &str) -> RpcError {
    let method = crate::decode_error::shorten(method);
    let known = match era {
        Era::Legacy => {
            "initialize, ping, tools/list, tools/call, tasks/get, tasks/result, tasks/list, tasks/cancel"
        }
        Era::Modern => "server/discover, tools/list, tools/call, tasks/get, tasks/update, tasks/cancel",
    };
    let message = format!("there is no method `{method}`; there are {known}");
    RpcError::new(METHOD_NOT_FOUND, message).with_status(era.status(StatusCode::NOT_FOUND))
}
