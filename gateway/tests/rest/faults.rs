//! Failures of the planner as a process.

use std::time::Duration;

use http::StatusCode;
use phoenix_platform::readiness::Readiness;
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::{
    FakePlanner, Http, Reply, Stack, config, eventually, free, serve_gateway, serve_grpc, unused_addr,
};

#[tokio::test]
async fn planner_down_is_unavailable_until_it_is_back() {
    let addr = unused_addr().await;
    let url = format!("http://{addr}");
    let gateway = serve_gateway(config(&url, &url, &url)).await;
    let http = Http::new(gateway.addr);
    let chat = json!({"message": "hi"});
    let answer = http.post("/api/v1/chat", &chat).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json()["error"]["code"], "unavailable");
    assert_eq!(answer.header("retry-after"), "1");
    assert!(answer.took < Duration::from_secs(2), "{:?}", answer.took);

    let planner = FakePlanner::default();
    for round in 1..=2 {
        let server = serve_grpc(addr, planner.server(Readiness::needing(&[]))).await;
        eventually("the planner is found", || async {
            http.post("/api/v1/chat", &chat).await.status == StatusCode::OK
        })
        .await;
        server.stop().await;
        let answer = http.post("/api/v1/chat", &chat).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "round {round}: {answer:?}");
    }
}

#[tokio::test]
async fn frozen_planner_is_unavailable() {
    // Accepts connections, as the kernel does for a stopped process, and sends nothing.
    let frozen = TcpListener::bind(free()).await.unwrap();
    let url = format!("http://{}", frozen.local_addr().unwrap());
    let gateway = serve_gateway(config(&url, &url, &url)).await;
    let answer = Http::new(gateway.addr).post("/api/v1/chat", &json!({"message": "hi"})).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    assert_eq!(answer.json()["error"]["code"], "unavailable");
    assert_eq!(answer.header("retry-after"), "1");
    assert!(answer.took < Duration::from_secs(4), "{:?}: pings take longer", answer.took);
}

#[tokio::test]
async fn chat_over_its_deadline_times_out_and_is_cancelled() {
    let limit = Duration::from_millis(400);
    let stack = Stack::start_with(|config| config.request_timeout = limit).await;
    stack.planner.reply(Reply::Hang);
    for path in ["/api/v1/chat", "/api/chat"] {
        let answer = stack.http.post(path, &json!({"message": "hi"})).await;
        assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT, "{answer:?}");
        assert_eq!(answer.json()["status"], "error");
        if path == "/api/v1/chat" {
            assert_eq!(answer.json()["error"]["code"], "timeout");
        }
    }
    stack.planner.has_lost(2).await;
    for seen in stack.planner.seen() {
        assert!(seen.context.deadline.is_some(), "the planner knew");
    }
}

#[tokio::test]
async fn invalid_response_of_planner_is_internal_without_details() {
    let stack = Stack::start().await;
    stack.planner.reply(Reply::Nonsense);
    let answer = stack.http.post("/api/v1/chat", &json!({"message": "hi"})).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    let error = &answer.json()["error"];
    assert_eq!(error["code"], "internal");
    assert_eq!(error["message"], "the planner answered in an unexpected way");
}
