use super::*;

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");

fn resolve(variables: &[(&str, &str)]) -> Result<OtlpExports, String> {
    let lookup = |name: &str| {
        variables.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    let mut problems = Problems::default();
    let exports = exports(&lookup, &mut problems);
    if problems.is_empty() { Ok(exports) } else { Err(problems.to_string()) }
}

fn export(variables: &[(&str, &str)]) -> (TraceExport, ResourceSettings) {
    let exports = resolve(&[&[ENDPOINT], variables].concat()).unwrap();
    (exports.traces.expect("spans are exported"), exports.resource)
}

#[test]
fn otel_variables_are_applied() {
    let (plain, _) = export(&[]);
    assert_eq!((plain.target.protocol, plain.target.endpoint.as_str()), (OtlpProtocol::Grpc, ENDPOINT.1));
    assert_eq!(plain.target.timeout, Duration::from_secs(10));
    assert_eq!(plain.sampling, Sampling { follows_parent: true, share: 1.0 });

    let (all, resource) = export(&[
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example:4318/base/"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc, x-tenant=a"),
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ("OTEL_SERVICE_NAME", "mine"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test,team=a%2Cb"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "17"),
        ("OTEL_SDK_DISABLED", "FALSE"),
    ]);
    assert_eq!(all.target.protocol, OtlpProtocol::HttpProtobuf);
    assert_eq!(all.target.endpoint, "https://collector.example:4318/base/v1/traces");
    let found = (all.target.timeout, all.target.gzip, all.queue_spans);
    assert_eq!(found, (Duration::from_millis(250), true, 17));
    assert_eq!(all.sampling, Sampling { follows_parent: false, share: 0.25 });
    assert_eq!(resource.service_name.as_deref(), Some("mine"));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(resource.attributes, [pair("deployment.environment", "test"), pair("team", "a,b")]);

    let (exact, _) = export(&[
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/x?key=1"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
    ]);
    assert_eq!(exact.target.endpoint, "http://127.0.0.1:1/x?key=1");
}

#[test]
fn export_is_disabled_without_an_endpoint() {
    assert!(resolve(&[]).unwrap().traces.is_none());
    // A disabled exporter is not checked.
    let wrong = ("OTEL_EXPORTER_OTLP_PROTOCOL", "smoke signals");
    for off in [("OTEL_SDK_DISABLED", "True"), ("OTEL_TRACES_EXPORTER", "none")] {
        assert!(resolve(&[ENDPOINT, wrong, off]).unwrap().traces.is_none(), "{off:?}");
    }
    let default = resolve(&[("OTEL_TRACES_EXPORTER", "otlp")]).unwrap().traces.unwrap();
    assert_eq!(default.target.endpoint, "http://localhost:4317");
    let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let default = resolve(&[("OTEL_TRACES_EXPORTER", "otlp"), http]).unwrap().traces.unwrap();
    assert_eq!(default.target.endpoint, "http://localhost:4318/v1/traces");
}

#[test]
fn metrics_and_logs_are_exported_only_on_demand() {
    let exports = resolve(&[ENDPOINT]).unwrap();
    assert!(exports.metrics.is_none() && exports.logs.is_none());
    let exports = resolve(&[
        ENDPOINT,
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_METRICS_EXPORTER", "otlp"),
        ("OTEL_LOGS_EXPORTER", "otlp"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
        ("OTEL_BLRP_MAX_QUEUE_SIZE", "9"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://logs.example/own?key=1"),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "authorization=Bearer%20abc"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "70"),
        ("OTEL_SERVICE_NAME", "mine"),
    ])
    .unwrap();
    assert!(exports.traces.is_none());
    assert_eq!(exports.resource.service_name.as_deref(), Some("mine"));
    let (metrics, logs) = (exports.metrics.unwrap(), exports.logs.unwrap());
    assert_eq!((metrics.target.protocol, metrics.target.endpoint.as_str()), (OtlpProtocol::Grpc, ENDPOINT.1));
    let times = (metrics.interval, metrics.target.timeout);
    assert_eq!(times, (Duration::from_millis(500), Duration::from_millis(70)));
    assert_eq!(logs.target.endpoint, "http://logs.example/own?key=1");
    assert_eq!((logs.target.timeout, logs.queue_lines), (Duration::from_secs(10), 9));
    let [(name, value)] = &logs.target.headers[..] else { panic!("{logs:?}") };
    assert_eq!((name.as_str(), value.expose()), ("authorization", "Bearer abc"));
    assert!(metrics.target.headers.is_empty() && !format!("{logs:?}").contains("Bearer"));
    let local =
        resolve(&[("OTEL_METRICS_EXPORTER", "otlp"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]);
    assert_eq!(local.unwrap().metrics.unwrap().target.endpoint, "http://localhost:4318/v1/metrics");
}

#[test]
fn problem_of_all_signals_is_named_once() {
    let all = [("OTEL_METRICS_EXPORTER", "otlp"), ("OTEL_LOGS_EXPORTER", "otlp")];
    let wrong = ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon");
    let problems = resolve(&[&all[..], &[ENDPOINT, wrong]].concat()).unwrap_err();
    assert_eq!(problems.matches("OTEL_EXPORTER_OTLP_TIMEOUT").count(), 1, "{problems}");
    for (name, value) in [
        ("OTEL_METRICS_EXPORTER", "prometheus"),
        ("OTEL_LOGS_EXPORTER", "console"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "1"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "hunter2"),
        ("OTEL_BLRP_MAX_QUEUE_SIZE", "0"),
    ] {
        let problems = resolve(&[&all[..], &[ENDPOINT, (name, value)]].concat()).expect_err(name);
        assert!(problems.contains(&format!("  - {name}: ")), "{name}={value}:\n{problems}");
        assert!(!problems.contains("hunter2"), "{problems}");
    }
}

#[test]
fn invalid_otel_values_are_named() {
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://127.0.0.1:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http:///v1/traces"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a b"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,b c=2"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nonexistent/ca.pem"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/dev/null"),
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ("OTEL_TRACES_SAMPLER_ARG", "NaN"),
        ("OTEL_SDK_DISABLED", "yes"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=1,b"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", "many"),
    ] {
        let problems = resolve(&[ENDPOINT, (name, value)]).expect_err(name);
        assert!(problems.contains(&format!("  - {name}: ")), "{name}={value}:\n{problems}");
    }
}

#[test]
fn otel_problem_contains_no_secret() {
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:hunter2@127.0.0.1:4317"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4318?key=hunter2"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api key=hunter2"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
    ] {
        let problems = resolve(&[ENDPOINT, (name, value)]).expect_err(name);
        assert!(!problems.contains("hunter2"), "{problems}");
    }
}
