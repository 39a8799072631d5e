//! `[agents]`: the settings in effect for each agent.

use phoenix_domain::{
    AgentMode, AgentSpec,
    approval::ApprovalPolicy,
    builtin::BUILTINS,
    health::BreakerPolicy,
    mcp::{McpSettings, ToolRule},
    retry::RetryPolicy,
};

use crate::config::{
    file::PhoenixConfig,
    values::{Origin, SettingValue, command, list, masked_url, seconds},
};

/// Settings that `[agents.default]` does not give to other agents.
const OWN: [&str; 8] = ["command", "description", "env", "mcp", "rename", "route", "tool_rules", "tools"];

/// Adds the settings of every agent.
pub(super) fn add(config: &PhoenixConfig, rows: &mut Vec<SettingValue>) {
    for spec in config.agents.iter() {
        let is_builtin = BUILTINS.iter().any(|builtin| spec.name.as_str() == builtin.name);
        for (setting, value) in settings(spec) {
            let name = format!("agents.{}.{setting}", spec.name);
            let inherited = || config.file.origin(&format!("agents.default.{setting}"));
            let is_inherited = !(OWN.contains(&setting) || is_builtin && setting == "actions");
            let origin = config.file.origin(&name).or_else(|| inherited().filter(|_| is_inherited));
            rows.push(SettingValue { name, value, origin: origin.unwrap_or(Origin::Default) });
        }
    }
}

fn settings(spec: &AgentSpec) -> Vec<(&'static str, String)> {
    let AgentSpec {
        name: _,
        description,
        command: program,
        env,
        provider: _,
        provider_is_configured: _,
        route,
        actions,
        mcp,
        listing: _,
        mode,
        workers,
        timeout,
        start_timeout,
        retry: RetryPolicy { max_attempts, initial_backoff, max_backoff },
        breaker,
        max_concurrency,
        max_queue,
        approval: ApprovalPolicy { actions: approvals, timeout: approval_timeout },
    } = spec;
    let mut rows = vec![("description", description.clone())];
    match mcp.as_ref().map(|mcp| &mcp.remote) {
        Some(Some(remote)) => rows.push(("mcp", masked_url(&remote.url))),
        Some(None) => rows.push(("mcp", command(program.iter().map(String::as_str)))),
        None => rows.push(("command", command(program.iter().map(String::as_str)))),
    }
    let mode_name = match mode {
        AgentMode::Oneshot => "oneshot",
        AgentMode::Workers => "workers",
        AgentMode::Mcp => "mcp",
    };
    rows.extend([
        ("mode", mode_name.to_owned()),
        ("env", list(env)),
        ("route", list(route)),
        ("actions", list(actions.keys())),
        ("timeout_secs", seconds(*timeout)),
        ("start_timeout_secs", seconds(*start_timeout)),
        ("workers", workers.to_string()),
        ("max_concurrency", max_concurrency.to_string()),
        ("max_queue", max_queue.to_string()),
        ("approval", list(approvals)),
        ("approval_timeout_secs", seconds(*approval_timeout)),
        ("retry.max_attempts", max_attempts.to_string()),
        ("retry.initial_backoff_ms", format!("{} ms", initial_backoff.as_millis())),
        ("retry.max_backoff_ms", format!("{} ms", max_backoff.as_millis())),
    ]);
    rows.extend(breaker_settings(breaker));
    if let Some(McpSettings { tools, renames, rules, .. }) = mcp {
        rows.push(("tools", list(tools)));
        let renames = renames.iter().map(|(tool, action)| format!("{tool} to {action}"));
        rows.push(("rename", renames.collect::<Vec<_>>().join(", ")));
        rows.push(("tool_rules", rules.iter().map(rule).collect::<Vec<_>>().join("; ")));
    }
    rows
}

/// A rule in a few words.
fn rule(rule: &ToolRule) -> String {
    let ToolRule { tools, timeout, retry, idempotent } = rule;
    let mut settings: Vec<_> =
        timeout.iter().map(|timeout| format!("timeout_secs {}", seconds(*timeout))).collect();
    if let Some(RetryPolicy { max_attempts, initial_backoff, max_backoff }) = retry {
        let (initial, max) = (initial_backoff.as_millis(), max_backoff.as_millis());
        settings.push(format!("retry {max_attempts} attempts, {initial} to {max} ms apart"));
    }
    settings.extend(idempotent.map(|idempotent| format!("idempotent {idempotent}")));
    format!("{}: {}", list(tools), settings.join(", "))
}

fn breaker_settings(policy: &BreakerPolicy) -> [(&'static str, String); 11] {
    let BreakerPolicy {
        failure_threshold,
        cooldown,
        max_cooldown,
        success_threshold,
        window,
        window_calls,
        min_calls,
        min_tasks,
        failure_percent,
        slow_call,
        slow_percent,
    } = policy;
    [
        ("circuit_breaker.failure_threshold", failure_threshold.to_string()),
        ("circuit_breaker.cooldown_ms", format!("{} ms", cooldown.as_millis())),
        ("circuit_breaker.max_cooldown_ms", format!("{} ms", max_cooldown.as_millis())),
        ("circuit_breaker.success_threshold", success_threshold.to_string()),
        ("circuit_breaker.window_ms", format!("{} ms", window.as_millis())),
        ("circuit_breaker.window_calls", window_calls.to_string()),
        ("circuit_breaker.min_calls", min_calls.to_string()),
        ("circuit_breaker.min_tasks", min_tasks.to_string()),
        ("circuit_breaker.failure_percent", failure_percent.to_string()),
        ("circuit_breaker.slow_call_ms", format!("{} ms", slow_call.as_millis())),
        ("circuit_breaker.slow_percent", slow_percent.to_string()),
    ]
}
