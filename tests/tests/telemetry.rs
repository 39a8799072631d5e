//! Spans, log lines and metrics of a stack, also when their receivers are unavailable.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{
    collector::{CollectedSpan, Collector},
    phoenix_bin,
    stack::{Stack, StackBuilder},
    wait::{TIMEOUT, until, until_some},
};
use serde_json::{Value, json};

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

fn agent(name: &str, mode: &str, dir: &Path) -> String {
    let command = json!([SCRIPTED, mode, dir.join(format!("{name}.starts"))]);
    format!("[agents.{name}]\ncommand = {command}\nretry = {{ max_attempts = 2, initial_backoff_ms = 1 }}\n")
}

fn stack(agents: &[(&str, &str)]) -> StackBuilder {
    let builder = Stack::builder();
    let dir = builder.dir().to_owned();
    let config: String = agents.iter().map(|(name, mode)| agent(name, mode, &dir)).collect();
    builder.config(&config)
}

/// The spans of one request, once the root and `count` in all have arrived; without those of health reports and waits.
async fn trace_of(collector: &Collector, trace_id: &str, count: usize) -> Vec<CollectedSpan> {
    until_some("the spans of the request have arrived", async || {
        let is_its = |span: &CollectedSpan| {
            span.trace_id == trace_id && span.service != "health" && !span.name.starts_with("wait ")
        };
        let spans: Vec<_> = collector.spans().into_iter().filter(is_its).collect();
        let has_root = spans.iter().any(|span| span.parent_id.is_empty());
        (has_root && spans.len() >= count).then_some(spans)
    })
    .await
}

async fn trace_id(stack: &Stack, correlation_id: &str) -> String {
    until_some("the request is logged with its trace", async || {
        stack.log_of(correlation_id).iter().find_map(|line| Some(line["trace_id"].as_str()?.to_owned()))
    })
    .await
}

#[tokio::test]
async fn spans_of_failed_chat_have_error_status() {
    let collector = Collector::start_http().await;
    let stack = stack(&[("good", "echo"), ("bad", "fail")])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        .env("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .start()
        .await;
    let rest = stack.rest();
    let (failed, well) = (rest.chat_with("bad", "hi").await, rest.chat_with("good", "hi").await);
    assert_eq!((failed.status.as_u16(), well.status.as_u16()), (502, 200));

    let spans = trace_of(&collector, &trace_id(&stack, failed.str("correlation_id")).await, 8).await;
    let errors = |name: &str| {
        let named = spans.iter().filter(|span| span.name == name);
        named.map(|span| span.error.clone().unwrap_or_default()).collect::<Vec<_>>()
    };
    assert_eq!(errors("invoke_agent bad"), ["backend_failure", "backend_failure"]);
    let spans_of = |service: &str| spans.iter().filter(|span| span.service == service).count();
    assert_eq!((spans_of("gateway"), spans_of("planner"), spans_of("executor")), (1, 2, 5), "{spans:#?}");
    let others = spans.iter().filter(|span| span.name != "invoke_agent bad");
    let unmarked: Vec<_> = others
        .filter(|span| {
            // The span of the call has the gRPC code.
            let is_call = span.name.starts_with("phoenix.planner.");
            span.error.as_deref() != Some(if is_call { "aborted" } else { "execution_failed" })
        })
        .collect();
    assert!(unmarked.is_empty(), "{unmarked:#?}");

    let spans = trace_of(&collector, &trace_id(&stack, well.str("correlation_id")).await, 7).await;
    assert!(spans.iter().all(|span| span.error.is_none()), "{spans:#?}");
    for role in Role::ALL {
        assert_eq!(stack.metric(*role, "phoenix_telemetry_export_failures_total").await, 0.0, "{role}");
    }
}

#[tokio::test]
async fn trace_is_complete_from_gateway_to_agent() {
    let collector = Collector::start().await;
    let stack = stack(&[("curious", "meta")])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .start()
        .await;
    let answer = stack.rest().chat_with("curious", "hello").await;
    let meta: serde_json::Value = serde_json::from_str(answer.str("output")).unwrap();
    let traceparent = meta["traceparent"].as_str().unwrap().to_owned();
    let parts: Vec<_> = traceparent.split('-').collect();
    let (trace_id, agents_parent) = (parts[1], parts[2]);
    let spans = until_some("the spans of all three services have arrived", async || {
        let spans: Vec<_> = collector.spans().into_iter().filter(|span| span.trace_id == trace_id).collect();
        let all = ["gateway", "planner", "executor"]
            .iter()
            .all(|service| spans.iter().any(|span| span.service == *service));
        (all && is_connected(&spans)).then_some(spans)
    })
    .await;
    assert_eq!(spans.iter().filter(|span| span.parent_id.is_empty()).count(), 1, "one root: {spans:#?}");
    for name in ["plan_and_execute_v1", "execute_agent_for_task"] {
        assert!(spans.iter().any(|span| span.name == name), "{name} is missing: {spans:#?}");
    }
    assert!(spans.iter().any(|span| span.span_id == agents_parent), "the agent's parent is one of the spans");
}

/// Whether the parent of every span is present.
fn is_connected(spans: &[CollectedSpan]) -> bool {
    let known = |id: &str| spans.iter().any(|span| span.span_id == id);
    spans.iter().all(|span| span.parent_id.is_empty() || known(&span.parent_id))
}

#[tokio::test]
async fn unreachable_collector_is_warned_about_and_counted() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut stack = stack(&[("good", "echo")])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{unused}"))
        .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=secret-of-the-collector")
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .start()
        .await;
    // Several failed batches cause one warning.
    for failures in 1..4_u32 {
        assert_eq!(stack.rest().chat_with("good", "hi").await.status, 200);
        until("the failed batch is counted", async || {
            let counted = stack.metric(Role::Gateway, "phoenix_telemetry_export_failures_total").await;
            counted >= f64::from(failures)
        })
        .await;
    }
    assert!(stack.metric(Role::Gateway, "phoenix_telemetry_spans_lost_total").await >= 3.0);
    let warnings = || {
        let is_warning =
            |line: &Value| line["level"] == "WARN" && line["reason"].is_string() && line["batches"].is_u64();
        stack.log().into_iter().filter(|line| line["service"] == "gateway" && is_warning(line)).count()
    };
    until("the warning is written", async || warnings() > 0).await;
    assert_eq!(warnings(), 1, "{}", stack.stderr_text());
    assert!(!stack.stderr_text().contains("secret-of-the-collector"));
    let begun = Instant::now();
    assert_eq!(stack.stop().await, Some(0));
    assert!(begun.elapsed() < TIMEOUT, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn otel_sampler_and_service_name_are_honoured() {
    let collector = Collector::start().await;
    let start = async |variables: &[(&str, &str)]| {
        let builder = stack(&[("curious", "meta")])
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
            .env("OTEL_BSP_SCHEDULE_DELAY", "50");
        variables.iter().fold(builder, |builder, (name, value)| builder.env(name, *value)).start().await
    };
    for (off, flags) in [(("OTEL_SDK_DISABLED", "true"), "01"), (("OTEL_TRACES_SAMPLER", "always_off"), "00")]
    {
        let mut stack = start(&[off]).await;
        let answer = stack.rest().chat_with("curious", "hi").await;
        let meta: Value = serde_json::from_str(answer.str("output")).unwrap();
        let traceparent = meta["traceparent"].as_str().unwrap().to_owned();
        assert!(traceparent.ends_with(flags), "{off:?}: {traceparent}");
        let logged = trace_id(&stack, answer.str("correlation_id")).await;
        assert!(traceparent.contains(&logged), "the trace id is the same: {traceparent}, {logged}");
        // A stop exports all pending spans.
        assert_eq!(stack.stop().await, Some(0));
        assert!(collector.spans().is_empty(), "{off:?}");
    }
    let stack = start(&[("OTEL_SERVICE_NAME", "mine")]).await;
    assert_eq!(stack.rest().chat_with("curious", "hi").await.status, 200);
    until("spans arrive", async || !collector.spans().is_empty()).await;
    assert!(collector.spans().iter().all(|span| span.service == "mine"));
}

#[tokio::test]
async fn invalid_otel_value_exits_64() {
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon"),
        ("OTEL_TRACES_SAMPLER", "sometimes"),
    ] {
        let builder = Stack::builder();
        for start in [builder.command().0, {
            let mut role = tokio::process::Command::new(phoenix_bin());
            role.arg("health").env_clear();
            role
        }] {
            let mut start = start;
            let output = start.env(name, value).current_dir(builder.dir()).output();
            let output = tokio::time::timeout(TIMEOUT, output).await.expect("the process exits").unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(64), "{name}={value}\n{stderr}");
            assert!(stderr.contains(name) && stderr.contains(value), "{stderr}");
        }
    }
}

#[tokio::test]
async fn each_key_of_the_log_has_one_type() {
    let builder = stack(&[("good", "echo"), ("bad", "fail"), ("slow", "slow")]);
    let stack = builder.env("ORCH_API_TOKEN", "t").env("RUST_LOG", "debug,h2=info").start().await;
    let rest = stack.rest();
    let failed = rest.chat_with("bad", "hi").await;
    assert_eq!(failed.status, 502);
    assert_eq!(rest.chat_with("good", "hi").await.status, 200);
    assert_eq!(rest.chat_with("missing", "hi").await.status, 422);
    assert_eq!(rest.post("/api/v1/chat", json!({"message": " "})).await.status, 400);
    let anonymous = phoenix_testkit::http::Rest::new(stack.base_url());
    assert_eq!(anonymous.get("/api/v1/agents").await.status, 401);
    // A circuit that opens, a task that it rejects, a redrive, a cancel, and a killed service.
    for _ in 0..3 {
        rest.chat_with("bad", "hi").await;
    }
    let redrive = format!("/api/v1/plans/{}:redrive", failed.str("plan_id"));
    assert_ne!(rest.post(&redrive, json!({})).await.status, 404);
    let (id, long) = ("11111111-2222-4333-8444-555555555555", Duration::from_millis(50));
    let slow = json!({"message": "hi", "agent": "slow", "correlation_id": id});
    assert!(tokio::time::timeout(long, rest.post("/api/v1/chat", slow)).await.is_err());
    stack.signal_role(Role::Executor, Signal::SIGKILL);
    until("the stack serves again", async || rest.chat_with("good", "hi").await.status == 200).await;
    until("the disconnected caller is logged", async || {
        let is_gateways = |line: &Value| line["service"] == "gateway" && line["elapsed_ms"].is_u64();
        stack.log_of(id).iter().any(is_gateways)
    })
    .await;

    // A rejection is logged with its request.
    let log = stack.log();
    let rejected = log.iter().find(|line| line["http_status"] == 401).expect("the rejection is logged");
    assert_eq!((&rejected["endpoint"], &rejected["method"]), (&json!("agents_v1"), &json!("GET")));
    assert!(rejected["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{rejected}");

    let mut kinds: BTreeMap<String, BTreeSet<(&str, String)>> = BTreeMap::new();
    for line in stack.log() {
        for (key, value) in line.as_object().unwrap() {
            let kind = match value {
                Value::Bool(_) => "boolean",
                Value::Number(_) => "number",
                Value::String(_) => "string",
                _ => "other",
            };
            let message = line["message"].as_str().unwrap_or_default().to_owned();
            kinds.entry(key.clone()).or_default().insert((kind, message));
        }
    }
    for (key, uses) in &kinds {
        let types: BTreeSet<_> = uses.iter().map(|(kind, _)| kind).collect();
        assert_eq!(types.len(), 1, "`{key}` has several types: {uses:?}");
    }
    for (key, kind) in [("http_status", "number"), ("plan_status", "string"), ("version", "string")] {
        assert!(kinds[key].iter().all(|(found, _)| *found == kind), "{key}: {:?}", kinds[key]);
    }
    assert!(!kinds.contains_key("status"), "{:?}", kinds["status"]);
}

#[tokio::test]
async fn first_line_of_each_service_names_its_version() {
    let stack = stack(&[]).start().await;
    for role in Role::ALL {
        let log = stack.log();
        let first = log.iter().find(|line| line["service"] == role.as_str()).expect("the service logs");
        assert_eq!(first["version"], env!("CARGO_PKG_VERSION"), "{first}");
        let text = stack.metrics(*role).await;
        let build = format!("phoenix_build_info{{version=\"{}\",", env!("CARGO_PKG_VERSION"));
        assert!(text.contains(&build), "{role}");
        let resident = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
        assert!(resident.unwrap().parse::<f64>().unwrap() > 1e6, "{role}");
    }
}

/// Each chat writes many lines at level `trace`, which fill the pipe.
#[tokio::test]
async fn unread_stderr_blocks_no_service() {
    let mut stack = stack(&[("good", "echo")]).env("RUST_LOG", "trace").start_unread().await;
    let rest = stack.rest();
    let dropped = async |role: Role| stack.metric(role, "phoenix_log_lines_dropped_total").await > 0.0;
    until("lines are dropped", async || {
        for _ in 0..20 {
            assert_eq!(rest.chat_with("good", "hi").await.status, 200);
        }
        dropped(Role::Gateway).await && dropped(Role::Planner).await && dropped(Role::Executor).await
    })
    .await;
    assert_eq!(rest.chat_with("good", "hi").await.status, 200);
    assert_eq!(rest.get("/readyz").await.status, 200);
    // The supervisor writes a line as well, and is not blocked.
    stack.signal_role(Role::Executor, Signal::SIGKILL);
    until("the executor is restarted", async || rest.chat_with("good", "hi").await.status == 200).await;
    assert_eq!(stack.stop().await, Some(0));
}

/// The rows below `command` in the first block of docs/observability.md that begins with it, without timestamps.
fn documented(command: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/observability.md");
    let page = std::fs::read_to_string(path).unwrap();
    let block =
        page.split("```console\n").find(|block| block.starts_with(command)).expect("the block is there");
    let lines = block.split("```").next().unwrap().lines().filter(|line| line.starts_with("20"));
    lines.map(|line| line.split('\t').skip(1).map(str::to_owned).collect()).collect()
}

#[tokio::test]
async fn documented_log_of_a_request_is_what_is_logged() {
    let agent = json!(["/bin/sh", "-c", "echo 'cannot open the index' >&2; exit 3"]);
    let retry = "retry = { max_attempts = 2, initial_backoff_ms = 400 }";
    let config = format!("[agents.flaky]\ncommand = {agent}\n{retry}\n");
    let stack = Stack::builder().config(&config).start().await;
    let id = "11111111-2222-4333-8444-555555555555";
    let chat = json!({"message": "hello", "agent": "flaky", "correlation_id": id});
    assert_eq!(stack.rest().post("/api/v1/chat", chat).await.status, 502);

    let expected = documented("$ jq -Rr --arg id $ID");
    assert!(expected.len() > 3, "{expected:?}");
    let mut log = until_some("every line is written", async || {
        let log = stack.log_of(id);
        (log.len() >= expected.len()).then_some(log)
    })
    .await;
    log.sort_by_key(|line| line["timestamp"].as_str().unwrap().to_owned());
    let column = |line: &Value, names: &[&str]| {
        names.iter().find_map(|name| Some(line[*name].as_str()?.to_owned())).unwrap_or_default()
    };
    let logged: Vec<_> = log
        .iter()
        .map(|line| {
            let last = column(line, &["code", "outcome", "error_class", "to"]);
            [column(line, &["level"]), column(line, &["service"]), column(line, &["message"]), last].to_vec()
        })
        .collect();
    assert_eq!(logged, expected);
}
