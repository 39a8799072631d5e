//! The tools of a server, as actions of its agent.

use std::{collections::BTreeMap, time::Duration};

use phoenix_domain::{
    ActionLimits, ActionSpec, AgentName, FailureClass,
    action::CHAT_ACTION,
    agent::ANY_ACTION,
    json::{Json, Object},
    limits::MAX_ACTION_BYTES,
    mcp::McpSettings,
    schema::{InputSchema, Mismatch},
};

use super::message::object;
use crate::failure::{AttemptFailure, truncate_message};

/// Limit of the tools of one server.
const MAX_TOOLS: usize = 512;

/// Limit of the descriptions and schemas of one server's tools in bytes.
const MAX_TOOL_BYTES: usize = 1024 * 1024;

/// Limit of a description in characters.
const MAX_DESCRIPTION_CHARS: usize = 2000;

/// Tools that an error lists.
const MAX_LISTED: usize = 20;

/// The tools of a server, by the names of their actions.
#[derive(Debug, Clone, Default)]
pub(super) struct Tools {
    pub(super) by_name: BTreeMap<String, Tool>,
    /// Time for which the server says that the list is valid.
    pub(super) valid_for: Option<Duration>,
}

/// One tool.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tool {
    pub(super) action: ActionSpec,
    /// Name that the server gives to it.
    pub(super) name: String,
    /// Whether a second call has no further effect, as far as the server says.
    pub(super) is_repeatable: bool,
    /// Whether structured results have the actual result in a member `result`.
    pub(super) wraps_result: bool,
}

/// A call that a request asks for.
#[derive(Debug)]
pub(super) struct Selected<'t> {
    pub(super) name: &'t str,
    pub(super) tool: &'t Tool,
    pub(super) arguments: Object,
}

/// Collects tools from the pages of `tools/list`.
#[derive(Debug)]
pub(super) struct Collector<'s> {
    agent: &'s AgentName,
    settings: &'s McpSettings,
    tools: Tools,
    bytes: usize,
    left_out: usize,
}

impl<'s> Collector<'s> {
    pub(super) const fn new(agent: &'s AgentName, settings: &'s McpSettings) -> Self {
        Self {
            agent,
            settings,
            tools: Tools { by_name: BTreeMap::new(), valid_for: None },
            bytes: 0,
            left_out: 0,
        }
    }

    /// Adds the tool that `definition` defines, if it is offered. What cannot be used of it is logged and left out.
    pub(super) fn add(&mut self, definition: &Json) {
        let name = definition["name"].as_str().unwrap_or_default();
        let is_valid = !name.trim().is_empty() && name.len() <= MAX_ACTION_BYTES && name != ANY_ACTION;
        if !is_valid || name.chars().any(char::is_control) {
            tracing::warn!(agent = %self.agent, tool = truncate_message(name), "tool without a valid name is left out");
            return;
        }
        if !self.settings.offers(name) {
            return;
        }
        let Some(action_name) = self.settings.action_of(name) else {
            tracing::warn!(agent = %self.agent, tool = name, "tool is left out, because `rename` gives its name to another one");
            return;
        };
        let schema = &definition["inputSchema"];
        let input_schema = match schema {
            Json::Null => None,
            schema => InputSchema::new(schema.clone())
                .inspect_err(|error| {
                    tracing::warn!(agent = %self.agent, tool = name, %error, "tool has an invalid input schema; its input is not validated");
                })
                .ok(),
        };
        let description: String = definition["description"]
            .as_str()
            .unwrap_or_default()
            .trim()
            .chars()
            .take(MAX_DESCRIPTION_CHARS)
            .collect();
        let bytes =
            name.len() + description.len() + if input_schema.is_some() { schema.text_len() } else { 0 };
        if self.tools.by_name.len() >= MAX_TOOLS || self.bytes + bytes > MAX_TOOL_BYTES {
            self.left_out += 1;
            return;
        }
        self.bytes += bytes;
        let hints = &definition["annotations"];
        let tool = Tool {
            name: name.to_owned(),
            action: ActionSpec { description, input_schema, limits: self.settings.limits_of(name) },
            is_repeatable: self
                .settings
                .is_idempotent(name)
                .unwrap_or(hints["readOnlyHint"] == true || hints["idempotentHint"] == true),
            wraps_result: definition["outputSchema"]["x-fastmcp-wrap-result"] == true,
        };
        self.tools.by_name.insert(action_name.to_owned(), tool);
    }

    /// Whether further pages would be left out.
    pub(super) const fn is_full(&self) -> bool {
        self.left_out > 0
    }

    /// The tools.
    pub(super) fn finish(self) -> Tools {
        if self.left_out > 0 {
            tracing::warn!(
                agent = %self.agent, max_tools = MAX_TOOLS, max_bytes = MAX_TOOL_BYTES,
                "server has too many tools; select some with the setting `tools`"
            );
        }
        if self.tools.by_name.is_empty() {
            tracing::warn!(agent = %self.agent, "server offers no tool");
        }
        self.tools
    }
}

impl Tools {
    /// The actions of the agent.
    pub(super) fn actions(&self) -> BTreeMap<String, ActionSpec> {
        self.by_name.iter().map(|(name, tool)| (name.clone(), tool.action.clone())).collect()
    }

    /// Limits of the tool that `action` calls.
    pub(super) fn limits_of(&self, action: &str) -> Option<ActionLimits> {
        let mut tools = self.by_name.values();
        let tool = match self.by_name.get(action) {
            None if action == CHAT_ACTION && self.by_name.len() == 1 => tools.next(),
            tool => tool,
        };
        Some(tool?.action.limits)
    }

    /// The call for `action` with the input `payload`. A chat goes to a tool `chat`, or to the only tool if its message is the
    /// only required argument.
    ///
    /// # Errors
    /// `action_not_supported` without such a tool, `invalid_request` for an input that its schema rejects.
    pub(super) fn select(&self, action: &str, payload: &Object) -> Result<Selected<'_>, AttemptFailure> {
        if let Some((name, tool)) = self.by_name.get_key_value(action) {
            return Selected { name, tool, arguments: payload.clone() }.checked();
        }
        if action != CHAT_ACTION {
            let action = truncate_message(action);
            return Err(not_supported(format!("has no tool `{action}`; {}", self.listed())));
        }
        let message = payload.get("message").cloned().unwrap_or_default();
        match self.by_name.iter().next() {
            Some((name, tool)) if self.by_name.len() == 1 => match tool.text_argument() {
                Some(argument) => {
                    Selected { name, tool, arguments: object([(&*argument, message)]) }.checked()
                }
                None => Err(not_supported(format!(
                    "has no tool for a chat: `{name}` needs other input than one text; send a plan with `{name}` as the action"
                ))),
            },
            _ => Err(not_supported(format!(
                "has no tool for a chat; send a plan with a tool as the action: {}",
                self.listed()
            ))),
        }
    }

    fn listed(&self) -> String {
        if self.by_name.is_empty() {
            return "it has no tools".into();
        }
        let more = if self.by_name.len() > MAX_LISTED { ", …" } else { "" };
        let names: Vec<_> = self.by_name.keys().take(MAX_LISTED).map(String::as_str).collect();
        format!("there are {}{more}", names.join(", "))
    }
}

impl Tool {
    /// The only required argument, if it is a text.
    fn text_argument(&self) -> Option<String> {
        let schema = self.action.input_schema.as_ref()?.source();
        let [required] = schema["required"].as_array()? else { return None };
        let name = required.as_str()?;
        (schema["properties"][name]["type"] == "string").then(|| name.to_owned())
    }
}

impl Selected<'_> {
    fn checked(self) -> Result<Self, AttemptFailure> {
        let Some(schema) = &self.tool.action.input_schema else { return Ok(self) };
        match schema.check(&self.arguments) {
            Ok(()) => Ok(self),
            Err(Mismatch { field, problem }) => {
                let field = field.trim_start_matches('.');
                let field = if field.is_empty() { "the input" } else { &format!("`{field}`") };
                let description = format!("rejects the input of `{}`: {field} {problem}", self.name);
                Err(AttemptFailure::new(FailureClass::InvalidRequest, description))
            }
        }
    }
}

fn not_supported(description: String) -> AttemptFailure {
    AttemptFailure::new(FailureClass::ActionNotSupported, description)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn tools_of(definitions: Value, patterns: &[&str]) -> Tools {
        let settings = McpSettings {
            tools: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(),
            ..McpSettings::default()
        };
        let agent = "a".parse().unwrap();
        let mut collector = Collector::new(&agent, &settings);
        Json::from(definitions).as_array().unwrap().iter().for_each(|tool| collector.add(tool));
        collector.finish()
    }

    fn text_tool(name: &str) -> Value {
        json!({"name": name, "inputSchema": {"properties": {"q": {"type": "string"}, "n": {}}, "required": ["q"]}})
    }

    #[test]
    fn definitions_that_cannot_be_used_are_left_out_alone() {
        let definitions = json!([
            {"name": "plain"}, {"name": ""}, {"name": "*"}, {"name": 7}, {}, "text", null,
            {"name": "broken", "inputSchema": {"type": 7}, "annotations": {"readOnlyHint": true}},
            {"name": "line\nbreak"}, {"name": "x".repeat(300)}, {"name": "write", "annotations": []},
        ]);
        let tools = tools_of(definitions.clone(), &[]);
        assert_eq!(tools.by_name.keys().collect::<Vec<_>>(), ["broken", "plain", "write"]);
        assert!(
            tools.by_name["broken"].action.input_schema.is_none() && tools.by_name["broken"].is_repeatable
        );
        assert!(!tools.by_name["write"].is_repeatable);
        assert_eq!(tools_of(definitions, &["pl*", "w*"]).by_name.len(), 2);
    }

    #[test]
    fn renamed_tool_is_called_by_its_own_name() {
        let renames =
            [("ask", "question"), ("tell", "plain")].map(|(tool, action)| (tool.into(), action.into()));
        let settings = McpSettings { renames: renames.into(), ..McpSettings::default() };
        let agent = "a".parse().unwrap();
        let mut collector = Collector::new(&agent, &settings);
        for definition in
            [json!({"name": "plain"}), text_tool("ask"), json!({"name": "tell"}), json!({"name": "own"})]
        {
            collector.add(&definition.into());
        }
        let tools = collector.finish();
        let names: Vec<_> = tools.by_name.iter().map(|(action, tool)| (&**action, &*tool.name)).collect();
        assert_eq!(names, [("own", "own"), ("plain", "tell"), ("question", "ask")]);
        let failure = tools.select("ask", &Object::new()).unwrap_err();
        assert_eq!(failure.description, "has no tool `ask`; there are own, plain, question");
        let selected = tools.select("question", &object([("q", "x".into())])).unwrap();
        assert_eq!((selected.name, &*selected.tool.name), ("question", "ask"));
    }

    #[test]
    fn tools_of_a_server_are_bounded_in_number_and_size() {
        let many: Vec<_> = (0..600).map(|number| json!({"name": format!("t{number}")})).collect();
        assert_eq!(tools_of(many.into(), &[]).by_name.len(), MAX_TOOLS);
        let large = |name| json!({"name": name, "inputSchema": {"description": "x".repeat(600_000)}});
        assert_eq!(tools_of(json!([large("a"), large("b")]), &[]).by_name.len(), 1);
    }

    #[test]
    fn chat_needs_a_single_tool_with_one_text() {
        let payload = object([("message", "hello".into()), ("messages", Json::Array(Vec::new()))]);
        let selected = |tools: &Tools| {
            let selected = tools.select(CHAT_ACTION, &payload).map_err(|failure| failure.description)?;
            Ok::<_, String>((selected.name.to_owned(), Json::from(selected.arguments).to_string()))
        };
        let one = tools_of(json!([text_tool("ask")]), &[]);
        assert_eq!(selected(&one).unwrap(), ("ask".into(), r#"{"q":"hello"}"#.into()));
        let two = tools_of(json!([text_tool("ask"), text_tool("tell")]), &[]);
        assert!(selected(&two).unwrap_err().ends_with("as the action: there are ask, tell"));
        let other = tools_of(json!([{"name": "add", "inputSchema": {"required": ["a", "b"]}}]), &[]);
        assert!(selected(&other).unwrap_err().contains("`add` needs other input"));
        let own = tools_of(json!([{"name": "chat"}, text_tool("ask")]), &[]);
        assert_eq!(selected(&own).unwrap().0, "chat");
    }

    #[test]
    fn unknown_tool_and_invalid_input_are_named() {
        let tools = tools_of(json!([text_tool("ask")]), &[]);
        let failure = tools.select("tell", &Object::new()).unwrap_err();
        assert_eq!(failure.class, FailureClass::ActionNotSupported);
        assert_eq!(failure.description, "has no tool `tell`; there are ask");
        let failure = tools.select("ask", &object([("q", 7.into())])).unwrap_err();
        assert_eq!(failure.class, FailureClass::InvalidRequest);
        assert_eq!(failure.description, "rejects the input of `ask`: `q` must be a string");
    }
}
