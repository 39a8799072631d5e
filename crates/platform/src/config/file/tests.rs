use std::time::Duration;

use phoenix_domain::{AgentMode, AgentSpec};

use super::*;

fn parse(text: &str) -> Result<PhoenixConfig, Problems> {
    PhoenixConfig::parse(text, "/usr/bin/phoenix", &|name| {
        (name == "OPENAI_API_KEY").then(|| "sk-test".to_owned())
    })
}

#[test]
fn empty_file_has_the_four_builtin_agents() {
    let config = parse("").unwrap();
    let names: Vec<_> = config.agents.iter().map(|spec| spec.name.as_str()).collect();
    assert_eq!(names, ["echo_agent", "git_agent", "llm_router_agent", "obsidian_agent"]);
    assert_eq!(config.agents.default_agent().as_str(), "llm_router_agent");
    let git = config.agents.get(&"git_agent".parse().unwrap()).unwrap();
    assert_eq!(git.command, ["/usr/bin/phoenix", "agent", "git"]);
    assert!(git.env.iter().all(|name| !name.ends_with("API_KEY")));
}

#[test]
fn documented_example_is_applied() {
    let config = parse(
        r#"
        [planner]
        default_agent = "reviewer"
        idempotency_key_ttl_secs = 3600
        takeover_grace_secs = 30
        agent_grace_secs = 5
        [executor]
        labels = { gpu = "true" }
        [llm.openai]
        api_key = "${OPENAI_API_KEY}"
        [agents.default]
        timeout_secs = 12.5
        [agents.default.retry]
        max_attempts = 2
        [agents.reviewer]
        command = ["python3", "reviewer.py"]
        route = ["review", "diff"]
        mode = "workers"
        workers = 4
        env = ["PATH"]
        timeout_secs = 60
        [agents.reviewer.circuit_breaker]
        failure_threshold = 9
        "#,
    )
    .unwrap();
    let reviewer = config.agents.get(config.agents.default_agent()).unwrap();
    assert_eq!(reviewer.mode, AgentMode::Workers);
    assert_eq!(reviewer.timeout, Duration::from_secs(60));
    assert_eq!((reviewer.retry.max_attempts, reviewer.breaker.failure_threshold), (2, 9));
    let git = config.agents.get(&"git_agent".parse().unwrap()).unwrap();
    assert_eq!(git.timeout, Duration::from_millis(12_500));
    assert_eq!(config.llm.describe().provider, "openai");
    assert_eq!(config.planner.idempotency_key_ttl, Duration::from_secs(3600));
    assert_eq!(config.planner.takeover_grace, Duration::from_secs(30));
    assert_eq!(config.planner.agent_grace, Duration::from_secs(5));
    assert_eq!(config.executor.labels["gpu"], "true");
    assert_eq!(config.executor.agent_nice, 10, "the default");
    let default = parse("").unwrap().planner;
    assert_eq!((default.takeover_grace.as_secs(), default.agent_grace.as_secs()), (600, 60));
}

#[test]
fn foreign_default_agent_is_a_problem_of_a_single_stack() {
    let config = parse("[planner]\ndefault_agent = \"elsewhere\"").unwrap();
    assert_eq!(config.planner.default_agent.as_ref().unwrap().as_str(), "elsewhere");
    let problems = config.unknown_default_agent().to_string();
    assert!(problems.contains("planner.default_agent: unknown agent `elsewhere`"), "{problems}");
    assert!(parse("").unwrap().unknown_default_agent().is_empty());
}

#[test]
fn action_schema_is_inline_or_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("review.json"), r#"{"required": ["diff"], "not": {"const": null}}"#)
        .unwrap();
    let path = folder.path().join("phoenix.toml");
    let text = r#"
        [agents.reviewer]
        command = ["python3", "reviewer.py"]
        [agents.reviewer.actions.review]
        description = "Reviews a diff"
        input_schema = "review.json"
        [agents.reviewer.actions.rate]
        input_schema = { type = "object", properties = { stars = { type = "integer", maximum = 5 } } }
        [agents.reviewer.actions.ping]
        [agents.git_agent.actions.git_blame]
        description = "Author of each line"
        "#;
    std::fs::write(&path, text).unwrap();
    let config = PhoenixConfig::load(Some(&path), "phoenix", &|_| None).unwrap();
    let agent = |name: &str| config.agents.get(&name.parse().unwrap()).unwrap();
    let declared = |agent: &AgentSpec| agent.actions.keys().cloned().collect::<Vec<_>>();
    let reviewer = agent("reviewer");
    assert_eq!(declared(reviewer), ["ping", "rate", "review"]);
    let schema =
        |action: &str| reviewer.actions[action].input_schema.as_ref().map(|schema| schema.source().clone());
    assert_eq!(schema("review").unwrap()["not"]["const"], serde_json::Value::Null);
    assert_eq!(schema("rate").unwrap()["properties"]["stars"]["maximum"], 5);
    assert_eq!((schema("ping"), &*reviewer.actions["review"].description), (None, "Reviews a diff"));
    assert!(declared(agent("git_agent")).contains(&"git_blame".to_owned()), "in addition to its own actions");
    assert!(declared(agent("git_agent")).contains(&"git_log".to_owned()));
}

#[test]
fn retention_is_thirty_days_unless_configured() {
    let kept = |line: &str| parse(&format!("[planner]\n{line}")).unwrap().planner.retention;
    let days = |days: f64| Some(Duration::from_secs_f64(days * 86_400.0));
    assert_eq!(kept(""), days(30.0));
    assert_eq!(kept("retention_days = 7"), days(7.0));
    assert_eq!(kept("retention_days = 0.5"), days(0.5));
    assert_eq!(kept("retention_days = 0"), None);
}

#[test]
fn llm_agent_timeout_is_120_s_unless_configured() {
    let timeout = |text: &str| {
        let config = parse(text).unwrap();
        config.agents.get(&"llm_router_agent".parse().unwrap()).unwrap().timeout.as_secs()
    };
    assert_eq!(timeout(""), 120);
    assert_eq!(timeout("[agents.default]\ntimeout_secs = 20"), 20);
    assert_eq!(timeout("[agents.llm_router_agent]\ntimeout_secs = 300"), 300);
    let git = parse("").unwrap().agents.get(&"git_agent".parse().unwrap()).unwrap().timeout;
    assert_eq!(git, Duration::from_secs(30));
}

#[test]
fn invalid_base_url_is_rejected_with_the_right_form() {
    for (text, expected) in [
        (
            "[llm.openai]\nbase_url = \"https://api.openai.com/v1/chat/completions\"",
            "llm.openai.base_url: must not end in the path of an endpoint, which is added to it; write https://api.openai.com/v1",
        ),
        (
            "[llm.grok]\nbase_url = \"https://api.x.ai/v1?region=eu\"",
            "llm.grok.base_url: must not have a query or a fragment; write https://api.x.ai/v1",
        ),
    ] {
        let problems = parse(text).unwrap_err().to_string();
        assert!(problems.contains(expected), "{problems}");
    }
    let from_variable = PhoenixConfig::parse("", "phoenix", &|name| {
        (name == "OPENAI_BASE_URL").then(|| "https://api.openai.com/v1/chat/completions".to_owned())
    });
    assert!(from_variable.unwrap_err().to_string().contains("OPENAI_BASE_URL: must not end in"));
}

#[test]
fn every_problem_is_listed_at_once() {
    let problems = parse(
        r#"
        [planner]
        retention_days = -1
        max_plans_in_flight = 0
        [gatway]
        [executor]
        grpc_adr = "x"
        agent_nice = -1
        [executor.labels]
        gpu = "LONG"
        [agents.default.retry]
        max_attempts = 0
        [agents.git_agent]
        mode = "sometimes"
        [agents."-x"]
        command = ["x"]
        [agents.mine]
        timeout_secs = -1
        [agents.mine.actions.a]
        input_schema = { properties = { n = { minimum = "one" } } }
        [agents.mine.actions.b]
        input_schema = "nowhere/schema.json"
        [agents.git_agent.actions.c]
        input_schma = {}
        "#
        .replace("LONG", &"x".repeat(129))
        .as_str(),
    )
    .unwrap_err()
    .to_string();
    for expected in [
        "executor.agent_nice: must be from 0 to 19, not -1",
        "executor.labels.gpu: must have a name and a value of at most 128 bytes",
        "planner.retention_days: must be a number of days",
        "planner.max_plans_in_flight: must be at least 1",
        "gatway: unknown section",
        "executor.grpc_adr: unknown key",
        "agents.default.retry.max_attempts: must be at least 1",
        "agents.git_agent: ",
        "agents.-x: the name must be",
        "agents.mine.timeout_secs: must be more than 0",
        "agents.mine.command: must name a program",
        "agents.mine.actions.a.input_schema: is no JSON schema: `properties.n.minimum` must be a number",
        "agents.mine.actions.b.input_schema: nowhere/schema.json cannot be read: ",
        "agents.git_agent.actions.c.input_schma: unknown key",
    ] {
        assert!(problems.contains(expected), "{expected} is missing from:\n{problems}");
    }
}

#[test]
fn configuration_file_that_cannot_be_read_is_a_problem() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    assert_eq!(read_if_exists(&at("absent.toml")).unwrap(), None);
    std::os::unix::fs::symlink(at("nowhere"), at("link.toml")).unwrap();
    std::fs::create_dir(at("folder.toml")).unwrap();
    std::fs::write(at("latin1.toml"), b"# \xfcml\xe4ut").unwrap();
    std::fs::write(at("file"), "").unwrap();
    for name in ["link.toml", "folder.toml", "latin1.toml", "file/phoenix.toml"] {
        let problems = read_if_exists(&at(name)).unwrap_err().to_string();
        assert!(problems.contains(&format!("{name}: the configuration file cannot be read: ")), "{problems}");
    }
}

#[test]
fn syntax_error_has_a_position_and_no_content() {
    let problems = parse("[llm.openai]\n  api_key = \"sk-live-0123\n").unwrap_err().to_string();
    assert!(problems.contains("phoenix.toml, line 2, column "), "{problems}");
    assert!(!problems.contains("sk-live"), "{problems}");
}

/// Invalid files with a secret in different positions.
const LEAKS: &[&str] = &[
    "[llm.openai]\napi_key = \"SECRET",
    "[llm.openai]\napi_key = SECRET",
    "[llm.openai]\napi_key = 'SECRET\nmodel_name = 'x'",
    "[llm.openai]\napi_key = \"SECRET\"\napi_key = \"SECRET\"",
    "[llm.openai]\napi_key = [\"SECRET\"]",
    "[llm.openai]\napi_key = { value = \"SECRET\" }",
    "[llm.openai]\napi_kye = \"SECRET\"",
    "[llm.openai]\napi_key SECRET",
    "[llm.openai]\napi_key = \"SECRET\" SECRET",
    "[llm]\napi_key = \"SECRET\"",
    "[llm]\nopenai = \"SECRET\"",
    "[gateway]\napi_token = 1\nrequest_timeout_secs = \"${VARIABLE}\"",
    "[gateway]\ncors_allowed_origins = \"${VARIABLE}\"",
    "[gateway]\nhttp_addr = [\"${VARIABLE}\"]",
    "llm = \"SECRET\"",
    "agents = \"${VARIABLE}\"",
    "[llm]\ndefault_provider = \"${VARIABLE}\"",
    "[llm]\ndefault_provider = \"  ${VARIABLE}\"",
    "[llm]\nmax_tokens = \"${VARIABLE}\"",
    "[planner]\ndefault_agent = \"${VARIABLE}\"",
    "[planner]\ndefault_agent = \"a-${VARIABLE}\"",
    "[planner]\nretention_days = \"${VARIABLE}\"",
    "[agents.git_agent]\nmode = \"${VARIABLE}\"",
    "[agents.git_agent]\nmode = \"one${VARIABLE}shot\"",
    "[agents.git_agent]\ntimeout_secs = \"${VARIABLE}\"",
    "[agents.x]\ncommand = \"${VARIABLE}\"",
    "[agents.x]\ncommand = [\"x\"]\n[agents.x.actions.a]\ninput_schema = \"${VARIABLE}\"",
    "[agents.x]\ncommand = [\"x\"]\n[agents.x.actions.a]\ninput_schema = { type = \"${VARIABLE}\" }",
    "[agents.x]\ncommand = [\"x\"]\n[agents.x.actions.a]\ninput_schema = { pattern = \"*${VARIABLE}\" }",
];

proptest::proptest! {
    #[test]
    fn problem_never_quotes_a_secret(
        file in proptest::sample::select(LEAKS),
        secret in "[A-Z]{3}[A-Za-z0-9_.+/-]{5,20}",
        // With a space: no name that is valid somewhere.
        odd in "[A-Z]{3}[ -~]{4,20} [A-Z]{3}",
    ) {
        let text = file.replace("SECRET", &secret);
        let env = |name: &str| (name == "VARIABLE").then(|| odd.clone());
        let problems = PhoenixConfig::parse(&text, "phoenix", &env).unwrap_err();
        for shown in [problems.to_string(), format!("{problems:?}")] {
            proptest::prop_assert!(!shown.contains(&secret), "{}", shown);
            proptest::prop_assert!(!shown.contains(odd.trim()), "{}", shown);
        }
    }
}

#[test]
fn executor_variables_are_found_in_keys_and_commands() {
    let config = parse(
        r#"
        [llm.openai]
        api_key = "${A}"
        base_url = "http://localhost/${B}"
        [agents.x]
        command = ["x", "--key", "${C}"]
        route = ["${D}"]
        "#,
    )
    .unwrap();
    assert_eq!(config.executor_variables().iter().collect::<Vec<_>>(), ["A", "C"]);
}

#[test]
fn configured_endpoints_are_listed_by_full_name() {
    let text = "[planner]\ndatabase_url = \"sqlite://x.db\"\n[gateway]\nhttp_addr = \"127.0.0.1:1\"\n[health]\nmetrics_addr = \"\"";
    assert_eq!(
        parse(text).unwrap().configured_endpoints(),
        ["gateway.http_addr", "planner.database_url", "health.metrics_addr"]
    );
    assert!(
        parse("[executor]\ndatabase_url = \"sqlite://x.db\"")
            .unwrap_err()
            .to_string()
            .contains("unknown key")
    );
}
