//! Every query of the dashboards and of the rules, asked of a real Prometheus that scrapes a running stack.

use std::{
    collections::BTreeSet,
    process::{Child, Command, Stdio},
};

use phoenix_platform::config::Role;
use phoenix_testkit::{http::Rest, ports::free_port, stack::Stack, wait::until};
use serde_json::{Value, json};

use crate::{all, dashboards, files, promql::series_in, root, yaml};

/// A Prometheus with the rules of the repository, which scrapes every second.
struct Prometheus {
    process: Child,
    rest: Rest,
    _folder: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Prometheus {
    /// Starts it; `None` where it is not installed, except in CI.
    fn start(stack: &Stack) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let groups = Role::ALL.iter().map(
            |role| json!({"targets": [stack.metrics_addr(*role)], "labels": {"service": role.as_str()}}),
        );
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": files("deploy/prometheus/rules").iter().map(|path| root().join(path)).collect::<Vec<_>>(),
            "scrape_configs": [{"job_name": "phoenix-orchestrator", "static_configs": groups.collect::<Vec<_>>()}],
        });
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config.to_string()).unwrap();
        let port = free_port();
        let spawned = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match spawned {
            Ok(process) => {
                Some(Self { process, rest: Rest::new(format!("http://127.0.0.1:{port}")), _folder: folder })
            }
            Err(error) => {
                let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
                assert!(!is_ci, "prometheus: {error}");
                eprintln!("SKIPPED: queries of the dashboards, because prometheus cannot be run: {error}");
                None
            }
        }
    }

    /// The answer to `query`, if the server answers.
    async fn query(&self, query: &str) -> Option<Value> {
        let url =
            reqwest::Url::parse_with_params("http://prometheus/api/v1/query", [("query", query)]).unwrap();
        let path = format!("{}?{}", url.path(), url.query().unwrap());
        Some(self.rest.try_send("GET".parse().ok()?, &path, None).await?.json)
    }

    /// The number that `query` has as its result.
    async fn number(&self, query: &str) -> Option<f64> {
        let answer = self.query(query).await?;
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    }
}

/// Whether a query may have no result although its series exist: it compares, or selects by a label.
fn filters(query: &str) -> bool {
    query.contains(['<', '>', '{']) || query.contains("==") || query.contains("!=")
}

#[tokio::test]
async fn prometheus_answers_every_query_of_dashboards_and_rules() {
    let builder = Stack::builder()
        .config("[agents.broken]\ncommand = [\"false\"]\n[agents.broken.retry]\nmax_attempts = 2\n");
    let stack = builder.start().await;
    let Some(prometheus) = Prometheus::start(&stack) else { return };
    let rest = stack.rest();
    for _ in 0..3 {
        assert_eq!(rest.chat_with("echo_agent", "hello").await.status, 200);
        assert_ne!(rest.chat_with("broken", "hello").await.status, 200);
    }
    // A rate needs two samples with all series.
    let scraped = async || {
        let seen = prometheus.number("min(sum_over_time(up[1m]))").await;
        let counted = prometheus.number("min(count_over_time(orchestrator_plan_failed_total[1m]))").await;
        seen.is_some_and(|scrapes| scrapes >= 4.0) && counted.is_some_and(|samples| samples >= 3.0)
    };
    until("Prometheus has scraped every service three times", scraped).await;

    let names = prometheus.rest.get("/api/v1/label/__name__/values").await.json;
    let exist: BTreeSet<_> =
        names["data"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let rules = files("deploy/prometheus/rules").into_iter().map(|path| (path.clone(), yaml(&path)));
    let (mut asked, mut with_result, mut problems) = (0, 0, Vec::new());
    for (path, file) in dashboards().into_iter().chain(rules) {
        for query in all(&file, "expr") {
            let query = query.replace("$__rate_interval", "1m");
            let answer = prometheus.query(&query).await.unwrap();
            let is_empty = answer["data"]["result"].as_array().is_none_or(Vec::is_empty);
            let exists = series_in(&query).iter().all(|series| exist.contains(series.as_str()));
            asked += 1;
            with_result += usize::from(!is_empty);
            if answer["status"] != "success" || answer.get("warnings").is_some() {
                problems.push(format!("{path}: {query}\n    {answer}"));
            } else if is_empty && exists && !filters(&query) {
                problems.push(format!("{path}: {query}\n    has no result, although its series exist"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(2 * with_result > asked, "{with_result} of {asked} queries have a result");
}
