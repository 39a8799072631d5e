//! `/api/v1/stats`.

use http::StatusCode;

use crate::support::Stack;

#[tokio::test]
async fn statistics_of_a_window_have_a_total_and_buckets() {
    let stack = Stack::start().await;
    let hour = stack.http.get("/api/v1/stats").await.json();
    assert_eq!((hour["window"].as_str(), hour["bucket_secs"].as_u64()), (Some("1h"), Some(60)));
    let buckets = hour["buckets"].as_array().unwrap();
    assert_eq!(buckets.len(), 60);
    assert_eq!(buckets[59]["at"], "2026-01-31T12:00:00Z");
    assert_eq!(buckets[59]["latency_ms"]["p95"], 550.0);
    assert!(buckets[3]["latency_ms"].is_null(), "nothing happened in that minute");
    let sum: u64 = buckets.iter().map(|bucket| bucket["accepted"].as_u64().unwrap()).sum();
    assert_eq!(hour["total"]["accepted"], sum);
    assert_eq!(hour["unfinished"], serde_json::json!({"pending": 3, "running": 2}));
    let short = stack.http.get("/api/v1/stats?window=15m").await.json();
    assert_eq!(short["buckets"].as_array().unwrap().len(), 15);
    let total = stack.http.get("/api/v1/stats?window=1h&buckets=false").await.json();
    assert_eq!((&total["total"], &total["buckets"]), (&hour["total"], &serde_json::json!([])));
    let flag = stack.http.get("/api/v1/stats?buckets=no").await;
    assert!(flag.text.contains("`buckets` must be `true` or `false`"), "{}", flag.text);
    let wrong = stack.http.get("/api/v1/stats?window=2h").await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert!(wrong.text.contains("`window` must be one of `15m`, `1h`, `6h`, `24h`"), "{}", wrong.text);
}
