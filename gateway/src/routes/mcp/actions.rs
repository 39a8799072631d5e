//! The list of tools.

use std::sync::Arc;

use axum::response::Response;
use phoenix_domain::{
    OrchestratorError,
    json::{Json, Object},
};

use super::response::{answered, refused};
use crate::{
    action_tools::ActionList,
    clients::Gateway,
    request_scope::RequestScope,
    routes::agents::described_agents,
    wire::mcp::{
        era::Era,
        message::{INVALID_PARAMS, RequestId, RpcError},
        result::ToolsResult,
        tool::{OwnTool, Tool},
    },
};

/// Tools of one page. Many clients read the first page only.
const PAGE: usize = 1000;

/// The response to `tools/list`, to a client of this era that can ask for tasks or not.
pub(super) async fn list(
    gateway: &Gateway,
    scope: &RequestScope,
    (era, has_tasks): (Era, bool),
    id: &RequestId,
    params: &Object,
) -> Response {
    let actions = match list_of_actions(gateway, scope).await {
        Ok(actions) => actions,
        Err(error) => return refused(Some(id), &error.into()),
    };
    let own = OwnTool::ALL.map(|tool| tool.describe(has_tasks));
    let tools: Vec<Tool> = own.into_iter().chain(actions.tools().iter().cloned()).collect();
    match page(&tools, params.get("cursor").and_then(Json::as_str)) {
        Ok((tools, next)) => answered(id, &ToolsResult::new(era, tools, next)),
        Err(error) => refused(Some(id), &error),
    }
}

/// The page after the tool that `cursor` names, and the cursor of the page after it.
fn page<'a>(tools: &'a [Tool], cursor: Option<&str>) -> Result<(&'a [Tool], Option<&'a str>), RpcError> {
    let start = match cursor {
        None => 0,
        Some(cursor) => {
            let last = tools.iter().position(|tool| tool.name == cursor);
            let unknown = || {
                let message = "`params.cursor` is not one of a list that this server has now; list again from the start";
                RpcError::new(INVALID_PARAMS, message)
            };
            last.ok_or_else(unknown)? + 1
        }
    };
    let rest = &tools[start..];
    let shown = &rest[..rest.len().min(PAGE)];
    let next = shown.last().filter(|_| rest.len() > PAGE).map(|tool| tool.name.as_str());
    Ok((shown, next))
}

/// The actions that are tools. While the health service is away, those that it named last.
///
/// # Errors
/// When the health service does not answer, and has not answered before.
pub(super) async fn list_of_actions(
    gateway: &Gateway,
    scope: &RequestScope,
) -> Result<Arc<ActionList>, OrchestratorError> {
    let known = &gateway.action_tools;
    if known.is_empty() {
        return Ok(Arc::default());
    }
    if let Some(fresh) = known.fresh() {
        return Ok(fresh);
    }
    match described_agents(gateway, scope).await {
        Ok(agents) => Ok(known.update(&agents)),
        Err(error) => known.newest().ok_or(error),
    }
}
