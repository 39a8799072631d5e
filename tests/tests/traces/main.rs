//! Traces by the conventions of OpenTelemetry, with real processes: names, attributes, status, links and waits; metrics and log lines
//! over OTLP.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests; a skipped test says so"
)]

mod conventions;
mod documented;
mod signals;

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{
    collector::{CollectedSpan, Collector},
    model_provider::ModelProvider,
    stack::{Stack, StackBuilder},
    wait::{until, until_some},
};
use serde_json::{Value, json};

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// A message that no span may contain.
const SECRET: &str = "the words of the caller";

/// A stack with agents of every kind: `echo`, `flaky`, `gate`, `writer` (needs approvals), a model and an MCP server.
async fn builder(endpoint: &str) -> (StackBuilder, ModelProvider) {
    let provider = ModelProvider::start(|_| "an answer of the model".into()).await;
    let builder = Stack::builder();
    let dir = builder.dir().to_owned();
    let agent = |name: &str, mode: &str, more: &str| {
        let command = json!([SCRIPTED, mode, dir.join(format!("{name}.starts")), dir.join(name)]);
        format!("[agents.{name}]\ncommand = {command}\nmode = \"oneshot\"\n{more}\n")
    };
    let server = concat!(env!("CARGO_MANIFEST_DIR"), "/../services/executor/tests/mcp/server.py");
    let mut config = provider.config();
    config += &agent("echo", "answers", "");
    // Fails until its file is removed.
    config += &agent("flaky", "fail", "retry = { max_attempts = 2, initial_backoff_ms = 20 }");
    config += &agent("gate", "gate", "");
    config += &agent("writer", "answers", "approval = \"required\"");
    config += &format!(
        "[agents.hub]\nmcp = {{ command = {} }}\nstart_timeout_secs = 600\n",
        json!(["python3", server])
    );
    let builder = builder
        .config(&config)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_BSP_SCHEDULE_DELAY", "100");
    (builder, provider)
}

fn task(key: &str, agent: &str, action: &str, input: Value) -> Value {
    json!({"key": key, "agent": agent, "action": action, "input": input})
}

/// The spans of a trace by name, once those with the names of `awaited` have arrived, each as often as it is there.
async fn spans(
    collector: &Collector,
    trace_id: &str,
    awaited: &[&str],
) -> BTreeMap<String, Vec<CollectedSpan>> {
    until_some("the spans have arrived", async || {
        let mut found: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for span in collector.spans().into_iter().filter(|span| span.trace_id == trace_id) {
            found.entry(span.name.clone()).or_default().push(span);
        }
        let count = |name: &str| awaited.iter().filter(|awaited| **awaited == name).count();
        awaited.iter().all(|name| found.get(*name).map_or(0, Vec::len) >= count(name)).then_some(found)
    })
    .await
}

/// The trace of the span with an attribute.
async fn trace_with(collector: &Collector, name: &str, value: &str) -> String {
    until_some("the span has arrived", async || {
        let spans = collector.spans();
        let found = spans.iter().find(|span| span.attributes.get(name).is_some_and(|found| found == value));
        found.map(|span| span.trace_id.clone())
    })
    .await
}

fn assert_attributes(span: &CollectedSpan, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(span.attributes.get(*name).map(String::as_str), Some(*value), "{name} of {span:#?}");
    }
}

/// As [`spans`], as soon as the trace is whole: every parent is there, and one root.
async fn whole(
    collector: &Collector,
    trace_id: &str,
    awaited: &[&str],
) -> BTreeMap<String, Vec<CollectedSpan>> {
    until_some("the trace is whole", async || {
        let spans = spans(collector, trace_id, awaited).await;
        let all: Vec<_> = spans.values().flatten().collect();
        let has_parent = |span: &CollectedSpan| {
            span.parent_id.is_empty() || all.iter().any(|parent| parent.span_id == span.parent_id)
        };
        let roots = all.iter().filter(|span| span.parent_id.is_empty()).count();
        (roots == 1 && all.iter().all(|span| has_parent(span))).then_some(spans)
    })
    .await
}

#[tokio::test]
async fn chat_with_a_model_has_spans_of_http_rpc_agent_and_model() {
    let collector = Collector::start().await;
    let (builder, _provider) = builder(&collector.endpoint()).await;
    let stack = builder.start().await;
    let answer = stack.rest().chat_with("llm_router_agent", SECRET).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let trace = trace_with(&collector, "correlation_id", answer.str("correlation_id")).await;
    let spans = whole(&collector, &trace, &["POST /api/v1/chat", "chat gpt-test"]).await;
    let one = |name: &str| &spans[name][0];

    let http = one("POST /api/v1/chat");
    assert_eq!((http.kind, http.service.as_str()), ("Server", "gateway"));
    assert_attributes(
        http,
        &[
            ("http.request.method", "POST"),
            ("http.route", "/api/v1/chat"),
            ("http.response.status_code", "200"),
            ("url.path", "/api/v1/chat"),
            ("url.scheme", "http"),
        ],
    );
    for method in [
        "phoenix.planner.v1.PlannerService/PlanAndExecute",
        "phoenix.executor.v1.ExecutorService/ExecuteTask",
    ] {
        assert_eq!(one(method).kind, "Server");
        let expected =
            [("rpc.system.name", "grpc"), ("rpc.method", method), ("rpc.response.status_code", "OK")];
        assert_attributes(one(method), &expected);
    }
    let agent = one("invoke_agent llm_router_agent");
    assert_eq!(agent.kind, "Client");
    assert_attributes(
        agent,
        &[("gen_ai.operation.name", "invoke_agent"), ("gen_ai.agent.name", "llm_router_agent")],
    );
    let model = one("chat gpt-test");
    assert_eq!((model.kind, &model.parent_id), ("Client", &agent.span_id));
    assert_attributes(
        model,
        &[
            ("gen_ai.operation.name", "chat"),
            ("gen_ai.provider.name", "openai"),
            ("gen_ai.request.model", "gpt-test"),
            ("gen_ai.response.model", "gpt-test"),
            ("gen_ai.response.finish_reasons", "stop"),
            ("gen_ai.usage.input_tokens", "900"),
            ("gen_ai.usage.output_tokens", "60"),
        ],
    );
    assert!(model.times.0 >= agent.times.0 && model.times.0 < agent.times.1, "{model:#?} {agent:#?}");
    let text = format!("{spans:?}");
    assert!(!text.contains(SECRET) && !text.contains("an answer of the model"), "{text}");
}

#[tokio::test]
async fn content_is_exported_by_opt_in() {
    let collector = Collector::start().await;
    let (builder, _provider) = builder(&collector.endpoint()).await;
    let stack = builder.env("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "true").start().await;
    let answer = stack.rest().chat_with("llm_router_agent", SECRET).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let trace = trace_with(&collector, "correlation_id", answer.str("correlation_id")).await;
    let spans = spans(&collector, &trace, &["invoke_agent llm_router_agent"]).await;
    let agent = &spans["invoke_agent llm_router_agent"][0];
    for (name, role, text) in [("input", "user", SECRET), ("output", "assistant", "an answer of the model")] {
        let messages: Value =
            serde_json::from_str(&agent.attributes[&format!("gen_ai.{name}.messages")]).unwrap();
        let expected = json!([{"role": role, "parts": [{"type": "text", "content": text}]}]);
        assert_eq!(messages, expected);
    }
}

#[tokio::test]
async fn tools_waits_failures_and_redrives_are_spans() {
    let collector = Collector::start_http().await;
    let (builder, _provider) = builder(&collector.endpoint()).await;
    std::fs::write(builder.dir().join("flaky"), "").unwrap();
    let stack = builder
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        .env("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        .start()
        .await;
    let rest = stack.rest();
    until("the tools are known", async || {
        let plan = json!({"tasks": [task("t", "hub", "echo", json!({"text": "x"}))]});
        rest.post("/api/v1/plans:dryRun", plan).await.status == 200
    })
    .await;
    let mut late = task("later", "echo", "chat", json!({"message": "hi"}));
    // Longer than a slow machine takes to start the task, which would not wait at all.
    late["delay_ms"] = json!(3000);
    // Fails after the timer, which a failure of the plan would end.
    let mut work = task("work", "flaky", "chat", json!({"message": SECRET}));
    work["depends_on"] = json!(["later"]);
    let tasks = [
        task("tool", "hub", "echo", json!({"text": SECRET})),
        task("write", "writer", "chat", json!({"message": SECRET})),
        late,
        work,
    ];
    let plan_id = rest.submit("/api/v1/plans", json!({"tasks": tasks})).await;
    until("the other tasks have ended, and one waits", async || {
        let plan = rest.plan(&plan_id).await;
        plan["tasks"].as_array().unwrap().iter().all(|task| match task["key"].as_str() {
            Some("write") => task["status"] == "awaiting_approval" || task["status"] == "cancelled",
            _ => ["succeeded", "dead_lettered", "cancelled"].iter().any(|ended| task["status"] == *ended),
        })
    })
    .await;
    assert_eq!(rest.wait_for_end(&plan_id).await["status"], "failed");
    let trace = trace_with(&collector, "plan_id", &plan_id).await;
    let awaited = [
        "POST /api/v1/plans",
        "submit_plan",
        "invoke_agent flaky",
        "invoke_agent flaky",
        "wait backoff",
        "execute_agent_for_task",
    ];
    let failed = whole(&collector, &trace, &awaited).await;
    for attempt in &failed["invoke_agent flaky"] {
        assert_eq!(attempt.error.as_deref(), Some("backend_failure"));
        assert_attributes(attempt, &[("error.type", "backend_failure"), ("gen_ai.agent.name", "flaky")]);
    }
    assert_attributes(&failed["wait backoff"][0], &[("phoenix.wait.kind", "backoff")]);
    let origin = &failed["submit_plan"][0];
    assert_eq!(origin.error.as_deref(), Some("execution_failed"));

    // The redrive is a trace of its own, which is linked.
    std::fs::remove_file(stack.dir().join("flaky")).unwrap();
    let redriven = rest.submit(&format!("/api/v1/plans/{plan_id}:redrive"), json!({})).await;
    until("the approval waits", async || {
        let plan = rest.plan(&redriven).await;
        plan["tasks"].as_array().unwrap().iter().any(|task| task["status"] == "awaiting_approval")
    })
    .await;
    let approved = rest.post(&format!("/api/v1/plans/{redriven}:approve"), json!({"actor": "ann"})).await;
    assert_eq!(approved.status, 200, "{}", approved.text);
    assert_eq!(rest.wait_for_end(&redriven).await["status"], "succeeded");
    let trace = trace_with(&collector, "plan_id", &redriven).await;
    let awaited = ["redrive", "wait approval", "invoke_agent writer", "POST /api/v1/plans/{plan_id}"];
    let spans = whole(&collector, &trace, &awaited).await;
    assert_eq!(spans["redrive"][0].links, [(origin.trace_id.clone(), origin.span_id.clone())]);
    let approval = &spans["wait approval"][0];
    let expected = [
        ("phoenix.wait.kind", "approval"),
        ("phoenix.wait.outcome", "approved"),
        ("phoenix.task.key", "write"),
    ];
    assert_attributes(approval, &expected);

    // Of the first plan or of the second, depending on what came first.
    let all = collector.spans();
    let tool = all.iter().find(|span| span.name == "execute_tool echo").expect("the tool has a span");
    let expected = [
        ("gen_ai.operation.name", "execute_tool"),
        ("gen_ai.tool.name", "echo"),
        ("gen_ai.agent.name", "hub"),
        ("mcp.method.name", "tools/call"),
    ];
    assert_attributes(tool, &expected);
    until("the timer has a span", async || collector.spans().iter().any(|span| span.name == "wait timer"))
        .await;
    assert!(!format!("{:?}", collector.spans()).contains(SECRET));
}

#[tokio::test]
async fn takeover_continues_the_trace_of_exported_attempts() {
    let collector = Collector::start().await;
    let (builder, _provider) = builder(&collector.endpoint()).await;
    let gate = builder.dir().join("gate");
    std::fs::write(&gate, "").unwrap();
    let stack = builder.start().await;
    let rest = stack.rest();
    let mut held = task("held", "gate", "chat", json!({"message": "hi"}));
    held["depends_on"] = json!(["first"]);
    let first = task("first", "echo", "chat", json!({"message": "hi"}));
    let plan_id = rest.submit("/api/v1/plans", json!({"tasks": [first, held]})).await;
    let starts =
        || std::fs::read_to_string(stack.dir().join("gate.starts")).unwrap_or_default().lines().count();
    until("the second task runs", async || {
        starts() == 1 && !rest.plan(&plan_id).await["tasks"][1]["attempts"].as_array().unwrap().is_empty()
    })
    .await;
    let attempt = until_some("the first attempt arrives while the plan runs", async || {
        collector.spans().into_iter().find(|span| span.name == "invoke_agent echo")
    })
    .await;
    assert_eq!(rest.plan(&plan_id).await["status"], "running");

    stack.signal_role(Role::Planner, Signal::SIGKILL);
    until("the task runs again", async || starts() == 2).await;
    std::fs::remove_file(&gate).unwrap();
    let trace = attempt.trace_id;
    let spans = spans(&collector, &trace, &["resume_plan", "invoke_agent gate"]).await;
    let resumed = &spans["resume_plan"][0];
    assert_eq!((resumed.kind, resumed.service.as_str()), ("Internal", "planner"));
    assert!(!resumed.parent_id.is_empty());
    until("the plan has ended", async || {
        let path = format!("/api/v1/plans/{plan_id}");
        let plan = rest.try_send("GET".parse().unwrap(), &path, None).await;
        plan.is_some_and(|plan| plan.json["status"] == "succeeded")
    })
    .await;
}

#[tokio::test]
async fn streamed_chat_is_one_trace_that_lasts_until_its_end() {
    let collector = Collector::start().await;
    let (builder, _provider) = builder(&collector.endpoint()).await;
    let gate = builder.dir().join("gate");
    std::fs::write(&gate, "").unwrap();
    let stack = builder.start().await;
    let rest = stack.rest().with_header("accept", "text/event-stream");
    let mut events = rest
        .try_events("POST".parse().unwrap(), "/api/v1/chat", Some(json!({"message": "hi", "agent": "gate"})))
        .await
        .unwrap();
    assert!(events.next().await.is_some(), "the plan is accepted");
    std::fs::remove_file(&gate).unwrap();
    let text = events.text().await;
    assert!(text.contains("event: response"), "{text}");
    let attempt = until_some("the attempt has arrived", async || {
        collector.spans().into_iter().find(|span| span.name == "invoke_agent gate")
    })
    .await;
    let names = ["POST /api/v1/chat", "phoenix.planner.v1.PlannerService/ExecutePlan", "execute_plan"];
    let spans = whole(&collector, &attempt.trace_id, &names).await;
    for name in names {
        let span = &spans[name][0];
        assert!(span.times.1 >= attempt.times.1, "{name} lasts as long as the attempt: {spans:#?}");
    }
    let call = &spans["phoenix.planner.v1.PlannerService/ExecutePlan"][0];
    assert_attributes(call, &[("rpc.response.status_code", "OK")]);
}
