//! `deploy/`, `docker-compose.yml` and docs/observability.md match the code.
//!
//! promtool and docker-compose check these files as well where they are installed; CI requires them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests"
)]

mod chart;
mod compose;
mod image;
mod prometheus;
mod promql;
mod queries;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use phoenix_platform::{
    config::Role,
    metrics::{Metric, MetricKind, PROCESS},
};
use serde_json::Value;

use crate::promql::series_in;

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
    // Twice, because a merged mapping may merge another one.
    value.apply_merge().unwrap();
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

/// Every scraped process: its name, its metrics, the port of its `/metrics`.
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

/// Every metric of every process, those common to all included.
fn metrics() -> impl Iterator<Item = &'static Metric> {
    processes().into_iter().flat_map(|(_, metrics, _)| metrics).chain(PROCESS)
}

/// Every time series name that a process exports, or Prometheus derives.
fn exported() -> BTreeSet<String> {
    let metrics = metrics();
    let series = metrics.flat_map(|metric| match metric.kind {
        MetricKind::Counter | MetricKind::Gauge => vec![metric.name.to_owned()],
        MetricKind::Histogram => {
            ["bucket", "sum", "count"].map(|part| format!("{}_{part}", metric.name)).into()
        }
    });
    // What the rules record is a series like any other.
    let rules = files("deploy/prometheus/rules").into_iter().map(|path| yaml(&path));
    let recorded =
        rules.flat_map(|file| all(&file, "record").into_iter().map(str::to_owned).collect::<Vec<_>>());
    series.chain(["up".to_owned()]).chain(recorded).collect()
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
            panic!("{program}: {error}; CI requires it")
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
fn dashboards_and_rules_use_exported_series_only() {
    let exported = exported();
    let rules = files("deploy/prometheus/rules").into_iter().map(|path| (path.clone(), yaml(&path)));
    for (path, file) in dashboards().into_iter().chain(rules) {
        let expressions = all(&file, "expr");
        assert!(!expressions.is_empty(), "{path}");
        for expression in expressions {
            let series = series_in(expression);
            assert!(!series.is_empty(), "{path}: {expression}");
            let unknown: Vec<_> = series.difference(&exported).collect();
            assert!(unknown.is_empty(), "{path}: no process exports {unknown:?}: {expression}");
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
fn dashboard_has_its_panels_and_data_source() {
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
fn documented_metrics_equal_the_exported_ones() {
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
