//! The examples of docs/observability.md about a failed chat: what `phoenix trace` shows, and what a collector receives.

use std::{collections::BTreeMap, path::Path};

use phoenix_testkit::{
    collector::{CollectedSpan, Collector},
    phoenix_bin,
    stack::Stack,
    wait::until_some,
};
use serde_json::json;
use tokio::process::Command;

const ID: &str = "11111111-2222-4333-8444-555555555555";

/// The lines of the block that follows `before` on the page.
fn block(before: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/observability.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (_, rest) = page.split_once(before).unwrap_or_else(|| panic!("{before} is on the page"));
    let (_, rest) = rest.split_once("```").unwrap();
    let (block, _) = rest.split_once("\n```").unwrap();
    block.lines().skip(1).map(str::to_owned).collect()
}

/// A line without what differs from run to run: numbers, times and ids.
fn shape(line: &str) -> String {
    let token = |token: &str| {
        let (name, value) = token.split_once('=').map_or(("", token), |(name, value)| (name, value));
        let is_id = value.len() == 36 && value.matches('-').count() == 4;
        let varies = is_id || value.starts_with(|c: char| c.is_ascii_digit() || c == '+');
        match (name, varies) {
            (_, false) => token.to_owned(),
            ("", true) => "#".to_owned(),
            (name, true) => format!("{name}=#"),
        }
    };
    let indent = line.len() - line.trim_start().len();
    " ".repeat(indent) + &line.split_whitespace().map(token).collect::<Vec<_>>().join(" ")
}

async fn traced(stack: &Stack, lines: usize) -> Vec<String> {
    until_some("the log files have every line", async || {
        let url = stack.base_url();
        let mut trace = Command::new(phoenix_bin());
        trace.args(["trace", ID, "--url", &url]).current_dir(stack.dir());
        let output = trace.output().await.unwrap();
        let shown: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        (shown.len() >= lines).then_some(shown)
    })
    .await
}

/// Path, service, kind and status of each span, without waits for a place, which a busy machine adds.
fn rows(spans: &[CollectedSpan]) -> Vec<String> {
    let by_id: BTreeMap<_, _> = spans.iter().map(|span| (span.span_id.as_str(), span)).collect();
    let path = |span: &CollectedSpan| {
        let mut names = vec![span.name.clone()];
        let mut parent = &span.parent_id;
        while let Some(span) = by_id.get(parent.as_str()) {
            names.push(span.name.clone());
            parent = &span.parent_id;
        }
        names.reverse();
        names.join(" > ")
    };
    let row = |span: &CollectedSpan| {
        let kind = if span.kind == "Internal" { "" } else { span.kind };
        let error = span.error.as_deref().unwrap_or_default();
        format!("{} | {} | {} | {error}", path(span), span.service, kind.to_lowercase())
    };
    let mut rows: Vec<_> = spans.iter().filter(|span| span.name != "wait place").map(row).collect();
    rows.sort();
    rows
}

/// The same of the tree on the page.
fn documented_rows(tree: &[String]) -> Vec<String> {
    let (head, lines) = tree.split_first().unwrap();
    let column = |name: &str| head.find(name).unwrap();
    let (service, kind, at, status) = (column("service"), column("kind"), column("at ms"), column("status"));
    let mut names: Vec<String> = Vec::new();
    let mut rows = Vec::new();
    for line in lines {
        let cells: Vec<char> = line.chars().collect();
        let part = |from: usize, to: usize| cells.iter().skip(from).take(to - from).collect::<String>();
        let cell = |from: usize, to: usize| part(from, to).trim().to_owned();
        let name = part(0, service).trim_end().to_owned();
        let depth = name.chars().take_while(|c| " │└├─".contains(*c)).count() / 3;
        names.truncate(depth);
        names.push(name.trim_start_matches([' ', '│', '└', '├', '─']).to_owned());
        let (service, kind, error) = (cell(service, kind), cell(kind, at), cell(status, usize::MAX));
        rows.push(format!("{} | {service} | {kind} | {error}", names.join(" > ")));
    }
    rows.sort();
    rows
}

#[tokio::test]
async fn documented_story_of_a_failed_chat_is_what_is_shown() {
    let collector = Collector::start().await;
    let agent = json!(["/bin/sh", "-c", "echo 'cannot open the index' >&2; exit 3"]);
    let retry = "retry = { max_attempts = 2, initial_backoff_ms = 400 }";
    let stack = Stack::builder()
        .config(&format!("[agents.flaky]\ncommand = {agent}\n{retry}\n"))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
        .start()
        .await;
    let chat = json!({"message": "hello", "agent": "flaky", "correlation_id": ID});
    assert_eq!(stack.rest().post("/api/v1/chat", chat).await.status, 502);

    let documented = block("`phoenix trace` shows what the journal knows");
    let documented: Vec<_> = documented.iter().skip(1).map(|line| shape(line)).collect();
    let shown: Vec<_> = traced(&stack, documented.len()).await.iter().map(|line| shape(line)).collect();
    assert_eq!(shown, documented);

    let documented = documented_rows(&block("The trace of this request, as a collector received it"));
    assert!(documented.len() > 8, "{documented:?}");
    let spans = until_some("every span has arrived", async || {
        let spans = collector.spans();
        let root =
            spans.iter().find(|span| span.attributes.get("correlation_id").is_some_and(|id| id == ID))?;
        let trace = root.trace_id.clone();
        let own: Vec<_> = spans.into_iter().filter(|span| span.trace_id == trace).collect();
        (rows(&own).len() >= documented.len()).then_some(own)
    })
    .await;
    assert_eq!(rows(&spans), documented, "{spans:#?}");
}
