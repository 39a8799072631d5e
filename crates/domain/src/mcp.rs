//! Agents that are servers of the [Model Context Protocol](https://modelcontextprotocol.io).

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use crate::{action_limits::ActionLimits, llm::Secret, pattern::matches_pattern, retry::RetryPolicy};

/// Version of the protocol without a handshake.
pub const MODERN_VERSION: &str = "2026-07-28";

/// Versions of the protocol with a handshake, the newest first.
pub const HANDSHAKE_VERSIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// Parts of the names of variables whose values are secret.
const SECRET_WORDS: [&str; 6] = ["key", "token", "secret", "passw", "credential", "auth"];

const WRAP_START: &str = "=?base64?";
const WRAP_END: &str = "?=";

/// An MCP server that is reached over streamable HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteServer {
    /// Its address: `http` or `https`.
    pub url: String,
    /// Headers of every request, by name.
    pub headers: BTreeMap<String, Secret>,
}

/// Settings of the tools that match a pattern, in place of those of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ToolRule {
    /// Patterns of the names of tools, in which `*` stands for any text.
    pub tools: Vec<String>,
    /// Time limit of an attempt.
    pub timeout: Option<Duration>,
    /// Retries of failed attempts.
    pub retry: Option<RetryPolicy>,
    /// Whether a call may be repeated that may have had an effect; what the server says of its tool when absent.
    pub idempotent: Option<bool>,
}

/// Settings of an agent that is an MCP server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct McpSettings {
    /// Where the server is; absent for a server that is started as a process.
    pub remote: Option<RemoteServer>,
    /// Environment variables of the server with their values, in addition to those that the agent inherits by name.
    pub variables: BTreeMap<String, Secret>,
    /// Patterns of the names of the tools that become actions, in which `*` stands for any text. Every tool when empty.
    pub tools: Vec<String>,
    /// Names of actions, by the names of the tools that they call. Other tools keep their names.
    pub renames: BTreeMap<String, String>,
    /// Settings of single tools. Of several that match a tool, the last one with a setting counts.
    pub rules: Vec<ToolRule>,
    /// Version of the protocol to speak; absent to find out what the server speaks.
    pub protocol: Option<String>,
}

impl ToolRule {
    fn matches(&self, tool: &str) -> bool {
        self.tools.iter().any(|pattern| matches_pattern(pattern, tool))
    }
}

impl McpSettings {
    /// Name of the action that calls the tool `tool`; absent when another tool has been given that name.
    #[must_use]
    pub fn action_of<'a>(&'a self, tool: &'a str) -> Option<&'a str> {
        match self.renames.get(tool) {
            Some(action) => Some(action),
            None => (!self.renames.values().any(|action| action == tool)).then_some(tool),
        }
    }

    /// Name of the tool that `action` calls.
    #[must_use]
    pub fn tool_of<'a>(&'a self, action: &'a str) -> &'a str {
        let renamed = self.renames.iter().find(|(_, new)| *new == action);
        renamed.map_or(action, |(tool, _)| tool)
    }

    /// Limits of the tool `name` that differ from those of the agent.
    #[must_use]
    pub fn limits_of(&self, name: &str) -> ActionLimits {
        ActionLimits {
            timeout: self.last(name, |rule| rule.timeout),
            retry: self.last(name, |rule| rule.retry),
        }
    }

    /// Whether a call of the tool `name` may be repeated, if a rule says so or not.
    #[must_use]
    pub fn is_idempotent(&self, name: &str) -> Option<bool> {
        self.last(name, |rule| rule.idempotent)
    }

    fn last<T>(&self, tool: &str, setting: impl Fn(&ToolRule) -> Option<T>) -> Option<T> {
        self.rules.iter().rev().filter(|rule| rule.matches(tool)).find_map(setting)
    }

    /// Whether the tool `name` becomes an action.
    #[must_use]
    pub fn offers(&self, name: &str) -> bool {
        self.tools.is_empty() || self.tools.iter().any(|pattern| matches_pattern(pattern, name))
    }

    /// The values of variables whose names say that they are secret, and of headers.
    pub fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let is_secret = |name: &str| {
            let name = name.to_ascii_lowercase();
            SECRET_WORDS.iter().any(|word| name.contains(word))
        };
        let variables =
            self.variables.iter().filter(move |(name, _)| is_secret(name)).map(|(_, value)| value);
        variables.chain(self.remote.iter().flat_map(|remote| remote.headers.values()))
    }
}

/// `text` as a header carries it: as it is, or as base64 between `=?base64?` and `?=`.
///
/// <https://modelcontextprotocol.io/specification/2026-07-28/basic/transports/streamable-http>
#[must_use]
pub fn header_text(text: &str) -> String {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
        && text.trim() == text
        && wrapped(text).is_none();
    if is_plain { text.to_owned() } else { format!("{WRAP_START}{}{WRAP_END}", BASE64.encode(text)) }
}

/// The text that a header carries, which [`header_text`] or another implementation wrote; `None` when it is not valid base64 of
/// UTF-8.
#[must_use]
pub fn text_of_header(header: &str) -> Option<String> {
    let Some(encoded) = wrapped(header) else { return Some(header.to_owned()) };
    String::from_utf8(BASE64.decode(encoded).ok()?).ok()
}

fn wrapped(text: &str) -> Option<&str> {
    text.strip_prefix(WRAP_START)?.strip_suffix(WRAP_END)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_carries_every_text() {
        for (text, header) in [
            ("read_file", "read_file"),
            ("git über", "=?base64?Z2l0IMO8YmVy?="),
            ("a ", "=?base64?YSA=?="),
            ("ä", "=?base64?w6Q=?="),
            ("=?base64?x?=", "=?base64?PT9iYXNlNjQ/eD89?="),
            ("=?base64?=", "=?base64?="),
            ("", ""),
        ] {
            assert_eq!(header_text(text), header);
            assert_eq!(text_of_header(header).as_deref(), Some(text), "{header}");
        }
        for invalid in ["SGVsbG8", "SGVsb!8=", "SGVsbG9=", "====", "A===", "/w=="] {
            assert_eq!(text_of_header(&format!("=?base64?{invalid}?=")), None, "{invalid}");
        }
    }

    #[test]
    fn variable_is_secret_by_its_name() {
        let variables = [("GITHUB_TOKEN", "a"), ("ApiKey", "b"), ("FOLDER", "c")];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned().into()));
        let settings = McpSettings { variables: variables.into(), ..McpSettings::default() };
        let secrets: Vec<_> = settings.secrets().map(Secret::expose).collect();
        assert_eq!(secrets, ["b", "a"]);
    }

    #[test]
    fn renamed_tool_takes_the_name_of_another() {
        let renames = [("a", "b"), ("b", "c"), ("x", "chat")];
        let renames = renames.map(|(tool, action)| (tool.to_owned(), action.to_owned()));
        let settings = McpSettings { renames: renames.into(), ..McpSettings::default() };
        for (tool, action) in
            [("a", Some("b")), ("b", Some("c")), ("c", None), ("chat", None), ("d", Some("d"))]
        {
            assert_eq!(settings.action_of(tool), action, "{tool}");
            assert!(action.is_none_or(|action| settings.tool_of(action) == tool), "{tool}");
        }
    }

    #[test]
    fn last_rule_with_a_setting_counts() {
        let second = Duration::from_secs(1);
        let rule = |tools: &[&str], timeout, idempotent| ToolRule {
            tools: tools.iter().map(|pattern| (*pattern).to_owned()).collect(),
            timeout,
            idempotent,
            ..ToolRule::default()
        };
        let rules = vec![
            rule(&["read_*", "list"], Some(second), Some(true)),
            rule(&["*_all"], Some(9 * second), None),
            rule(&["write_*"], None, Some(false)),
        ];
        let settings = McpSettings { rules, ..McpSettings::default() };
        for (tool, timeout, idempotent) in [
            ("read_one", Some(second), Some(true)),
            ("read_all", Some(9 * second), Some(true)),
            ("write_all", Some(9 * second), Some(false)),
            ("list", Some(second), Some(true)),
            ("other", None, None),
        ] {
            assert_eq!(
                (settings.limits_of(tool).timeout, settings.is_idempotent(tool)),
                (timeout, idempotent),
                "{tool}"
            );
        }
    }
}
