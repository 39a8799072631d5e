use super::*;

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");

fn resolve(variables: &[(&str, &str)]) -> Result<Option<TraceExport>, String> {
    let lookup = |name: &str| {
        variables.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    };
    let mut problems = Problems::default();
    let export = trace_export(&lookup, &mut problems);
    if problems.is_empty() { Ok(export) } else { Err(problems.to_string()) }
}

fn export(variables: &[(&str, &str)]) -> TraceExport {
    resolve(&[&[ENDPOINT], variables].concat()).unwrap().expect("spans are exported")
}

#[test]
fn otel_variables_are_applied() {
    let plain = export(&[]);
    assert_eq!((plain.protocol, plain.endpoint.as_str()), (OtlpProtocol::Grpc, ENDPOINT.1));
    assert_eq!(plain.timeout, Duration::from_secs(10));
    assert_eq!(plain.sampling, Sampling { follows_parent: true, share: 1.0 });

    let all = export(&[
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
    assert_eq!(all.protocol, OtlpProtocol::HttpProtobuf);
    assert_eq!(all.endpoint, "https://collector.example:4318/base/v1/traces");
    assert_eq!((all.timeout, all.gzip, all.queue_spans), (Duration::from_millis(250), true, 17));
    assert_eq!(all.sampling, Sampling { follows_parent: false, share: 0.25 });
    assert_eq!(all.service_name.as_deref(), Some("mine"));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(all.resource, [pair("deployment.environment", "test"), pair("team", "a,b")]);

    let exact = export(&[
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/x?key=1"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
    ]);
    assert_eq!(exact.endpoint, "http://127.0.0.1:1/x?key=1");
}

#[test]
fn export_is_disabled_without_an_endpoint() {
    assert!(resolve(&[]).unwrap().is_none());
    // A disabled exporter is not checked.
    let wrong = ("OTEL_EXPORTER_OTLP_PROTOCOL", "smoke signals");
    for off in [("OTEL_SDK_DISABLED", "True"), ("OTEL_TRACES_EXPORTER", "none")] {
        assert!(resolve(&[ENDPOINT, wrong, off]).unwrap().is_none(), "{off:?}");
    }
    let default = resolve(&[("OTEL_TRACES_EXPORTER", "otlp")]).unwrap().unwrap();
    assert_eq!(default.endpoint, "http://localhost:4317");
    let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let default = resolve(&[("OTEL_TRACES_EXPORTER", "otlp"), http]).unwrap().unwrap();
    assert_eq!(default.endpoint, "http://localhost:4318/v1/traces");
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
