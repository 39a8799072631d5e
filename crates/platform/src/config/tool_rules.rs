//! `[[agents.NAME.tool_rules]]`: settings of single tools of an MCP server.

use phoenix_domain::{AgentSpec, mcp::ToolRule};
use serde::Deserialize;

use super::{bounds::time, problems::Problems, retry::RetryTable};

/// One `[[agents.NAME.tool_rules]]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ToolRuleTable {
    tools: Vec<String>,
    timeout_secs: Option<f64>,
    retry: Option<RetryTable>,
    idempotent: Option<bool>,
}

impl ToolRuleTable {
    /// The rule. What `retry` does not set is as `spec`, the agent, has it.
    pub(super) fn rule(&self, spec: &AgentSpec, at: &str, problems: &mut Problems) -> ToolRule {
        let Self { tools, timeout_secs, retry, idempotent } = self;
        if tools.is_empty() || tools.iter().any(|pattern| pattern.trim().is_empty()) {
            problems.add(format!("{at}.tools"), "must name tools, such as [\"search_*\"]");
        }
        if timeout_secs.is_none() && retry.is_none() && idempotent.is_none() {
            problems.add(at, "sets nothing; set `timeout_secs`, `retry` or `idempotent`");
        }
        let mut timeout = spec.timeout;
        time(&mut timeout, *timeout_secs, &format!("{at}.timeout_secs"), problems);
        let retry = retry.as_ref().map(|table| {
            let mut retry = spec.retry;
            table.apply(&mut retry, &format!("{at}.retry"), problems);
            retry
        });
        ToolRule {
            tools: tools.clone(),
            timeout: timeout_secs.map(|_| timeout),
            retry,
            idempotent: *idempotent,
        }
    }
}
