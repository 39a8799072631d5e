//! The span of an attempt, by the conventions for generative AI: `invoke_agent {agent}`, or `execute_tool {tool}` for a tool of an MCP
//! server, and below it `chat {model}` for each call of a model that the agent reports.
//!
//! Messages, inputs and outputs are attributes only by opt-in ([`spans::captures_content`]).

use std::time::{Duration, SystemTime};

use phoenix_domain::{
    AgentMode, AgentSpec,
    action::{ActionRequest, ActionResult, CHAT_ACTION},
    json::{Json, Object},
    usage::ModelCall,
};
use phoenix_platform::{
    propagation::mark_failed,
    semconv::{self, operation},
    spans::{self, Attribute, PastSpan},
};
use serde_json::json;
use tracing::{Span, field::Empty};

use crate::{failure::AttemptFailure, running::CancelReason};

/// Longest text in an attribute with content, in bytes; longer ones are cut.
const MAX_CONTENT_BYTES: usize = 16 * 1024;

/// Member of a result's metadata with the time that the call of the model took.
const CALL_MS: &str = "call_ms";

/// Member of a result's metadata with the model that was asked, if another one answered.
const REQUESTED_MODEL: &str = "requested_model";

/// The span of an attempt, and its start.
pub(super) struct AttemptSpan {
    pub(super) span: Span,
    started_at: SystemTime,
    is_tool: bool,
}

impl AttemptSpan {
    /// Opens the span of attempt `number` of `request`.
    pub(super) fn open(agent: &AgentSpec, request: &ActionRequest, number: u32) -> Self {
        let is_tool = agent.mode == AgentMode::Mcp;
        let span = if spans::is_exporting() {
            let name = match is_tool {
                true => format!("{} {}", operation::EXECUTE_TOOL, request.action),
                false => format!("{} {}", operation::INVOKE_AGENT, agent.name),
            };
            tracing::info_span!(
                "agent_attempt",
                otel.name = name,
                otel.kind = "client",
                attempt = number,
                otel.status_description = Empty
            )
        } else {
            tracing::info_span!("agent_attempt", attempt = number, otel.status_description = Empty)
        };
        spans::describe(&span, || attributes(agent, request, is_tool));
        Self { span, started_at: SystemTime::now(), is_tool }
    }

    /// Describes the end of the attempt, which is the end of its span as soon as this is dropped.
    pub(super) fn end(&self, outcome: &Result<ActionResult, AttemptFailure>) {
        if let Err(failure) = outcome {
            mark_failed(&self.span, failure.class.as_str());
        }
        if !spans::is_exporting() {
            return;
        }
        match outcome {
            Ok(result) => {
                spans::describe(&self.span, || content_of(result, self.is_tool));
                self.record_calls(&ModelCall::in_metadata(&result.metadata), Some(&result.metadata));
            }
            Err(failure) => {
                let code = failure.exit_code.map(i64::from);
                spans::describe(&self.span, || {
                    code.map(|code| Attribute::new(semconv::PROCESS_EXIT_CODE, code))
                });
                self.record_calls(&failure.model_calls, None);
            }
        }
    }

    /// Describes the end of an attempt that was cancelled.
    pub(super) fn cancelled(&self, reason: CancelReason) {
        spans::describe(&self.span, || [Attribute::new(semconv::own::CANCEL_REASON, reason.as_str())]);
    }

    /// Records the calls of models. With `answered`, the metadata of a result, the first one is the call that answered.
    fn record_calls(&self, calls: &[ModelCall], answered: Option<&Object>) {
        let ended_at = SystemTime::now();
        for (index, call) in calls.iter().enumerate() {
            let answered = answered.filter(|_| index == 0);
            // The agent reports how long it waited for the answer; a call without that takes the time of the attempt.
            let took = answered.and_then(|metadata| millis(metadata.get(CALL_MS)?));
            let started_at = took.and_then(|took| ended_at.checked_sub(took)).unwrap_or(self.started_at);
            spans::record(&self.span, || PastSpan {
                name: format!("{} {}", operation::CHAT, call.model).trim_end().to_owned().into(),
                is_call: true,
                started_at: started_at.max(self.started_at),
                ended_at,
                attributes: call_attributes(call, answered),
                error: answered.is_none().then_some("failed"),
            });
        }
    }
}

fn attributes(agent: &AgentSpec, request: &ActionRequest, is_tool: bool) -> Vec<Attribute> {
    let name = if is_tool { operation::EXECUTE_TOOL } else { operation::INVOKE_AGENT };
    let mut attributes = vec![
        Attribute::new(semconv::GEN_AI_OPERATION_NAME, name),
        Attribute::new(semconv::GEN_AI_AGENT_NAME, agent.name.to_string()),
    ];
    if is_tool {
        attributes.push(Attribute::new(semconv::GEN_AI_TOOL_NAME, request.action.clone()));
        attributes.push(Attribute::new(semconv::GEN_AI_TOOL_TYPE, "extension"));
        attributes.push(Attribute::new(semconv::MCP_METHOD_NAME, "tools/call"));
    } else {
        attributes.push(Attribute::new(semconv::own::ACTION, request.action.clone()));
    }
    if spans::captures_content() {
        attributes.push(input_of(request, is_tool));
    }
    attributes
}

fn input_of(request: &ActionRequest, is_tool: bool) -> Attribute {
    let message = request.payload.get("message").and_then(Json::as_str);
    let input = || cut(request.payload.to_string());
    match message.filter(|_| request.action == CHAT_ACTION) {
        Some(message) => Attribute::new(semconv::GEN_AI_INPUT_MESSAGES, messages("user", message)),
        None if is_tool => Attribute::new(semconv::GEN_AI_TOOL_CALL_ARGUMENTS, input()),
        None => Attribute::new(semconv::GEN_AI_INPUT_MESSAGES, messages("user", &input())),
    }
}

fn content_of(result: &ActionResult, is_tool: bool) -> Option<Attribute> {
    spans::captures_content().then(|| match is_tool {
        true => Attribute::new(semconv::GEN_AI_TOOL_CALL_RESULT, cut(result.to_text())),
        false => Attribute::new(semconv::GEN_AI_OUTPUT_MESSAGES, messages("assistant", &result.to_text())),
    })
}

/// One message in the JSON of the conventions.
fn messages(role: &str, text: &str) -> String {
    let part = json!({"type": "text", "content": cut(text.to_owned())});
    json!([{"role": role, "parts": [part]}]).to_string()
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_CONTENT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_CONTENT_BYTES));
        text.push('…');
    }
    text
}

fn call_attributes(call: &ModelCall, answered: Option<&Object>) -> Vec<Attribute> {
    let ModelCall { provider, model, tokens, cost } = call;
    let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
    let mut attributes = vec![
        Attribute::new(semconv::GEN_AI_OPERATION_NAME, operation::CHAT),
        Attribute::new(semconv::GEN_AI_USAGE_INPUT_TOKENS, count(tokens.input)),
        Attribute::new(semconv::GEN_AI_USAGE_OUTPUT_TOKENS, count(tokens.output)),
    ];
    let parts = [
        (semconv::GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS, tokens.cached_input),
        (semconv::GEN_AI_USAGE_REASONING_OUTPUT_TOKENS, tokens.reasoning),
    ];
    let parts = parts.into_iter().filter(|(_, tokens)| *tokens > 0);
    attributes.extend(parts.map(|(name, tokens)| Attribute::new(name, count(tokens))));
    if !provider.is_empty() {
        attributes.push(Attribute::new(semconv::GEN_AI_PROVIDER_NAME, provider_name(provider)));
    }
    let text = |name: &str| answered.and_then(|metadata| metadata.get(name)?.as_str()).map(str::to_owned);
    if !model.is_empty() {
        let asked = text(REQUESTED_MODEL).unwrap_or_else(|| model.clone());
        attributes.push(Attribute::new(semconv::GEN_AI_REQUEST_MODEL, asked));
        let named = answered.map(|_| Attribute::new(semconv::GEN_AI_RESPONSE_MODEL, model.clone()));
        attributes.extend(named);
    }
    if let Some(reason) = text("finish_reason") {
        attributes.push(spans::texts(semconv::GEN_AI_RESPONSE_FINISH_REASONS, vec![reason]));
    }
    if let Some(cost) = cost {
        attributes.push(Attribute::new(semconv::own::COST_USD, cost.to_string()));
    }
    attributes
}

/// Name of a provider in the conventions. Those without one there keep their own.
fn provider_name(provider: &str) -> String {
    match provider {
        "gemini" => "gcp.gemini",
        "grok" => "x_ai",
        other => other,
    }
    .to_owned()
}

fn millis(value: &Json) -> Option<Duration> {
    let Json::Number(number) = value else { return None };
    number.as_str().parse().ok().map(Duration::from_millis)
}
