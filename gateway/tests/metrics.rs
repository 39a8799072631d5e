//! Metrics. A separate binary, because the recorder is global to the process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // A test may panic and print.

mod support;

use http::Method;
use phoenix_gateway::metrics::METRICS;
use phoenix_platform::init_metrics;
use serde_json::json;
use support::{Http, Stack, free};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const COUNTERS: [&str; 4] = [
    "http_requests_total_chat_legacy",
    "http_requests_total_chat_v1",
    "http_requests_total_agents_v1",
    "http_requests_total_health",
];

#[tokio::test]
async fn requests_count_after_authentication_and_errors_by_status() {
    let listener = TcpListener::bind(free()).await.unwrap();
    let metrics = Http::new(listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let exporter = init_metrics(METRICS).unwrap();
    tokio::spawn(exporter.serve(listener, None, stop.clone()));
    let _stop = stop.drop_guard();
    let scrape = || async { metrics.get("/metrics").await.text };
    let counts = |text: &str| {
        COUNTERS.map(|name| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("{name} is missing, or has labels:\n{text}"))
                .parse::<u64>()
                .unwrap()
        })
    };
    assert_eq!(counts(&scrape().await), [0; 4], "they exist before the first request");

    let stack = Stack::start_with(|config| config.api_token = Some("s3cret".to_owned().into())).await;
    let json = ("content-type", "application/json");
    let chat = json!({"message": "hi"}).to_string();
    for path in ["/api/chat", "/api/v1/chat", "/api/v1/agents", "/health"] {
        stack.http.send(Method::POST, path, &[json], &chat).await;
        stack.http.get(path).await;
    }
    let refused = scrape().await;
    assert_eq!(counts(&refused), [0; 4]);
    let refusals = |text: &str, endpoint: &str, status: u16| {
        let name = "phoenix_http_request_duration_seconds_count";
        let series = format!("{name}{{endpoint=\"{endpoint}\",status=\"{status}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&series)?.parse::<u64>().ok())
    };
    // Requests with a wrong method count as unknown endpoint.
    for (endpoint, count) in
        [("chat_legacy", 1), ("chat_v1", 1), ("agents_v1", 1), ("health", 1), ("unknown", 4)]
    {
        assert_eq!(refusals(&refused, endpoint, 401), Some(count), "{endpoint}:\n{refused}");
    }

    let open = Stack::start().await;
    open.http.send(Method::GET, "/health", &[("host", "evil.example")], "").await;
    assert_eq!(refusals(&scrape().await, "health", 421), Some(1));

    let token = ("authorization", "Bearer s3cret");
    for _ in 0..2 {
        stack.http.send(Method::POST, "/api/chat", &[json, token], &chat).await;
        stack.http.send(Method::GET, "/api/v1/agents", &[token], "").await;
        stack.http.send(Method::GET, "/health", &[token], "").await;
    }
    stack.http.send(Method::POST, "/api/v1/chat", &[json, token], &chat).await;
    stack.http.send(Method::POST, "/api/v1/chat", &[json, token], "not JSON").await;
    stack.http.send(Method::POST, "/api/v1/chat", &[token], &chat).await;
    // Neither a wrong method nor an unknown path is an endpoint.
    stack.http.send(Method::GET, "/api/v1/chat", &[token], "").await;
    stack.http.send(Method::GET, "/api/v1/nowhere", &[token], "").await;
    let counted = scrape().await;
    assert_eq!(counts(&counted), [2, 3, 2, 2]);
    assert!(counted.contains("phoenix_overhead_seconds_count 3\n"), "of those that went well:\n{counted}");
    for (endpoint, status, count) in [
        ("chat_v1", 200, 1),
        ("chat_v1", 400, 1),
        ("chat_v1", 415, 1),
        ("unknown", 405, 1),
        ("unknown", 404, 1),
    ] {
        let line = format!(
            "phoenix_http_request_duration_seconds_count{{endpoint=\"{endpoint}\",status=\"{status}\"}} {count}"
        );
        assert!(counted.contains(&line), "{line} is missing from:\n{counted}");
    }
}
