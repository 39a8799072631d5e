//! Probes.

use http::StatusCode;
use serde_json::json;

use crate::support::{Http, Stack, config, eventually, serve_gateway, unused_addr};

#[tokio::test]
async fn liveness_and_health_need_no_service() {
    let url = format!("http://{}", unused_addr().await);
    let gateway = serve_gateway(config(&url, &url, &url)).await;
    let http = Http::new(gateway.addr);
    assert_eq!(http.get("/livez").await.json(), json!({"status": "ok"}));
    let health = json!({"status": "ok", "llm_provider": "offline", "llm_model": "none"});
    assert_eq!(http.get("/health").await.json(), health);
    let ready = http.get("/readyz").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ready.json()["not_ready"], json!(["planner", "executor", "health"]));
}

#[tokio::test]
async fn readiness_lists_services_that_are_not_ready() {
    let stack = Stack::start().await;
    let readyz = || stack.http.get("/readyz");
    eventually("ready", || async { readyz().await.json()["status"] == "ready" }).await;
    let checks = json!({"planner": "ok", "executor": "ok", "health": "ok"});
    assert_eq!(readyz().await.json(), json!({"status": "ready", "checks": checks, "not_ready": []}));

    stack.health_ready.set("store", false);
    eventually("degraded", || async { readyz().await.json()["status"] == "degraded" }).await;
    let degraded = readyz().await;
    assert_eq!((degraded.status, &degraded.json()["not_ready"]), (StatusCode::OK, &json!(["health"])));

    stack.executor_ready.set("agents", false);
    eventually("not ready", || async { readyz().await.json()["status"] == "not_ready" }).await;
    let not_ready = readyz().await;
    assert_eq!(not_ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(not_ready.json()["not_ready"], json!(["executor", "health"]));
    assert_eq!(not_ready.header("retry-after"), "1");
}
