//! What callers get when the planner fails as a process.

use std::time::Duration;

use http::StatusCode;
use phoenix_platform::readiness::Readiness;
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::{
    FakePlanner, Http, Reply, Stack, config, eventually, free, nobody, serve_gateway, serve_grpc,
};

#[tokio::test]
async fn a_planner_that_is_down_is_told_at_once_and_found_again_by_itself() {
    let addr = nobody().await;
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
async fn a_planner_that_is_frozen_is_found_out() {
    // Accepts, as the kernel does for a stopped process, and says nothing.
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
async fn a_chat_that_takes_too_long_is_answered_and_its_work_cancelled() {
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
async fn a_planner_that_breaks_the_contract_is_our_defect_and_tells_nothing_of_our_inside() {
    let stack = Stack::start().await;
    stack.planner.reply(Reply::Nonsense);
    let answer = stack.http.post("/api/v1/chat", &json!({"message": "hi"})).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    let error = &answer.json()["error"];
    assert_eq!(error["code"], "internal");
    assert_eq!(error["message"], "the planner answered in an unexpected way");
}
