//! `[agents.NAME] mcp`: an agent that is an MCP server.

use std::collections::BTreeMap;

use phoenix_domain::{AgentMode, AgentSpec, mcp::McpSettings};
use serde::Deserialize;

use super::problems::Problems;
use crate::service_token;

/// The table `mcp` of an agent.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct McpTable {
    command: Vec<String>,
    env: BTreeMap<String, String>,
}

impl McpTable {
    /// Makes `spec`, at `at` in the file, an MCP server that offers `tools`.
    pub(super) fn apply(
        &self,
        spec: &mut AgentSpec,
        tools: Option<&[String]>,
        at: &str,
        problems: &mut Problems,
    ) {
        let Self { command, env } = self;
        if command.first().is_none_or(|program| program.trim().is_empty()) {
            let problem = "must name a program, such as [\"npx\", \"-y\", \"@modelcontextprotocol/server-filesystem\", \".\"]";
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
        if tools.is_some_and(<[_]>::is_empty) {
            let problem = "must name a tool, such as [\"read_*\"]; remove the setting to offer every tool";
            problems.add(format!("{at}.tools"), problem);
        }
        spec.mode = AgentMode::Mcp;
        spec.command.clone_from(command);
        // Those of `[agents.default]` are for other agents.
        spec.actions.clear();
        spec.mcp = Some(McpSettings {
            variables: env.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect(),
            tools: tools.unwrap_or_default().to_vec(),
        });
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
            start_timeout_secs = 90
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
        assert!(config.executor_variables().contains("HUB_TOKEN"));
        assert!(!format!("{:?}", settings.variables).contains("hub-secret"));
    }

    #[test]
    fn settings_without_meaning_for_an_mcp_server_are_rejected() {
        for (text, expected) in [
            ("[agents.a]\nmcp = {}", "agents.a.mcp.command: must name a program"),
            ("[agents.a]\nmcp = { command = [\"x\"], url = \"y\" }", "agents.a.mcp.url: unknown key"),
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
