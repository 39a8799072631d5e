//! `[agents.NAME] mcp`: an agent that is an MCP server.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue, Uri};
use phoenix_domain::{
    AgentMode, AgentSpec,
    agent::ANY_ACTION,
    limits::MAX_ACTION_BYTES,
    mcp::{HANDSHAKE_VERSIONS, MODERN_VERSION, McpSettings, RemoteServer},
};
use serde::Deserialize;

use super::{problems::Problems, tool_rules::ToolRuleTable};
use crate::service_token;

/// The table `mcp` of an agent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct McpTable {
    command: Vec<String>,
    env: BTreeMap<String, String>,
    url: Option<String>,
    headers: BTreeMap<String, String>,
    protocol: Option<String>,
}

/// Setting `protocol` that finds out what the server speaks.
const AUTO: &str = "auto";

/// Headers that the protocol sets.
const RESERVED_HEADERS: [&str; 9] = [
    "accept",
    "connection",
    "content-length",
    "content-type",
    "host",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
];

/// Settings about the tools of a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct ToolSettings<'a> {
    /// Patterns of the tools that are offered; all when absent.
    pub(super) tools: Option<&'a [String]>,
    /// Names of actions, by the names of tools.
    pub(super) renames: &'a BTreeMap<String, String>,
    /// Settings of single tools.
    pub(super) rules: &'a [ToolRuleTable],
}

impl McpTable {
    /// Makes `spec`, at `at` in the file, an MCP server with these tools.
    pub(super) fn apply(
        &self,
        spec: &mut AgentSpec,
        &ToolSettings { tools, renames, rules }: &ToolSettings<'_>,
        at: &str,
        problems: &mut Problems,
    ) {
        let Self { command, env, url, headers: _, protocol } = self;
        if let Some(url) = url {
            self.check_remote(url, at, problems);
        } else if !self.headers.is_empty() {
            problems.add(format!("{at}.mcp.headers"), "are only for a server with a `url`");
        } else if command.first().is_none_or(|program| program.trim().is_empty()) {
            let problem = "must name a program (or `url` a server), such as [\"npx\", \"-y\", \"@modelcontextprotocol/server-filesystem\", \".\"]";
            problems.add(format!("{at}.mcp.command"), problem);
        }
        for name in env.keys() {
            if service_token::is_variable(name) {
                let problem = "is reserved for Phoenix's services; remove it from the server's variables";
                problems.add(format!("{at}.mcp.env.{name}"), problem);
            }
            if name.is_empty() || name.contains(['=', '\0']) {
                problems.add(format!("{at}.mcp.env"), format_args!("`{name}` is no name of a variable"));
            }
        }
        let is_version = |version: &str| version == MODERN_VERSION || HANDSHAKE_VERSIONS.contains(&version);
        let protocol = protocol.as_deref().filter(|version| *version != AUTO);
        if let Some(version) = protocol.filter(|version| !is_version(version)) {
            let known = HANDSHAKE_VERSIONS.join(", ");
            let problem = format_args!("is `{version}`; it must be {AUTO}, {MODERN_VERSION}, {known}");
            problems.add(format!("{at}.mcp.protocol"), problem);
        }
        if tools.is_some_and(<[_]>::is_empty) {
            let problem = "must name a tool, such as [\"read_*\"]; remove the setting to offer every tool";
            problems.add(format!("{at}.tools"), problem);
        }
        spec.mode = AgentMode::Mcp;
        spec.command.clone_from(command);
        // Those of `[agents.default]` are for other agents.
        spec.actions.clear();
        let rules = rules.iter().enumerate();
        let rules = rules
            .map(|(index, rule)| rule.rule(spec, &format!("{at}.tool_rules[{index}]"), problems))
            .collect();
        spec.mcp = Some(McpSettings {
            remote: self.remote(),
            variables: env.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect(),
            tools: tools.unwrap_or_default().to_vec(),
            renames: renames.clone(),
            rules,
            protocol: protocol.map(str::to_owned),
        });
        check_renames(spec, at, problems);
    }
}

impl McpTable {
    fn remote(&self) -> Option<RemoteServer> {
        let headers = self.headers.iter().map(|(name, value)| (name.clone(), value.clone().into()));
        Some(RemoteServer { url: self.url.clone()?, headers: headers.collect() })
    }

    fn check_remote(&self, url: &str, at: &str, problems: &mut Problems) {
        let is_address = url.parse::<Uri>().is_ok_and(|url| {
            matches!(url.scheme_str(), Some("http" | "https"))
                && url.host().is_some_and(|host| !host.is_empty())
        });
        if !is_address {
            problems.add(format!("{at}.mcp.url"), "must be an address such as https://tools.example.com/mcp");
        }
        for (name, is_set) in [("command", !self.command.is_empty()), ("env", !self.env.is_empty())] {
            if is_set {
                problems.add(
                    format!("{at}.mcp.{name}"),
                    "must not be set beside `url`: the server is no process",
                );
            }
        }
        for (name, value) in &self.headers {
            let problem = match HeaderName::try_from(name.as_str()) {
                Err(_) => "is no name of a header",
                Ok(name) if RESERVED_HEADERS.contains(&name.as_str()) => "is set by the protocol; remove it",
                Ok(_) if HeaderValue::try_from(value.as_str()).is_err() => {
                    "has a value that no header can carry"
                }
                Ok(_) => continue,
            };
            problems.add(format!("{at}.mcp.headers.{name}"), problem);
        }
    }
}

/// Reports renames that give one name to two tools, or a name that no action has.
fn check_renames(spec: &AgentSpec, at: &str, problems: &mut Problems) {
    let Some(McpSettings { renames, .. }) = &spec.mcp else { return };
    let mut names = BTreeMap::new();
    for (tool, action) in renames {
        let at = format!("{at}.rename.{tool}");
        let is_name = !action.trim().is_empty()
            && action.len() <= MAX_ACTION_BYTES
            && action != ANY_ACTION
            && !action.chars().any(char::is_control);
        if !is_name {
            problems.add(
                &at,
                format_args!("must be a name of 1 to {MAX_ACTION_BYTES} bytes in one line, and not `*`"),
            );
        }
        if let Some(other) = names.insert(action, tool) {
            problems
                .add(&at, format_args!("is `{action}`, as for `{other}`; give each tool a name of its own"));
        }
        if spec.mcp.as_ref().is_some_and(|settings| !settings.offers(tool)) {
            problems.add(&at, format_args!("is for a tool that `tools` does not offer; add `{tool}` to it"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{PhoenixConfig, Problems};

    fn parse(text: &str) -> Result<PhoenixConfig, Problems> {
        PhoenixConfig::parse(text, "phoenix", &|name| (name == "HUB_TOKEN").then(|| "hub-secret".to_owned()))
    }

    #[test]
    fn mcp_server_is_an_agent_with_its_own_variables() {
        let config = parse(
            r#"
            [agents.default.actions.ping]
            [agents.files]
            mcp = { command = ["npx", "files", "${HUB_TOKEN}"], env = { TOKEN = "${HUB_TOKEN}" } }
            tools = ["read_*"]
            rename = { read_log = "log" }
            start_timeout_secs = 90
            retry = { max_attempts = 5, max_backoff_ms = 900 }
            [[agents.files.tool_rules]]
            tools = ["read_*"]
            timeout_secs = 120
            retry = { max_attempts = 2 }
            [[agents.files.tool_rules]]
            tools = ["read_log"]
            idempotent = false
            "#,
        )
        .unwrap();
        let files = config.agents.get(&"files".parse().unwrap()).unwrap();
        assert_eq!(
            (files.mode, &*files.command),
            (AgentMode::Mcp, &["npx", "files", "hub-secret"].map(String::from)[..])
        );
        assert_eq!((files.start_timeout, files.actions.is_empty()), (Duration::from_secs(90), true));
        let settings = files.mcp.as_ref().unwrap();
        assert_eq!((settings.variables["TOKEN"].expose(), &*settings.tools[0]), ("hub-secret", "read_*"));
        assert_eq!((settings.action_of("read_log"), settings.tool_of("log")), (Some("log"), "read_log"));
        let limits = settings.limits_of("read_log");
        let retry = limits.retry.unwrap();
        assert_eq!(limits.timeout, Some(Duration::from_secs(120)));
        assert_eq!(
            (retry.max_attempts, retry.max_backoff),
            (2, Duration::from_millis(900)),
            "the rest is the agent's"
        );
        assert_eq!(
            (settings.is_idempotent("read_log"), settings.is_idempotent("read_it")),
            (Some(false), None)
        );
        assert!(config.executor_variables().contains("HUB_TOKEN"));
        assert!(!format!("{:?}", settings.variables).contains("hub-secret"));
    }

    #[test]
    fn settings_without_meaning_for_an_mcp_server_are_rejected() {
        for (text, expected) in [
            ("[agents.a]\nmcp = {}", "agents.a.mcp.command: must name a program"),
            (
                "[agents.a]\nmcp = { command = [\"x\"], url = \"http://y\" }",
                "agents.a.mcp.command: must not be set beside `url`",
            ),
            (
                "[agents.a]\nmcp = { command = [\"x\"], protocol = \"2031\" }",
                "agents.a.mcp.protocol: is `2031`; it must be auto, 2026-07-28, 2025-11-25",
            ),
            ("[agents.a]\nmcp = { url = \"y\" }", "agents.a.mcp.url: must be an address"),
            ("[agents.a]\nmcp = { url = \"ftp://y\" }", "agents.a.mcp.url: must be an address"),
            (
                "[agents.a]\nmcp = { url = \"http://y\", headers = { \"a b\" = \"c\" } }",
                "agents.a.mcp.headers.a b: is no name",
            ),
            (
                "[agents.a]\nmcp = { url = \"http://y\", headers = { Accept = \"c\" } }",
                "headers.Accept: is set by the protocol",
            ),
            ("[agents.a]\nmcp = { url = \"http://y\", headers = { a = \"\\n\" } }", "no header can carry"),
            (
                "[agents.a]\nmcp = { url = \"http://y\", env = { a = \"b\" } }",
                "agents.a.mcp.env: must not be set",
            ),
            (
                "[agents.a]\nmcp = { command = [\"x\"], env = { \"A=B\" = \"\" } }",
                "`A=B` is no name of a variable",
            ),
            (
                "[agents.a]\ncommand = [\"x\"]\nmcp = { command = [\"x\"] }",
                "agents.a.command: must not be set beside",
            ),
            (
                "[agents.a]\nworkers = 2\nmcp = { command = [\"x\"] }",
                "agents.a.workers: must not be set beside",
            ),
            ("[agents.a]\ntools = []\nmcp = { command = [\"x\"] }", "agents.a.tools: must name a tool"),
            ("[agents.a]\ntools = [\"x\"]\ncommand = [\"x\"]", "agents.a.tools: is only for MCP servers"),
            (
                "[agents.git_agent]\nmcp = { command = [\"x\"] }",
                "agents.git_agent.mcp: is only for agents of your own",
            ),
            (
                "[agents.a]\ncommand = [\"x\"]\n[[agents.a.tool_rules]]\ntools = [\"x\"]",
                "agents.a.tool_rules: is only for MCP servers",
            ),
            (
                "[agents.a]\nmcp.command = [\"x\"]\n[[agents.a.tool_rules]]\ntimeout_secs = 1",
                "agents.a.tool_rules[0].tools: must name tools",
            ),
            (
                "[agents.a]\nmcp.command = [\"x\"]\n[[agents.a.tool_rules]]\ntools = [\"x\"]\ntimeout_secs = 0",
                "agents.a.tool_rules[0].timeout_secs: must be more than 0",
            ),
            (
                "[agents.a]\nmcp.command = [\"x\"]\n[[agents.a.tool_rules]]\ntools = [\"x\"]\nretry.max_attempts = 0",
                "agents.a.tool_rules[0].retry.max_attempts: must be at least 1",
            ),
            (
                "[agents.a]\nmcp.command = [\"x\"]\nretry.max_attempts = 101",
                "agents.a.retry.max_attempts: is 101, and may be at most 100",
            ),
            (
                "[agents.a]\nmcp.command = [\"x\"]\n[[agents.a.tool_rules]]\ntools = [\"x\"]",
                "agents.a.tool_rules[0]: sets nothing",
            ),
            ("[agents.a]\ncommand = [\"x\"]\nrename.a = \"b\"", "agents.a.rename: is only for MCP servers"),
            (
                "[agents.a]\nmcp.command = [\"x\"]\nrename = { a = \"c\", b = \"c\" }",
                "agents.a.rename.b: is `c`, as for `a`",
            ),
            ("[agents.a]\nmcp.command = [\"x\"]\nrename.a = \"*\"", "agents.a.rename.a: must be a name"),
            (
                "[agents.a]\nmcp.command = [\"x\"]\ntools = [\"b*\"]\nrename.a = \"b\"",
                "agents.a.rename.a: is for a tool that `tools` does not offer",
            ),
            ("[agents.a]\nmode = \"mcp\"\ncommand = [\"x\"]", "unknown variant `mcp`"),
        ] {
            let problems = parse(text).unwrap_err().to_string();
            assert!(problems.contains(expected), "{text}: {problems}");
        }
        let reserved = format!(
            "[agents.a]\nmcp = {{ command = [\"x\"], env = {{ {} = \"x\" }} }}",
            service_token::VARIABLE
        );
        assert!(parse(&reserved).unwrap_err().to_string().contains("is reserved"));
    }
}
