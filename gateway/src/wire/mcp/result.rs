//! Results of the methods.

use phoenix_domain::{
    CorrelationId, OrchestratorError, PlanId,
    json::{Json, Object},
};
use phoenix_proto::planner::PlanAndExecuteResponse;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{
    era::{Era, LEGACY, MODERN, versions},
    task_support::{self, RelatedTask},
    tool::Tool,
};
use crate::wire::{error::ErrorBody, usage::UsageV1};

/// Member of a request's `_meta` that makes a call safe to send again.
pub(crate) const IDEMPOTENCY_KEY: &str = "phoenix/idempotency_key";

/// How long a client may keep what the server says about itself.
const DISCOVERY_TTL_MS: u32 = 3_600_000;

/// How long a client may keep the list of tools.
const TOOLS_TTL_MS: u32 = 60_000;

/// What only this caller may keep.
const PRIVATE: &str = "private";

const INSTRUCTIONS: &str = "Phoenix runs agents as durable plans. `list_agents` shows the agents and their actions. `chat` sends a \
    message to an agent. `run_plan` runs several actions as a graph, in which `{{tasks.KEY.output}}` stands for the output of \
    another task. Every call is a plan: `get_plan` shows what happened, also after a failure, and `cancel_plan` stops it.";

/// Name and version of the server.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Implementation {
    name: &'static str,
    title: &'static str,
    version: &'static str,
}

const IMPLEMENTATION: Implementation =
    Implementation { name: "phoenix", title: "Phoenix Orchestrator", version: env!("CARGO_PKG_VERSION") };

/// What the server offers: tools, and tasks, which are an extension where there is no handshake.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Capabilities {
    tools: Object,
    #[serde(skip_serializing_if = "Option::is_none")]
    tasks: Option<Object>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extensions: Option<Object>,
}

/// The result of `initialize`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InitializeResult {
    protocol_version: &'static str,
    capabilities: Capabilities,
    server_info: Implementation,
    instructions: &'static str,
}

impl InitializeResult {
    /// The result for a client that asks for `version`: that version, or the newest one with a handshake.
    pub(crate) fn of(version: Option<&str>) -> Self {
        let known = LEGACY.into_iter().find(|known| Some(*known) == version);
        let version = known.unwrap_or(LEGACY[0]);
        let tasks = (version == task_support::LEGACY_VERSION).then(task_support::capability);
        Self {
            protocol_version: version,
            capabilities: Capabilities { tasks, ..Capabilities::default() },
            server_info: IMPLEMENTATION,
            instructions: INSTRUCTIONS,
        }
    }
}

/// The result of `server/discover`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DiscoverResult {
    result_type: &'static str,
    supported_versions: Vec<&'static str>,
    capabilities: Capabilities,
    instructions: &'static str,
    ttl_ms: u32,
    cache_scope: &'static str,
    #[serde(rename = "_meta")]
    meta: ResultMeta,
}

impl DiscoverResult {
    /// What the server is.
    pub(crate) fn new() -> Self {
        debug_assert!(versions().contains(&MODERN));
        Self {
            result_type: COMPLETE,
            supported_versions: versions(),
            capabilities: Capabilities {
                extensions: Some(task_support::extensions()),
                ..Capabilities::default()
            },
            instructions: INSTRUCTIONS,
            ttl_ms: DISCOVERY_TTL_MS,
            cache_scope: PRIVATE,
            meta: ResultMeta::of(Era::Modern),
        }
    }
}

/// The result of `tools/list`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ToolsResult<'a> {
    tools: &'a [Tool],
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_scope: Option<&'static str>,
    #[serde(rename = "_meta", skip_serializing_if = "ResultMeta::is_empty")]
    meta: ResultMeta,
}

impl<'a> ToolsResult<'a> {
    /// One page of tools.
    pub(crate) fn new(era: Era, tools: &'a [Tool], next_cursor: Option<&'a str>) -> Self {
        let is_modern = era == Era::Modern;
        Self {
            tools,
            next_cursor,
            result_type: is_modern.then_some(COMPLETE),
            ttl_ms: is_modern.then_some(TOOLS_TTL_MS),
            cache_scope: is_modern.then_some(PRIVATE),
            meta: ResultMeta::of(era),
        }
    }
}

/// Type of a result that is no task.
pub(crate) const COMPLETE: &str = "complete";

/// Facts beside a result.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ResultMeta {
    #[serde(rename = "io.modelcontextprotocol/serverInfo", skip_serializing_if = "Option::is_none")]
    server_info: Option<Implementation>,
    #[serde(rename = "phoenix/plan_id", skip_serializing_if = "Option::is_none")]
    plan_id: Option<PlanId>,
    #[serde(rename = "phoenix/correlation_id", skip_serializing_if = "Option::is_none")]
    correlation_id: Option<CorrelationId>,
    #[serde(rename = "io.modelcontextprotocol/related-task", skip_serializing_if = "Option::is_none")]
    related_task: Option<RelatedTask>,
}

impl ResultMeta {
    pub(crate) fn of(era: Era) -> Self {
        Self { server_info: (era == Era::Modern).then_some(IMPLEMENTATION), ..Self::default() }
    }

    const fn is_empty(&self) -> bool {
        self.server_info.is_none()
            && self.plan_id.is_none()
            && self.correlation_id.is_none()
            && self.related_task.is_none()
    }
}

/// What a result belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    /// Era of the request.
    pub(crate) era: Era,
    /// Plan of the call, if there is one.
    pub(crate) plan_id: Option<PlanId>,
    /// Correlation id of the request.
    pub(crate) correlation_id: CorrelationId,
}

/// The result of `tools/call`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CallResult {
    content: Vec<Json>,
    structured_content: Box<RawValue>,
    #[serde(skip_serializing_if = "is_false")]
    is_error: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_type: Option<&'static str>,
    #[serde(rename = "_meta")]
    meta: ResultMeta,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields over by reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// Structured content of an output.
#[derive(Serialize)]
struct OutputContent {
    plan_id: Option<PlanId>,
    correlation_id: CorrelationId,
    /// JSON where the output is an object or an array, else text.
    output: Json,
    #[serde(skip_serializing_if = "Option::is_none")]
    finish_reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageV1>,
}

/// Structured content of an error.
#[derive(Serialize)]
struct ErrorContent {
    #[serde(skip_serializing_if = "Option::is_none")]
    plan_id: Option<PlanId>,
    correlation_id: CorrelationId,
    error: ErrorBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

impl CallResult {
    /// The output of a plan that succeeded. Content of an MCP server that is no text follows it.
    pub(crate) fn output(origin: Origin, response: PlanAndExecuteResponse) -> Self {
        let PlanAndExecuteResponse { output, finish_reason, metadata_json, .. } = response;
        let others = others(&metadata_json);
        let structured = OutputContent {
            plan_id: origin.plan_id,
            correlation_id: origin.correlation_id,
            output: as_json(&output),
            finish_reason,
            usage: UsageV1::in_metadata(&metadata_json),
        };
        let mut content = Vec::with_capacity(1 + others.len());
        if !output.is_empty() || others.is_empty() {
            content.push(text(output));
        }
        content.extend(others);
        Self::new(origin, content, raw(&structured), false)
    }

    /// A document, as the REST API has it.
    pub(crate) fn document(origin: Origin, document: &impl Serialize, is_error: bool) -> Self {
        let document = raw(document);
        Self::new(origin, vec![text(document.get().to_owned())], document, is_error)
    }

    /// A call that failed. Its text is for a model, which may correct the call.
    pub(crate) fn error(origin: Origin, error: OrchestratorError) -> Self {
        let retry_after_ms = error.retry_after.and_then(|after| u64::try_from(after.as_millis()).ok());
        let message = format!("{}: {}", error.code, error.message);
        let Origin { plan_id, correlation_id, .. } = origin;
        let structured = ErrorContent { plan_id, correlation_id, error: error.into(), retry_after_ms };
        Self::new(origin, vec![text(message)], raw(&structured), true)
    }

    /// The result of the task `task`.
    pub(crate) fn of_task(mut self, task: PlanId) -> Self {
        self.meta.related_task = Some(RelatedTask::new(task));
        self
    }

    fn new(origin: Origin, content: Vec<Json>, structured: Box<RawValue>, is_error: bool) -> Self {
        let Origin { era, plan_id, correlation_id } = origin;
        let meta = ResultMeta { plan_id, correlation_id: Some(correlation_id), ..ResultMeta::of(era) };
        Self {
            content,
            structured_content: structured,
            is_error,
            result_type: (era == Era::Modern).then_some(COMPLETE),
            meta,
        }
    }
}

/// The value as JSON. The documents of the API can always be written.
fn raw(value: &impl Serialize) -> Box<RawValue> {
    to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// A text as an item of content.
fn text(text: String) -> Json {
    Json::Object([("type".to_owned(), "text".into()), ("text".to_owned(), text.into())].into_iter().collect())
}

/// An output as JSON, if it is an object or an array, else its text.
fn as_json(output: &str) -> Json {
    let is_structured = output.trim_start().starts_with(['{', '[']);
    let parsed = is_structured.then(|| Json::parse(output).ok()).flatten();
    parsed.unwrap_or_else(|| output.into())
}

/// Content of an MCP server that is no text, as its agent's metadata have it.
fn others(metadata_json: &str) -> Vec<Json> {
    let metadata = (!metadata_json.is_empty()).then(|| Object::parse(metadata_json).ok()).flatten();
    let content = metadata.and_then(|mut metadata| metadata.shift_remove("content"));
    let Some(Json::Array(content)) = content else { return Vec::new() };
    content.into_iter().filter(|item| item["type"].as_str().is_some()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn output(text: &str, metadata: &str) -> Value {
        let origin = Origin { era: Era::Modern, plan_id: None, correlation_id: CorrelationId::generate() };
        let response = PlanAndExecuteResponse {
            output: text.into(),
            metadata_json: metadata.into(),
            ..Default::default()
        };
        serde_json::to_value(CallResult::output(origin, response)).unwrap()
    }

    #[test]
    fn structured_output_is_json_and_other_output_is_text() {
        for (text, expected) in [
            ("hello", json!("hello")),
            ("5", json!("5")),
            ("[1]", json!([1])),
            ("{\"a\":1}", json!({"a": 1})),
            ("{", json!("{")),
        ] {
            let result = output(text, "");
            assert_eq!(result["structuredContent"]["output"], expected);
            assert_eq!(result["content"], json!([{"type": "text", "text": text}]));
        }
    }

    #[test]
    fn content_that_is_no_text_follows_the_text() {
        let metadata = r#"{"content":[{"type":"image","data":"AA==","mimeType":"image/png"},7]}"#;
        let image = json!({"type": "image", "data": "AA==", "mimeType": "image/png"});
        assert_eq!(output("", metadata)["content"], json!([image]));
        assert_eq!(output("a", metadata)["content"], json!([{"type": "text", "text": "a"}, image]));
    }
}
