//! Metrics and log lines over OTLP: what a collector gets, and what a collector that does not answer costs.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use phoenix_platform::config::Role;
use phoenix_testkit::{
    collector::{CollectedPoint, Collector},
    stack::{Stack, StackBuilder},
    wait::{TIMEOUT, until, until_some},
};
use tokio::net::TcpListener;

use crate::{
    SECRET, builder,
    conventions::{Rotel, rotel},
};

fn exporting(builder: StackBuilder, protocol: &str) -> StackBuilder {
    builder
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        .env("OTEL_METRICS_EXPORTER", "otlp")
        .env("OTEL_METRIC_EXPORT_INTERVAL", "200")
        .env("OTEL_LOGS_EXPORTER", "otlp")
        .env("OTEL_BLRP_SCHEDULE_DELAY", "100")
}

/// The last value of a series.
fn last<'a>(
    points: &'a [CollectedPoint],
    role: Role,
    name: &str,
    labels: &[(&str, &str)],
) -> Option<&'a CollectedPoint> {
    let is_it = |point: &&CollectedPoint| {
        point.service == role.as_str()
            && point.name == name
            && labels.iter().all(|(key, value)| point.attributes.get(*key).is_some_and(|has| has == value))
    };
    points.iter().rev().find(is_it)
}

/// Names and kinds of the metrics of a scrape.
fn families(scrape: &str) -> BTreeMap<&str, &str> {
    scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect()
}

#[tokio::test]
async fn real_collector_gets_the_metrics_of_a_scrape() {
    let Some(program) = rotel() else { return };
    for protocol in ["grpc", "http/protobuf"] {
        let collector = Collector::start_http().await;
        let folder = tempfile::tempdir().unwrap();
        let running = Rotel::start(&program, folder.path(), &collector).await;
        let (builder, _provider) = builder(running.endpoint(protocol)).await;
        std::fs::write(builder.dir().join("flaky"), "").unwrap();
        let stack = exporting(builder, protocol).start().await;
        assert_eq!(stack.rest().chat_with("echo", SECRET).await.status, 200);
        assert_eq!(stack.rest().chat_with("flaky", SECRET).await.status, 502);

        let scraped = "phoenix_agent_attempts_total{agent=\"flaky\",outcome=\"backend_failure\"}";
        assert_eq!(stack.metric(Role::Executor, scraped).await, 2.0);
        for (role, name, series, labels) in [
            (Role::Gateway, "http_requests_total_chat_v1", "http_requests_total_chat_v1", &[][..]),
            (Role::Planner, "orchestrator_plan_failed_total", "orchestrator_plan_failed_total", &[]),
            (Role::Planner, "phoenix_plans_in_flight", "phoenix_plans_in_flight", &[]),
            (
                Role::Executor,
                "phoenix_agent_attempts_total",
                scraped,
                &[("agent", "flaky"), ("outcome", "backend_failure")],
            ),
            (
                Role::Health,
                "phoenix_agent_circuit_open",
                "phoenix_agent_circuit_open{agent=\"flaky\"}",
                &[("agent", "flaky")],
            ),
        ] {
            let value = stack.metric(role, series).await;
            until("the collector has the value of the scrape", async || {
                last(&collector.points(), role, name, labels).is_some_and(|point| point.value == value)
            })
            .await;
        }
        // A histogram with its buckets.
        let scrape = stack.metrics(Role::Executor).await;
        let name = "agent_call_duration_seconds";
        let scraped: Vec<u64> = scrape
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix("_bucket")?.split_once("} "))
            .map(|(_, count)| count.parse().unwrap())
            .collect();
        let point = until_some("the collector has the histogram", async || {
            last(&collector.points(), Role::Executor, name, &[]).filter(|point| point.count == 3).cloned()
        })
        .await;
        let cumulative: Vec<u64> = point
            .buckets
            .1
            .iter()
            .scan(0, |sum, count| {
                *sum += count;
                Some(*sum)
            })
            .collect();
        assert_eq!((cumulative, point.unit.as_str()), (scraped, "s"));
        assert_eq!(point.value, stack.metric(Role::Executor, &format!("{name}_sum")).await);

        // Every metric of every process, of the same kind.
        for role in Role::ALL {
            until("the collector has every metric of the scrape", async || {
                let scrape = stack.metrics(*role).await;
                let points = collector.points();
                let own = points.iter().filter(|point| point.service == role.as_str());
                let kinds: BTreeMap<_, _> = own.map(|point| (point.name.as_str(), point.kind)).collect();
                kinds == families(&scrape)
            })
            .await;
            assert!(collector.points().iter().all(|point| !point.description.is_empty()));
            assert_eq!(stack.metric(*role, "phoenix_telemetry_export_failures_total").await, 0.0);
        }
    }
}

#[tokio::test]
async fn real_collector_gets_the_log_lines_of_a_request() {
    let Some(program) = rotel() else { return };
    for protocol in ["grpc", "http/protobuf"] {
        let collector = Collector::start_http().await;
        let folder = tempfile::tempdir().unwrap();
        let running = Rotel::start(&program, folder.path(), &collector).await;
        let (builder, _provider) = builder(running.endpoint(protocol)).await;
        std::fs::write(builder.dir().join("flaky"), "").unwrap();
        let mut stack = exporting(builder, protocol).start().await;
        let answer = stack.rest().chat_with("flaky", SECRET).await;
        assert_eq!(answer.status, 502, "{}", answer.text);
        let id = answer.str("correlation_id").to_owned();
        let of_request = || {
            let logs = collector.logs().into_iter();
            let is_its = |log: &_| matches!(log, phoenix_testkit::collector::CollectedLog { attributes, .. } if attributes.get("correlation_id") == Some(&id));
            logs.filter(is_its).collect::<Vec<_>>()
        };
        // A stop exports what is left.
        assert_eq!(stack.stop().await, Some(0));
        let lines = stack.log_of(&id);
        let mut logs = until_some("every line has arrived", async || {
            let logs = of_request();
            (logs.len() >= lines.len()).then_some(logs)
        })
        .await;
        assert_eq!(logs.len(), lines.len());
        let text = |line: &serde_json::Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let mut expected: Vec<_> = lines
            .iter()
            .map(|line| {
                let keys = ["service", "target", "level", "message", "trace_id", "span_id"];
                keys.map(|key| text(line, key)).to_vec()
            })
            .collect();
        let found = |log: &phoenix_testkit::collector::CollectedLog| {
            let log = log.clone();
            vec![log.service, log.target, log.level, log.message, log.trace_id, log.span_id]
        };
        let mut exported: Vec<_> = logs.iter().map(found).collect();
        expected.sort();
        exported.sort();
        assert_eq!(exported, expected, "{protocol}");
        logs.retain(|log| log.message == "attempt failed");
        assert_eq!(logs[0].attributes["error_class"], "backend_failure");
        // Each line is in a span that the collector has.
        let spans: BTreeSet<_> = collector.spans().into_iter().map(|span| span.span_id).collect();
        assert!(logs.iter().all(|log| spans.contains(&log.span_id)), "{logs:#?}");
        assert!(!format!("{:?}", collector.logs()).contains(SECRET));
    }
}

#[tokio::test]
async fn frozen_collector_costs_metrics_and_log_lines_only() {
    // Accepts connections and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    for protocol in ["grpc", "http/protobuf"] {
        let (builder, _provider) = builder(&endpoint).await;
        let builder = exporting(builder, protocol)
            .env("OTEL_TRACES_EXPORTER", "none")
            .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=secret-of-the-collector")
            .env("OTEL_EXPORTER_OTLP_TIMEOUT", "300")
            .env("OTEL_BLRP_MAX_QUEUE_SIZE", "4");
        let mut stack: Stack = builder.start().await;
        until("lines are lost to the collector", async || {
            assert_eq!(stack.rest().chat_with("echo", "hi").await.status, 200);
            stack.metric(Role::Gateway, "phoenix_telemetry_log_lines_lost_total").await >= 8.0
        })
        .await;
        assert!(stack.metric(Role::Gateway, "phoenix_telemetry_export_failures_total").await >= 1.0);
        let warnings = |batches: &str| {
            let is_it = |line: &serde_json::Value| {
                line["service"] == "gateway" && line["reason"].is_string() && line["message"] == batches
            };
            stack.log().iter().filter(|line| is_it(line)).count()
        };
        until("both warnings are written", async || {
            warnings("metrics cannot be exported") >= 1
                && warnings("log lines cannot be exported; the collector lacks them") >= 1
        })
        .await;
        assert!(!stack.stderr_text().contains("secret-of-the-collector"));
        let begun = Instant::now();
        assert_eq!(stack.stop().await, Some(0));
        assert!(begun.elapsed() < TIMEOUT, "{protocol}: {:?}", begun.elapsed());
    }
}
