//! Input schemas of tools.

use phoenix_domain::{
    json::{Json, Object},
    limits::{MAX_CONTEXT_BYTES, MAX_MESSAGE_BYTES, MAX_REASON_BYTES, MAX_TASKS},
    plan::MAX_DEADLINE_MS,
};
use serde_json::{Value, json};

/// Input of `chat`. The members that only programs use are left out; they are those of `POST /api/v1/chat`.
pub(super) fn chat() -> Value {
    json!({
        "type": "object",
        "properties": {
            "message": {"type": "string", "minLength": 1, "maxLength": MAX_MESSAGE_BYTES, "description": "The message."},
            "agent": {"type": "string", "description": "Agent that answers, as `list_agents` names it."},
            "context": {"type": "string", "maxLength": MAX_CONTEXT_BYTES, "description": "What the agent should know beside the message."},
            "model": {"type": "string", "description": "Model, such as `anthropic/claude-sonnet-5-5`, for agents that call one."},
            "budget": budget(),
        },
        "required": ["message"],
    })
}

/// Input of `run_plan`.
pub(super) fn run_plan() -> Value {
    json!({
        "type": "object",
        "properties": {
            "tasks": {
                "type": "array",
                "minItems": 1,
                "maxItems": MAX_TASKS,
                "items": {
                    "type": "object",
                    "properties": {
                        "key": {"type": "string", "description": "Key of the task, unique in the plan: letters, digits, `_` or `-`."},
                        "agent": {"type": "string", "description": "Agent that runs the task."},
                        "action": {"type": "string", "description": "Action of the agent; `chat` when absent."},
                        "input": {
                            "type": "object",
                            "description": "Input of the action; `{{tasks.KEY.output}}` stands for the output of another task, `{{tasks.KEY.output.path}}` for a part of it.",
                        },
                        "depends_on": {
                            "type": "array",
                            "items": {"type": "string"},
                            "description": "Keys of tasks that run before, beside those that the input refers to.",
                        },
                        "on_failure": {
                            "enum": ["fail", "continue"],
                            "description": "Whether the plan continues when the task fails; `fail` when absent.",
                        },
                    },
                    "required": ["key", "agent"],
                },
            },
            "context": {"type": "string", "maxLength": MAX_CONTEXT_BYTES, "description": "What every agent should know beside its input."},
            "deadline_ms": {"type": "integer", "minimum": 1, "maximum": MAX_DEADLINE_MS, "description": "Milliseconds until a plan that has not ended fails."},
            "budget": budget(),
            "wait": {"type": "boolean", "description": "False returns the id of the plan at once; `get_plan` shows it later. True when absent."},
        },
        "required": ["tasks"],
    })
}

/// Input of `get_plan`.
pub(super) fn get_plan() -> Value {
    json!({"type": "object", "properties": {"plan_id": plan_id()}, "required": ["plan_id"]})
}

/// Input of `cancel_plan`.
pub(super) fn cancel_plan() -> Value {
    json!({
        "type": "object",
        "properties": {
            "plan_id": plan_id(),
            "reason": {"type": "string", "maxLength": MAX_REASON_BYTES, "description": "Reason, kept with the plan."},
        },
        "required": ["plan_id"],
    })
}

/// Input of `list_agents`.
pub(super) fn list_agents() -> Value {
    json!({
        "type": "object",
        "properties": {"agent": {"type": "string", "description": "Name of one agent."}},
    })
}

fn plan_id() -> Value {
    json!({"type": "string", "format": "uuid", "description": "Id of the plan."})
}

fn budget() -> Value {
    json!({
        "type": "object",
        "properties": {
            "max_cost_usd": {"type": "number", "minimum": 0},
            "max_tokens": {"type": "integer", "minimum": 0},
            "max_calls": {"type": "integer", "minimum": 0},
            "max_wall_ms": {"type": "integer", "minimum": 0},
        },
        "description": "Limits on what the plan may use.",
    })
}

/// The schema of an action, as the schema of a tool: of an object, and without annotations for headers, which hold for the server that
/// made them and not for this one.
pub(super) fn of_action(schema_json: &str) -> Json {
    let mut schema = Object::parse_stored(schema_json).unwrap_or_default();
    schema.set("type", "object");
    remove_headers(&mut schema);
    schema.into()
}

/// Members of a schema whose members are schemas by names of their own.
const NAMED: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];

fn remove_headers(schema: &mut Object) {
    schema.shift_remove("x-mcp-header");
    for (keyword, value) in schema.iter_mut() {
        match value {
            Json::Object(members) if NAMED.contains(&keyword.as_str()) => {
                members.values_mut().for_each(remove_headers_inside);
            }
            Json::Array(items) => items.iter_mut().for_each(remove_headers_inside),
            inner => remove_headers_inside(inner),
        }
    }
}

fn remove_headers_inside(value: &mut Json) {
    if let Json::Object(schema) = value {
        remove_headers(schema);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schema_of_an_action_is_one_of_an_object() {
        assert_eq!(of_action(""), json!({"type": "object"}));
        assert_eq!(of_action("true"), json!({"type": "object"}));
        assert_eq!(of_action(r#"{"required":["a"]}"#), json!({"type": "object", "required": ["a"]}));
    }

    #[test]
    fn numbers_and_names_of_a_schema_are_kept() {
        let schema = r#"{"type":"object","properties":{"n":{"maximum":123456789012345678901234567890,"multipleOf":0.10,"x":1e400},"\u0000$":{}}}"#;
        assert_eq!(of_action(schema).to_string(), schema);
    }

    #[test]
    fn annotations_for_headers_are_removed_and_properties_are_not() {
        let schema = r#"{"properties":{"x-mcp-header":{"type":"string","x-mcp-header":"A"},"b":{"items":[{"x-mcp-header":"B"}]}}}"#;
        let expected = json!({"type": "object", "properties": {"x-mcp-header": {"type": "string"}, "b": {"items": [{}]}}});
        assert_eq!(of_action(schema), expected);
    }

    /// The decoders of the arguments know every listed member.
    #[test]
    fn listed_members_are_known_to_the_decoders() {
        use crate::wire::{chat::ChatRequestV1, plan_request::PlanRequestV1};
        let unknown = |error: serde_json::Error| error.to_string().contains("unknown field");
        for name in chat()["properties"].as_object().unwrap().keys() {
            let text = json!({name: 7}).to_string();
            assert!(!serde_json::from_str::<ChatRequestV1>(&text).is_err_and(unknown), "{name}");
        }
        for name in run_plan()["properties"].as_object().unwrap().keys().filter(|name| *name != "wait") {
            let text = json!({name: 7}).to_string();
            assert!(!serde_json::from_str::<PlanRequestV1>(&text).is_err_and(unknown), "{name}");
        }
    }
}
