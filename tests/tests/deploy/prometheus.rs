//! Prometheus: scrape targets, alerts and rules.

use std::collections::{BTreeMap, BTreeSet};

use phoenix_platform::config::Role;

use crate::{all, dashboards, files, must_run, processes, read, yaml};

/// The anchor that a heading of a Markdown page gets.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().trim().to_lowercase().replace(' ', "-")
}

#[test]
fn every_alert_has_a_runbook_and_a_test() {
    let page = read("docs/observability.md");
    let headings = page.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#'));
    let anchors: BTreeSet<_> = headings.map(anchor).collect();
    for path in files("deploy/prometheus/rules") {
        let rules = yaml(&path);
        assert_eq!(all(&rules, "runbook").len(), all(&rules, "alert").len(), "{path}");
        for runbook in all(&rules, "runbook") {
            let anchor = runbook.strip_prefix("docs/observability.md#").expect("a heading of the page");
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
fn prometheus_scrapes_every_process_at_its_address() {
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
        let replicas = job["dns_sd_configs"].as_array().into_iter().flatten().map(|replica| {
            let [name] = &replica["names"].as_array().unwrap()[..] else { panic!("{path}: one each") };
            (name.as_str().unwrap().to_owned(), replica["port"].as_u64().unwrap())
        });
        let second = |role: &Role| (format!("{role}-2"), role.default_metrics_port().into());
        let expected: &[Role] = if local { &[] } else { Role::ALL };
        assert_eq!(replicas.collect::<BTreeMap<_, u64>>(), expected.iter().map(second).collect());
    }
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

/// The burn rates of the SRE workbook with their windows, once for each objective.
#[test]
fn burn_rates_are_those_of_the_workbook() {
    let rules = yaml("deploy/prometheus/rules/phoenix.yml");
    let expressions: Vec<_> = all(&rules, "expr");
    for (record, budget) in [("failed_requests", "0.005"), ("slow_requests", "0.01")] {
        for (long, short, rate) in [("1h", "5m", "14.4"), ("6h", "30m", "6"), ("3d", "6h", "1")] {
            let [long, short] = [long, short]
                .map(|window| format!("phoenix:{record}:ratio_rate{window} > {rate} * {budget}\n"));
            let alerts = expressions.iter().filter(|expr| expr.contains(&long) && expr.contains(&short));
            assert_eq!(alerts.count(), 1, "{long}{short}");
        }
    }
}

#[test]
fn alertmanager_is_found_and_its_routes_have_receivers() {
    let config = yaml("deploy/alertmanager/alertmanager.yml");
    let receivers = all(&config["receivers"], "name");
    for receiver in all(&config["route"], "receiver") {
        assert!(receivers.contains(&receiver), "{receiver}");
    }
    let service = &yaml("docker-compose.yml")["services"]["alertmanager"];
    assert_eq!(service["volumes"][0], "./deploy/alertmanager:/etc/alertmanager:ro");
    assert_eq!(service["command"][0], "--config.file=/etc/alertmanager/alertmanager.yml");
    for (path, target) in
        [("prometheus.yml", "alertmanager:9093"), ("prometheus.local.yml", "127.0.0.1:9093")]
    {
        let alerting = &yaml(&format!("deploy/prometheus/{path}"))["alerting"];
        assert_eq!(alerting["alertmanagers"][0]["static_configs"][0]["targets"][0], target);
    }
}

#[test]
fn promtool_parses_dashboard_expressions() {
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
