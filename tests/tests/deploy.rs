//! What `deploy/`, `docker-compose.yml` and docs/observability.md name is what the code has.
//!
//! Programs that read these files (promtool, docker-compose) check them too where they are installed; in CI they must be.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests are tests too"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use phoenix_platform::{
    config::{PhoenixConfig, Role},
    metrics::{Metric, MetricKind, PROCESS},
};
use serde_json::Value;

const TOKEN: (&str, &str) = ("ORCH_API_TOKEN", "a-token");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A YAML file as the JSON value it stands for, with `<<` merged.
fn yaml(path: &str) -> Value {
    let mut value: yaml_serde::Value =
        yaml_serde::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    value.apply_merge().unwrap();
    serde_json::to_value(value).unwrap()
}

/// The files of a folder, relative to the root.
fn files(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap();
    let mut files: Vec<_> =
        entries.map(|entry| format!("{folder}/{}", entry.unwrap().file_name().to_str().unwrap())).collect();
    files.sort();
    assert!(!files.is_empty(), "{folder} is empty");
    files
}

/// Every process that is scraped: its name, its metrics, the port of its `/metrics`.
fn processes() -> Vec<(&'static str, &'static [Metric], u16)> {
    let role = |role: Role, metrics| (role.as_str(), metrics, role.default_metrics_port());
    vec![
        role(Role::Gateway, phoenix_gateway::metrics::METRICS),
        role(Role::Planner, phoenix_planner::metrics::METRICS),
        role(Role::Executor, phoenix_executor::metrics::METRICS),
        role(Role::Health, phoenix_health::metrics::METRICS),
        (
            "load_tester",
            phoenix_load_tester::metrics::METRICS,
            phoenix_load_tester::args::DEFAULT_METRICS_ADDR.port(),
        ),
    ]
}

/// Every metric of every process, those included that each has.
fn metrics() -> impl Iterator<Item = &'static Metric> {
    processes().into_iter().flat_map(|(_, metrics, _)| metrics).chain(PROCESS)
}

/// Every time series name that a process exports, or Prometheus makes of it.
fn exported() -> BTreeSet<String> {
    let metrics = metrics();
    let series = metrics.flat_map(|metric| match metric.kind {
        MetricKind::Counter | MetricKind::Gauge => vec![metric.name.to_owned()],
        MetricKind::Histogram => {
            ["bucket", "sum", "count"].map(|part| format!("{}_{part}", metric.name)).into()
        }
    });
    series.chain(["up".to_owned()]).collect()
}

/// `text` without what stands between `open` and `close`.
fn without(text: &str, open: char, close: char) -> String {
    let mut inside = false;
    let outside = text.chars().filter(|&c| {
        let was_inside = inside;
        inside = if inside { c != close } else { c == open };
        !inside && !was_inside
    });
    outside.collect()
}

/// The time series that a PromQL expression names: its words that are neither functions nor operators nor labels.
fn series_in(expression: &str) -> BTreeSet<String> {
    const OPERATORS: &[&str] = &["and", "or", "unless", "bool", "offset"];
    const BEFORE_LABELS: &[&str] = &["by", "without", "on", "ignoring", "group_left", "group_right"];
    let outside = [('"', '"'), ('\'', '\''), ('{', '}'), ('[', ']')];
    let mut text =
        outside.iter().fold(expression.to_owned(), |text, (open, close)| without(&text, *open, *close));
    for word in BEFORE_LABELS {
        for list in [format!(" {word} ("), format!(" {word}(")] {
            // Leaves the aggregation before its parenthesis: `sum by (le) (x)` becomes `sum(x)`.
            while let Some(at) = text.find(&list) {
                let end = at + text[at..].find(')').expect("a list of labels ends") + 1;
                text = format!("{}{}", &text[..at], text[end..].trim_start());
            }
        }
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.');
    let mut series = BTreeSet::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find(is_part) {
        let end = rest[start..].find(|c| !is_part(c)).map_or(rest.len(), |length| start + length);
        let (word, after) = (&rest[start..end], &rest[end..]);
        let is_name = word.starts_with(|first: char| first.is_ascii_alphabetic());
        if is_name && !after.trim_start().starts_with('(') && !OPERATORS.contains(&word) {
            series.insert(word.to_owned());
        }
        rest = after;
    }
    series
}

/// Every value of `key` anywhere in `value`.
fn all<'a>(value: &'a Value, key: &str) -> Vec<&'a str> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, field)| {
                let own = (name == key).then(|| field.as_str()).flatten();
                own.into_iter().chain(all(field, key)).collect::<Vec<_>>()
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(|item| all(item, key)).collect(),
        _ => Vec::new(),
    }
}

fn dashboards() -> Vec<(String, Value)> {
    let files = files("deploy/grafana/dashboards").into_iter();
    files.map(|path| (path.clone(), serde_json::from_str(&read(&path)).expect("a dashboard"))).collect()
}

/// Runs a program that may be missing, except in CI.
fn run(program: &str, args: &[&str], env: &[(&str, &str)]) -> Option<(bool, String)> {
    let mut command = Command::new(program);
    command.args(args).current_dir(root()).env_remove(TOKEN.0).envs(env.iter().copied());
    match command.output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
        }
        Err(error) if std::env::var_os("CI").is_some() => {
            panic!("{program}: {error}; in CI it must be there")
        }
        Err(_) => {
            eprintln!("skipped: {program} is not installed");
            None
        }
    }
}

fn must_run(program: &str, args: &[&str], env: &[(&str, &str)]) {
    if let Some((success, text)) = run(program, args, env) {
        assert!(success, "{program} {}\n{text}", args.join(" "));
    }
}

#[test]
fn expressions_are_taken_apart() {
    let expression = r#"1 - sum by (agent, le) (rate(a_total{b!~"c_total|d", e="f"}[5m])) / on(g) up{h='i}'} > 1e3 and x:y or sum(z)"#;
    assert_eq!(series_in(expression).into_iter().collect::<Vec<_>>(), ["a_total", "up", "x:y", "z"]);
    assert_eq!(series_in("histogram_quantile(0.9, sum by (le) (rate(z_bucket[$__rate_interval])))").len(), 1);
}

#[test]
fn dashboards_and_rules_name_what_is_exported() {
    let exported = exported();
    let rules = files("deploy/prometheus/rules").into_iter().map(|path| (path.clone(), yaml(&path)));
    for (path, file) in dashboards().into_iter().chain(rules) {
        let expressions = all(&file, "expr");
        assert!(!expressions.is_empty(), "{path}");
        for expression in expressions {
            let series = series_in(expression);
            assert!(!series.is_empty(), "{path}: {expression}");
            let unknown: Vec<_> = series.difference(&exported).collect();
            assert!(unknown.is_empty(), "{path}: nothing exports {unknown:?}: {expression}");
        }
    }
}

#[test]
fn every_metric_is_on_a_dashboard() {
    let dashboards = dashboards();
    let shown: BTreeSet<_> =
        dashboards.iter().flat_map(|(_, file)| all(file, "expr")).flat_map(series_in).collect();
    for metric in metrics() {
        assert!(shown.iter().any(|series| series.starts_with(metric.name)), "{} is not shown", metric.name);
    }
}

#[test]
fn the_dashboard_has_the_five_panels_and_its_data_source_is_provisioned() {
    for (path, dashboard) in dashboards() {
        let sources = yaml("deploy/grafana/provisioning/datasources/prometheus.yml");
        let uid = sources["datasources"][0]["uid"].as_str().unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        for panel in panels.iter().filter(|panel| panel["type"] != "row") {
            assert_eq!(panel["datasource"]["uid"], uid, "{path}: {}", panel["title"]);
            assert!(!panel["description"].as_str().unwrap().is_empty(), "{path}: {}", panel["title"]);
        }
        let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), panels.len(), "{path}: ids are unique");
    }
    let (_, main) = &dashboards()[0];
    let titles = all(main, "title");
    for title in [
        "Plan success rate",
        "Task latency p50 / p90 / p99",
        "Agent reliability",
        "HTTP traffic by endpoint",
        "Load test",
    ] {
        assert!(titles.contains(&title), "{title}");
    }
}

#[test]
fn every_metric_is_documented_and_nothing_else_is() {
    let text = read("docs/observability.md");
    // | `name` | kind | meaning |
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix("| `")?.split('|').map(str::trim).collect();
        let kind = cells.get(1).filter(|kind| ["counter", "gauge", "histogram"].contains(kind))?;
        Some((cells[0].trim_end_matches('`'), *kind))
    });
    let documented: BTreeMap<_, _> = rows.collect();
    let kinds = metrics().map(|metric| match metric.kind {
        MetricKind::Counter => (metric.name, "counter"),
        MetricKind::Gauge => (metric.name, "gauge"),
        MetricKind::Histogram => (metric.name, "histogram"),
    });
    assert_eq!(documented, kinds.collect());
}

/// The anchor that a heading of a Markdown page gets.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
}

#[test]
fn every_alert_says_what_to_do() {
    let page = read("docs/observability.md");
    let headings = page.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#'));
    let anchors: BTreeSet<_> = headings.map(anchor).collect();
    for path in files("deploy/prometheus/rules") {
        let rules = yaml(&path);
        assert_eq!(all(&rules, "runbook").len(), all(&rules, "alert").len(), "{path}");
        for runbook in all(&rules, "runbook") {
            let anchor = runbook.strip_prefix("docs/observability.md#").expect("a place on the page");
            assert!(anchors.contains(anchor), "{path}: {runbook}");
        }
        let tests = files("deploy/prometheus/tests").iter().map(|path| read(path)).collect::<String>();
        for alert in all(&rules, "alert") {
            assert!(tests.contains(&format!("alertname: {alert}")), "{alert} is not tested");
            assert!(page.contains(&format!("`{alert}`")), "{alert} is not on the page");
        }
    }
}

#[test]
fn prometheus_scrapes_every_process_where_it_is() {
    let compose = yaml("docker-compose.yml");
    for (path, local) in
        [("deploy/prometheus/prometheus.yml", false), ("deploy/prometheus/prometheus.local.yml", true)]
    {
        let config = yaml(path);
        assert_eq!(config["global"]["scrape_interval"], "15s");
        let [job] = &config["scrape_configs"].as_array().unwrap()[..] else { panic!("{path}: one job") };
        assert_eq!(job["job_name"], "phoenix-orchestrator");
        let targets = job["static_configs"].as_array().unwrap().iter().map(|group| {
            let [target] = &group["targets"].as_array().unwrap()[..] else { panic!("{path}: one each") };
            (group["labels"]["service"].as_str().unwrap(), target.as_str().unwrap().to_owned())
        });
        let expected = processes().into_iter().map(|(name, _, port)| {
            let host = name.replace('_', "-");
            if !local {
                assert_eq!(
                    compose["services"][host.as_str()]["environment"]["METRICS_ADDR"],
                    format!("0.0.0.0:{port}")
                );
            }
            (name, format!("{}:{port}", if local { "127.0.0.1" } else { &host }))
        });
        assert_eq!(targets.collect::<BTreeMap<_, _>>(), expected.collect());
    }
}

#[test]
fn the_compose_file_starts_the_four_roles_on_their_ports() {
    let compose = yaml("docker-compose.yml");
    for role in Role::ALL {
        let service = &compose["services"][role.as_str()];
        assert_eq!(service["command"], serde_json::json!([role.as_str()]));
        let environment = &service["environment"];
        assert_eq!(environment[role.addr_variable()], format!("0.0.0.0:{}", role.default_port()));
        for (variable, peer) in
            [("PLANNER_URL", Role::Planner), ("EXECUTOR_URL", Role::Executor), ("HEALTH_URL", Role::Health)]
        {
            assert_eq!(environment[variable], format!("http://{peer}:{}", peer.default_port()), "{role}");
        }
        assert_eq!(environment["DATABASE_URL"].is_string(), role.has_database(), "{role}");
        assert_eq!(service["ports"].is_array(), *role == Role::Gateway, "only the gateway asks for a token");
    }
    let keys = |role: Role| {
        let environment = &compose["services"][role.as_str()]["environment"];
        environment.as_object().unwrap().keys().filter(|name| name.ends_with("_API_KEY")).count()
    };
    assert_eq!(Role::ALL.iter().filter(|role| keys(**role) > 0).collect::<Vec<_>>(), [&Role::Executor]);
    let settings = |text: &str| {
        let config = PhoenixConfig::parse(text, "phoenix", &|_| None).unwrap();
        (config.agents.iter().cloned().collect::<Vec<_>>(), config.llm.describe(), config.gateway)
    };
    assert_eq!(settings(&read("deploy/phoenix/phoenix.toml")), settings(""), "its settings are the defaults");
}

#[test]
fn the_image_is_built_from_the_whole_workspace_and_nothing_else() {
    let allowed = read(".dockerignore");
    let allowed: BTreeSet<_> = allowed.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let manifest = read("Cargo.toml");
    let members = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    for member in members.split('"').skip(1).step_by(2) {
        assert!(allowed.contains(member.split('/').next().unwrap()), "{member} is not in .dockerignore");
    }
    for path in &allowed {
        assert!(root().join(path).exists(), ".dockerignore: there is no {path}");
    }
    let version = manifest.split("rust-version = \"").nth(1).unwrap().split('"').next().unwrap();
    assert!(read("deploy/Dockerfile").contains(&format!("FROM rust:{version}-bookworm")));
}

#[test]
fn promtool_accepts_configuration_rules_and_their_tests() {
    for path in ["deploy/prometheus/prometheus.yml", "deploy/prometheus/prometheus.local.yml"] {
        must_run("promtool", &["check", "config", path], &[]);
    }
    for path in files("deploy/prometheus/rules") {
        must_run("promtool", &["check", "rules", &path], &[]);
    }
    for path in files("deploy/prometheus/tests") {
        must_run("promtool", &["test", "rules", &path], &[]);
    }
}

#[test]
fn promtool_can_parse_what_the_dashboards_ask() {
    let dashboards = dashboards();
    let expressions = dashboards.iter().flat_map(|(_, file)| all(file, "expr"));
    let rules: Vec<_> = expressions
        .enumerate()
        .map(|(n, text)| serde_json::json!({"record": format!("panel:{n}"), "expr": text.replace("$__rate_interval", "1m")}))
        .collect();
    // JSON is YAML.
    let file = serde_json::json!({"groups": [{"name": "panels", "rules": rules}]});
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("panels.yml");
    std::fs::write(&path, file.to_string()).unwrap();
    must_run("promtool", &["check", "rules", path.to_str().unwrap()], &[]);
}

#[test]
fn compose_file_is_accepted_with_and_without_a_token() {
    must_run("docker-compose", &["config", "--quiet"], &[TOKEN]);
    // `ps`, `logs` and `down` read the file like `config`.
    must_run("docker-compose", &["config", "--quiet"], &[]);
}

#[test]
fn compose_up_without_a_token_ends_with_a_sentence() {
    let compose = yaml("docker-compose.yml");
    let check = &compose["services"]["token"];
    assert_eq!(
        compose["services"]["gateway"]["depends_on"]["token"]["condition"],
        "service_completed_successfully"
    );
    let words: Vec<_> =
        check["entrypoint"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    // Compose takes `$$` for a dollar sign.
    let script = words[2].replace("$$", "$");
    let names = ["ORCH_API_TOKEN", "PHOENIX_SERVICE_TOKEN"];
    for missing in names.map(Some).into_iter().chain([None]) {
        let mut command = Command::new(words[0]);
        command.args([words[1], &script]);
        command.envs(names.map(|name| (name, if missing == Some(name) { "" } else { "t" })));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        match missing {
            Some(name) => {
                assert_eq!(output.status.code(), Some(64), "{said}");
                assert!(said.contains(&format!("{name} must be set")), "{said}");
            }
            None => assert!(output.status.success() && said.is_empty(), "{said}"),
        }
    }
}

#[test]
fn every_container_rotates_its_logs() {
    let compose = yaml("docker-compose.yml");
    for (name, service) in compose["services"].as_object().unwrap() {
        let options = &service["logging"]["options"];
        assert!(options["max-size"].is_string() && options["max-file"].is_string(), "{name}");
    }
}

/// A copy of what .dockerignore lets into an image build.
fn build_context() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for path in read(".dockerignore").lines().filter_map(|line| line.strip_prefix('!')) {
        let target = dir.path().join(path);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        let copied = Command::new("cp").arg("-r").arg(root().join(path)).arg(&target).status().unwrap();
        assert!(copied.success(), "{path}");
    }
    dir
}

/// Every file below `dir`, with its content.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.strip_prefix(dir).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

#[test]
fn image_builds_dependencies_again_only_when_a_manifest_changes() {
    let skeleton = |change: &dyn Fn(&Path)| {
        let context = build_context();
        change(context.path());
        let script = context.path().join("deploy/skeleton.sh");
        assert!(Command::new("sh").arg(&script).arg(context.path()).status().unwrap().success());
        (tree(context.path()), context)
    };
    let (before, context) = skeleton(&|_| {});
    let (after, _context) = skeleton(&|context| {
        std::fs::write(context.join("crates/domain/src/lib.rs"), "pub fn changed() {}").unwrap();
        std::fs::write(context.join("crates/domain/src/new_file.rs"), "pub fn new() {}").unwrap();
        std::fs::remove_file(context.join("gateway/src/router.rs")).unwrap();
        std::fs::write(context.join("cli/README"), "new").unwrap();
    });
    assert_eq!(before, after, "sources do not matter");
    let (other, _context) =
        skeleton(&|context| std::fs::write(context.join("Cargo.lock"), "changed").unwrap());
    assert_ne!(before, other, "what decides about dependencies does");
    // cargo can work with it: every target that a manifest names is there.
    let mut cargo = Command::new(env!("CARGO"));
    let read = cargo
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(context.path());
    let output = read.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    for target in all_targets(&found) {
        assert!(before.contains_key(target.strip_prefix(context.path()).unwrap()), "{}", target.display());
    }
    let dockerfile = self::read("deploy/Dockerfile");
    let builds: Vec<_> = dockerfile.match_indices("cargo build").map(|(at, _)| at).collect();
    let sources = dockerfile.rfind("COPY . .").unwrap();
    assert!(builds[0] < sources && sources < builds[1], "first dependencies, then sources");
}

fn all_targets(metadata: &Value) -> Vec<PathBuf> {
    let packages = metadata["packages"].as_array().unwrap().iter();
    let targets = packages.flat_map(|package| package["targets"].as_array().unwrap());
    targets.map(|target| target["src_path"].as_str().unwrap().into()).collect()
}

/// The words before `phoenix` in the image's entry point.
fn init_of_the_image() -> Vec<String> {
    let dockerfile = read("deploy/Dockerfile");
    let words = dockerfile.lines().find_map(|line| line.strip_prefix("ENTRYPOINT ")).unwrap();
    let mut words: Vec<String> = serde_json::from_str(words).unwrap();
    assert_eq!(words.pop().unwrap(), "phoenix");
    words
}

#[test]
fn process_1_of_the_image_ends_what_agents_leave_behind() {
    let init = init_of_the_image();
    let installed = read("deploy/Dockerfile");
    assert!(installed.contains(&format!(" {} ", init[0])) || installed.contains(&format!(" {}\n", init[0])));
    if run(&init[0], &["--version"], &[]).is_none() {
        return;
    }
    // Ten children whose parents have gone, and then how many of them are left as children of process 1.
    let script = "for n in 1 2 3 4 5 6 7 8 9 10; do sh -c 'sleep 0.1 &'; done
                  for n in $(seq 50); do
                      sleep 0.1
                      left=$(cat /proc/[0-9]*/stat 2>/dev/null | grep -c '(sleep) [SZ] 1 ')
                      [ $left -eq 0 ] && break
                  done
                  echo left: $left";
    let words = init.iter().map(String::as_str).chain(["sh", "-c", script]);
    let arguments: Vec<_> = ["--pid", "--fork", "--mount-proc"].into_iter().chain(words).collect();
    if let Some((success, text)) = run("unshare", &arguments, &[]) {
        assert!(success && text.trim() == "left: 0", "{text}");
    }
}

#[test]
fn readme_names_a_place_for_secrets_that_agents_cannot_see() {
    let (readme, compose) = (read("README.md"), read("docker-compose.yml"));
    assert!(!readme.contains("docker-compose up"), "the spelling of Compose v2");
    for text in [readme, compose] {
        assert!(text.contains("docker compose --env-file ~/.config/phoenix.env"));
    }
}
