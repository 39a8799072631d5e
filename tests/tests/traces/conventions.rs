//! A real collector between Phoenix and the test, and the names in the packages that the conventions are published as.
//!
//! `cargo xtask test` installs both from PyPI: rotel, a collector, and `opentelemetry-semantic-conventions`. The spans that rotel has
//! received, parsed and sent on are those of a run with agents of every kind.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Stdio,
};

use phoenix_platform::semconv;
use phoenix_testkit::{
    collector::Collector,
    wait::{until, until_some},
};
use serde_json::json;
use tokio::process::{Child, Command};

use crate::{SECRET, builder, task};

/// Fields of log lines, which are attributes, too.
const LOG_FIELDS: [&str; 7] =
    ["agent", "attempt", "correlation_id", "plan_id", "redrive_of", "task_id", "trace_id"];

/// Prints every name of the conventions, and the values of two attributes.
const PRINT_NAMES: &str = r#"
import importlib, json, pkgutil
import opentelemetry.semconv._incubating.attributes as incubating, opentelemetry.semconv.attributes as stable
import opentelemetry.semconv_ai as ai
names = {}
for package in incubating, stable:
    for module in pkgutil.iter_modules(package.__path__):
        for key, value in vars(importlib.import_module(f"{package.__name__}.{module.name}")).items():
            if key.isupper() and isinstance(value, str):
                names[value] = key
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
values = lambda kind: [value.value for value in kind]
also = [value for value in vars(ai.SpanAttributes).values() if isinstance(value, str)]
print(json.dumps({
    "names": sorted(names),
    "ai": also,
    "operations": values(gen_ai.GenAiOperationNameValues),
    "providers": values(gen_ai.GenAiProviderNameValues),
}))
"#;

/// The collector, as `cargo xtask test` installs it. Its folder has the packages of the conventions.
pub(crate) fn rotel() -> Option<PathBuf> {
    let program = std::env::var_os("ROTEL_BIN").map(PathBuf::from);
    if program.is_none() {
        let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!is_ci, "ROTEL_BIN must be set in CI; cargo xtask test sets it");
        eprintln!("SKIPPED: a real collector and the names of the conventions, because ROTEL_BIN is not set");
    }
    program
}

/// What the packages in the environment of `rotel` define.
async fn published(rotel: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let python = rotel.with_file_name("python3");
    let output = Command::new(python).args(["-c", PRINT_NAMES]).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A running collector, which sends what it receives to `to`.
pub(crate) struct Rotel {
    grpc: String,
    http: String,
    _process: Child,
}

impl Rotel {
    pub(crate) async fn start(program: &Path, folder: &Path, to: &Collector) -> Self {
        let ports = [0; 2].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let [grpc, http] = ports.map(|port| port.local_addr().unwrap().to_string());
        let process = Command::new(program)
            .args([
                "start",
                "--exporter",
                "otlp",
                "--otlp-exporter-endpoint",
                &to.endpoint(),
                "--otlp-exporter-protocol",
                "http",
            ])
            .args(["--otlp-grpc-endpoint", &grpc, "--otlp-http-endpoint", &http, "--batch-timeout", "50ms"])
            .arg("--pid-file")
            .arg(folder.join("rotel.pid"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        for address in [&grpc, &http] {
            until("the collector listens", async || tokio::net::TcpStream::connect(address).await.is_ok())
                .await;
        }
        Self { grpc: format!("http://{grpc}"), http: format!("http://{http}"), _process: process }
    }

    /// Where it receives, over a protocol.
    pub(crate) fn endpoint(&self, protocol: &str) -> &str {
        if protocol == "grpc" { &self.grpc } else { &self.http }
    }
}

#[tokio::test]
async fn names_are_those_of_the_published_conventions() {
    let Some(rotel) = rotel() else { return };
    let published = published(&rotel).await;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/platform/src/semconv.rs");
    let source = std::fs::read_to_string(source).unwrap();
    let (conventions, own) = source.split_once("pub mod operation").unwrap();
    let (operations, own) = own.split_once("pub mod own").unwrap();
    let texts = |part: &str| -> Vec<String> {
        part.lines()
            .filter_map(|line| line.trim().strip_prefix("pub const ")?.split('"').nth(1).map(str::to_owned))
            .filter(|text| text != semconv::SCHEMA_URL)
            .collect()
    };
    let conventions = texts(conventions);
    assert!(conventions.len() > 25, "{conventions:?}");
    for name in &conventions {
        assert!(published["names"].contains(name), "{name} is not a name of the conventions");
    }
    // A package of its own, by others, whose names of the same facts are the same.
    for name in ["gen_ai.usage.cache_read.input_tokens", "gen_ai.request.model", "gen_ai.response.model"] {
        assert!(published["ai"].contains(name) && conventions.iter().any(|own| own == name), "{name}");
    }
    for operation in texts(operations) {
        assert!(published["operations"].contains(&operation), "{operation} is not an operation");
    }
    for provider in ["openai", "anthropic", "gcp.gemini", "x_ai"] {
        assert!(published["providers"].contains(provider), "{provider} is not a provider");
    }
    for name in texts(own) {
        assert!(name.starts_with("phoenix."), "{name} has neither a convention nor the prefix");
    }
}

#[tokio::test]
async fn real_collector_accepts_every_span_over_both_protocols() {
    let Some(rotel) = rotel() else { return };
    let names = published(&rotel).await.remove("names").unwrap();
    for protocol in ["grpc", "http/protobuf"] {
        let collector = Collector::start_http().await;
        let folder = tempfile::tempdir().unwrap();
        let running = Rotel::start(&rotel, folder.path(), &collector).await;
        let (builder, _provider) = builder(running.endpoint(protocol)).await;
        std::fs::write(builder.dir().join("flaky"), "").unwrap();
        let stack = builder.env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol).start().await;
        let rest = stack.rest();
        assert_eq!(rest.chat_with("llm_router_agent", SECRET).await.status, 200);
        assert_eq!(rest.chat_with("flaky", SECRET).await.status, 502);
        until("the tool answers", async || {
            let tool = task("t", "hub", "echo", json!({"text": SECRET}));
            rest.post("/api/v1/plans", json!({"tasks": [tool]})).await.status == 200
        })
        .await;
        let awaited = [
            "chat gpt-test",
            "invoke_agent flaky",
            "wait backoff",
            "execute_tool echo",
            "POST /api/v1/plans",
        ];
        let spans = until_some("the spans have passed the collector", async || {
            let spans = collector.spans();
            awaited.iter().all(|name| spans.iter().any(|span| span.name == *name)).then_some(spans)
        })
        .await;
        for span in &spans {
            for name in span.attributes.keys() {
                let is_known = names.contains(name) || LOG_FIELDS.contains(&&**name);
                assert!(is_known || name.starts_with("phoenix."), "{protocol}: {name} in {span:#?}");
            }
            let has_failed = span.error.is_some();
            assert_eq!(has_failed, span.attributes.contains_key("error.type"), "{span:#?}");
        }
        assert!(!format!("{spans:?}").contains(SECRET));
        for role in phoenix_platform::config::Role::ALL {
            let lost = stack.metric(*role, "phoenix_telemetry_spans_lost_total").await;
            assert_eq!(lost, 0.0, "{protocol}: {role}");
        }
    }
}
