//! `[agents]`: each agent takes its settings from `[agents.default]`, the built-in defaults, and its own table.

use std::{collections::BTreeMap, path::Path, time::Duration};

use phoenix_domain::{
    AgentMode, AgentName, AgentSpec,
    builtin::{BASE_ENV, BUILTINS},
    health::{BreakerPolicy, MAX_WINDOW_CALLS, MIN_TASKS},
};
use serde::Deserialize;

use super::{
    actions::ActionTable,
    approval::ApprovalSetting,
    bounds::{positive, set, time, within},
    mcp::{McpTable, ToolSettings},
    problems::Problems,
    retry::RetryTable,
    sections::section,
    tool_rules::ToolRuleTable,
};
use crate::service_token;

/// Name of the table with defaults for every agent.
const DEFAULT_TABLE: &str = "default";

/// One `[agents.NAME]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AgentTable {
    enabled: Option<bool>,
    command: Option<Vec<String>>,
    mcp: Option<McpTable>,
    tools: Option<Vec<String>>,
    tool_rules: Vec<ToolRuleTable>,
    rename: BTreeMap<String, String>,
    description: Option<String>,
    route: Option<Vec<String>>,
    actions: BTreeMap<String, ActionTable>,
    mode: Option<AgentMode>,
    workers: Option<u32>,
    env: Option<Vec<String>>,
    timeout_secs: Option<f64>,
    start_timeout_secs: Option<f64>,
    max_concurrency: Option<u32>,
    max_queue: Option<u32>,
    approval: Option<ApprovalSetting>,
    approval_timeout_secs: Option<f64>,
    retry: RetryTable,
    circuit_breaker: BreakerTable,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
struct BreakerTable {
    failure_threshold: Option<u32>,
    cooldown_ms: Option<u64>,
    max_cooldown_ms: Option<u64>,
    success_threshold: Option<u32>,
    window_ms: Option<u64>,
    window_calls: Option<u32>,
    min_calls: Option<u32>,
    min_tasks: Option<u32>,
    failure_percent: Option<u32>,
    slow_call_ms: Option<u64>,
    slow_percent: Option<u32>,
}

impl AgentTable {
    /// Whether the agent is disabled.
    pub(super) fn is_disabled(&self) -> bool {
        self.enabled == Some(false)
    }

    /// Applies mode, workers and timeout of `[agents.default]` to a built-in agent, which has its own defaults for them.
    pub(super) fn apply_to_builtin(&self, spec: &mut AgentSpec) {
        set(&mut spec.mode, self.mode.as_ref());
        set(&mut spec.workers, self.workers.filter(|workers| *workers > 0).as_ref());
        set(&mut spec.timeout, self.timeout().filter(|timeout| !timeout.is_zero()).as_ref());
    }

    /// The timeout, if it is set and valid.
    fn timeout(&self) -> Option<Duration> {
        self.timeout_secs.and_then(|secs| Duration::try_from_secs_f64(secs).ok())
    }

    /// Applies the table to `spec`.
    pub(super) fn apply(&self, spec: &mut AgentSpec, at: &str, problems: &mut Problems) {
        set(&mut spec.command, self.command.as_ref());
        set(&mut spec.description, self.description.as_ref());
        set(&mut spec.route, self.route.as_ref());
        set(&mut spec.mode, self.mode.as_ref());
        set(&mut spec.env, self.env.as_ref());
        for name in spec.env.iter().filter(|name| service_token::is_variable(name)) {
            problems.add(
                format!("{at}.env"),
                format_args!(
                    "`{name}` is reserved for Phoenix's services; remove it from the agent's variables"
                ),
            );
        }
        set(&mut spec.max_queue, self.max_queue.as_ref());
        positive(&mut spec.workers, self.workers, &format!("{at}.workers"), problems);
        positive(&mut spec.max_concurrency, self.max_concurrency, &format!("{at}.max_concurrency"), problems);
        time(&mut spec.timeout, self.timeout_secs, &format!("{at}.timeout_secs"), problems);
        let at_start = format!("{at}.start_timeout_secs");
        time(&mut spec.start_timeout, self.start_timeout_secs, &at_start, problems);
        if let Some(approval) = &self.approval {
            spec.approval.actions = approval.patterns(&format!("{at}.approval"), problems);
        }
        let at_approval = format!("{at}.approval_timeout_secs");
        time(&mut spec.approval.timeout, self.approval_timeout_secs, &at_approval, problems);
        self.retry.apply(&mut spec.retry, &format!("{at}.retry"), problems);
        self.circuit_breaker.apply(&mut spec.breaker, &format!("{at}.circuit_breaker"), problems);
    }

    /// Adds the declared actions to `spec`. Paths are relative to `folder`.
    pub(super) fn declare(&self, spec: &mut AgentSpec, folder: &Path, problems: &mut Problems) {
        for (name, table) in &self.actions {
            let at = format!("agents.{}.actions.{name}", spec.name);
            if name.trim().is_empty() {
                problems.add(&at, "the name must not be blank");
            }
            spec.actions.insert(name.clone(), table.action(&at, folder, problems));
        }
    }

    /// An agent that is not built in, on top of `base`.
    pub(super) fn own_agent(&self, name: AgentName, base: &AgentSpec, problems: &mut Problems) -> AgentSpec {
        let at = format!("agents.{name}");
        let env = BASE_ENV.iter().map(|name| (*name).to_owned()).collect();
        let mut spec = AgentSpec { name, command: Vec::new(), env, ..base.clone() };
        self.apply(&mut spec, &at, problems);
        if let Some(server) = &self.mcp {
            self.refuse_beside_mcp(&at, problems);
            let tools =
                ToolSettings { tools: self.tools.as_deref(), renames: &self.rename, rules: &self.tool_rules };
            server.apply(&mut spec, &tools, &at, problems);
            return spec;
        }
        for (name, is_set) in self.tool_settings() {
            if is_set {
                problems.add(format!("{at}.{name}"), "is only for MCP servers; remove it, or set `mcp`");
            }
        }
        if spec.command.first().is_none_or(|program| program.trim().is_empty()) {
            problems
                .add(format!("{at}.command"), "must name a program, such as [\"python3\", \"reviewer.py\"]");
        }
        spec
    }
}

impl AgentTable {
    /// Reports settings that have no meaning for an MCP server.
    fn refuse_beside_mcp(&self, at: &str, problems: &mut Problems) {
        for (name, is_set, instead) in [
            ("command", self.command.is_some(), "set `mcp.command`"),
            ("mode", self.mode.is_some(), "one process serves all requests of an MCP server"),
            ("workers", self.workers.is_some(), "set `max_concurrency`"),
            ("actions", !self.actions.is_empty(), "the tools of an MCP server are its actions"),
        ] {
            if is_set {
                problems.add(format!("{at}.{name}"), format_args!("must not be set beside `mcp`: {instead}"));
            }
        }
    }

    /// Settings about the tools of an MCP server, and whether they are set.
    fn tool_settings(&self) -> [(&'static str, bool); 3] {
        [
            ("tools", self.tools.is_some()),
            ("tool_rules", !self.tool_rules.is_empty()),
            ("rename", !self.rename.is_empty()),
        ]
    }

    /// Reports settings of an MCP server in the table of an agent that cannot be one.
    fn refuse_mcp(&self, at: &str, problems: &mut Problems) {
        for (name, is_set) in [("mcp", self.mcp.is_some())].into_iter().chain(self.tool_settings()) {
            if is_set {
                problems
                    .add(format!("{at}.{name}"), "is only for agents of your own, such as [agents.files]");
            }
        }
    }
}

impl BreakerTable {
    fn apply(self, policy: &mut BreakerPolicy, at: &str, problems: &mut Problems) {
        let Self {
            failure_threshold,
            cooldown_ms,
            max_cooldown_ms,
            success_threshold,
            window_ms,
            window_calls,
            min_calls,
            min_tasks,
            failure_percent,
            slow_call_ms,
            slow_percent,
        } = self;
        for (target, value, name, range) in [
            (&mut policy.failure_threshold, failure_threshold, "failure_threshold", 1..=u32::MAX),
            (&mut policy.success_threshold, success_threshold, "success_threshold", 1..=u32::MAX),
            (&mut policy.window_calls, window_calls, "window_calls", 1..=MAX_WINDOW_CALLS),
            (&mut policy.min_calls, min_calls, "min_calls", 1..=MAX_WINDOW_CALLS),
            (&mut policy.min_tasks, min_tasks, "min_tasks", MIN_TASKS..=MAX_WINDOW_CALLS),
            (&mut policy.failure_percent, failure_percent, "failure_percent", 0..=100),
            (&mut policy.slow_percent, slow_percent, "slow_percent", 0..=100),
        ] {
            within(target, value, range, &format!("{at}.{name}"), problems);
        }
        for (target, milliseconds) in [
            (&mut policy.cooldown, cooldown_ms),
            (&mut policy.max_cooldown, max_cooldown_ms),
            (&mut policy.window, window_ms),
            (&mut policy.slow_call, slow_call_ms),
        ] {
            set(target, milliseconds.map(Duration::from_millis).as_ref());
        }
        if policy.min_calls > policy.window_calls && (min_calls.is_some() || window_calls.is_some()) {
            problems.add(
                format!("{at}.min_calls"),
                format_args!(
                    "is {}, more than the {} of window_calls, so that no rate opens the circuit; set 0 for failure_percent and \
                     slow_percent instead",
                    policy.min_calls, policy.window_calls
                ),
            );
        }
    }
}

/// Reads `[agents]`: built-in agents and the operator's own.
pub(super) fn agents(
    value: toml::Value,
    folder: &Path,
    exe: &str,
    problems: &mut Problems,
) -> BTreeMap<AgentName, AgentSpec> {
    let mut tables = BTreeMap::new();
    match value {
        toml::Value::Table(entries) => {
            for (name, table) in entries {
                let table: AgentTable = section(&format!("agents.{name}"), table, problems);
                tables.insert(name, table);
            }
        }
        _ => problems.add("agents", "must hold tables such as [agents.reviewer]"),
    }
    let mut agents = BTreeMap::new();
    let Ok(default) = DEFAULT_TABLE.parse::<AgentName>() else { return agents };
    let mut base = AgentSpec::new(default, Vec::new());
    let defaults = tables.remove(DEFAULT_TABLE).unwrap_or_default();
    defaults.refuse_mcp("agents.default", problems);
    defaults.apply(&mut base, "agents.default", problems);
    defaults.declare(&mut base, folder, problems);
    for builtin in BUILTINS {
        let own = tables.remove(builtin.name).unwrap_or_default();
        let Ok(mut spec) = builtin.spec(&base, exe) else { continue };
        defaults.apply_to_builtin(&mut spec);
        own.refuse_mcp(&format!("agents.{}", builtin.name), problems);
        own.apply(&mut spec, &format!("agents.{}", builtin.name), problems);
        own.declare(&mut spec, folder, problems);
        if !own.is_disabled() {
            agents.insert(spec.name.clone(), spec);
        }
    }
    for (name, table) in tables {
        match name.parse::<AgentName>() {
            Ok(name) if !table.is_disabled() => {
                let mut spec = table.own_agent(name, &base, problems);
                table.declare(&mut spec, folder, problems);
                agents.insert(spec.name.clone(), spec);
            }
            Ok(_) => {}
            Err(problem) => problems.add(format_args!("agents.{name}"), format_args!("the name {problem}")),
        }
    }
    agents
}
