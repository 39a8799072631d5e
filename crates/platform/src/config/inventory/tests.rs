use crate::config::{Role, RoleFlags, RoleSettings, SettingValue};

const FILE: &str = r#"
[planner]
retention_days = 7
[llm.openai]
api_key = "${HIDDEN}"
[llm.providers.own]
base_url = "http://user:hunter2@models.local/v1"
model_name = "m"
[agents.default]
timeout_secs = 9
[agents.reviewer]
command = ["python3", "--token=hunter2", "x.py"]
max_queue = 3
[agents.hub]
mcp = { url = "https://hub.local/mcp?token=hunter2", headers = { Authorization = "hunter2" } }
[agents.local]
mcp = { command = ["npx", "hunter2"], env = { SOMETHING = "hunter2" } }
rename = { read_file = "read" }
[[agents.local.tool_rules]]
tools = ["read_*", "list"]
timeout_secs = 2
retry = { max_attempts = 5 }
idempotent = true
[budgets.agents.reviewer]
max_cost_usd = 1.5
"#;

fn env(name: &str) -> Option<String> {
    let value = match name {
        "HIDDEN" | "METRICS_TOKEN" | "ORCH_API_TOKEN" => "hunter2-and-more",
        "PHOENIX_SERVICE_TOKEN" => "hunter2-0123456789012345678901234567890123456789",
        "ANTHROPIC_API_KEY" => "hunter2-anthropic",
        "GRPC_ADDR" => "127.0.0.1:4000",
        "DATABASE_URL" => "postgres://phoenix:hunter2@db/phoenix",
        "OTEL_EXPORTER_OTLP_ENDPOINT" => "http://127.0.0.1:4317",
        "OTEL_EXPORTER_OTLP_HEADERS" => "authorization=hunter2",
        _ => return None,
    };
    Some(value.to_owned())
}

fn rows(role: Role, flags: &RoleFlags) -> Vec<SettingValue> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("phoenix.toml");
    std::fs::write(&path, FILE).unwrap();
    let flags = RoleFlags { config: Some(path), ..flags.clone() };
    let settings = RoleSettings::resolve(role, &flags, "phoenix", &env).unwrap();
    let own = settings.inventory(&flags, &env, &|_| false);
    own.into_iter().chain(settings.config.inventory(&env)).collect()
}

fn found<'a>(rows: &'a [SettingValue], name: &str) -> (&'a str, String) {
    let named: Vec<_> = rows.iter().filter(|row| row.name == name).collect();
    assert_eq!(named.len(), 1, "{name}: {rows:#?}");
    (&named[0].value, named[0].origin.to_string())
}

#[test]
fn every_value_names_its_origin() {
    let flags = RoleFlags { metrics_addr: Some("127.0.0.1:4001".into()), ..RoleFlags::default() };
    let rows = rows(Role::Planner, &flags);
    for (name, value, origin) in [
        ("planner.grpc_addr", "127.0.0.1:4000", "environment (GRPC_ADDR)"),
        ("planner.metrics_addr", "127.0.0.1:4001", "flag (--metrics-addr)"),
        ("planner.database_url", "postgres://[redacted]", "environment (DATABASE_URL)"),
        ("planner.retention_days", "7 days", "file (planner.retention_days)"),
        ("planner.max_plans_in_flight", "20000", "default"),
        ("planner.metrics_token", "[set]", "environment (METRICS_TOKEN)"),
        ("planner.traces", "http://127.0.0.1:4317", "environment (OTEL_EXPORTER_OTLP_ENDPOINT)"),
        ("llm.openai.api_key", "[set]", "file (llm.openai.api_key with ${HIDDEN})"),
        ("llm.anthropic.api_key", "[set]", "environment (ANTHROPIC_API_KEY)"),
        ("llm.gemini.api_key", "[not set]", "default"),
        ("llm.providers.own.base_url", "http://models.local/v1", "file (llm.providers.own.base_url)"),
        ("agents.reviewer.command", "python3 and 2 arguments", "file (agents.reviewer.command)"),
        ("agents.reviewer.timeout_secs", "9 s", "file (agents.default.timeout_secs)"),
        ("agents.git_agent.timeout_secs", "9 s", "file (agents.default.timeout_secs)"),
        ("agents.reviewer.max_queue", "3", "file (agents.reviewer.max_queue)"),
        ("agents.reviewer.retry.max_attempts", "3", "default"),
        ("agents.hub.mcp", "https://hub.local/mcp?[set]", "file (agents.hub.mcp)"),
        ("agents.local.mcp", "npx and 1 argument", "file (agents.local.mcp)"),
        ("agents.local.rename", "read_file to read", "file (agents.local.rename)"),
        (
            "agents.local.tool_rules",
            "read_*, list: timeout_secs 2 s, retry 5 attempts, 500 to 5000 ms apart, idempotent true",
            "file (agents.local.tool_rules)",
        ),
        ("budgets.agents.reviewer.max_cost_usd", "1.5", "file (budgets.agents.reviewer.max_cost_usd)"),
    ] {
        assert_eq!(found(&rows, name), (value, origin.to_owned()), "{name}");
    }
}

#[test]
fn secrets_are_in_no_value() {
    for role in Role::ALL {
        for row in rows(*role, &RoleFlags::default()) {
            assert!(!format!("{row:?}").contains("hunter2"), "{row:?}");
        }
    }
}
