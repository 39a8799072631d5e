//! Misbehaving connections, and connections at shutdown.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};

use crate::support::{PATIENCE, Reply, Stack};

/// The head of a chat whose body has `length` bytes.
fn head(length: usize) -> String {
    format!(
        "POST /api/v1/chat HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("ends in time").unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn disconnect_of_the_caller_cancels_its_chat() {
    let stack = Stack::start().await;
    stack.planner.reply(Reply::Hang);
    let mut stream = TcpStream::connect(stack.gateway.addr).await.unwrap();
    let body = json!({"message": "hi"}).to_string();
    stream.write_all(format!("{}{body}", head(body.len())).as_bytes()).await.unwrap();
    stack.planner.has_seen(1).await;
    drop(stream);
    stack.planner.has_lost(1).await;
}

#[tokio::test]
async fn body_that_does_not_arrive_times_out() {
    let stack = Stack::start_with(|config| config.request_timeout = Duration::from_millis(300)).await;
    let mut stream = TcpStream::connect(stack.gateway.addr).await.unwrap();
    stream.write_all(head(1000).as_bytes()).await.unwrap();
    stream.write_all(b"{").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains(r#""code":"timeout""#), "{answer}");
    assert!(stack.planner.seen().is_empty());
}

#[tokio::test]
async fn body_that_ends_early_creates_no_plan() {
    let stack = Stack::start().await;
    let mut stream = TcpStream::connect(stack.gateway.addr).await.unwrap();
    stream.write_all(head(1000).as_bytes()).await.unwrap();
    stream.write_all(br#"{"message":"hi"}"#).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(stack.planner.seen().is_empty());
}

#[tokio::test]
async fn chunked_body_over_the_limit_is_rejected() {
    let stack = Stack::start().await;
    let mut stream = TcpStream::connect(stack.gateway.addr).await.unwrap();
    let head = "POST /api/v1/chat HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                transfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..49 {
        stream.write_all(chunk.as_bytes()).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains(r#""code":"validation_failed""#), "{answer}");
}

#[tokio::test]
async fn shutdown_finishes_chats_in_flight_and_rejects_new_ones() {
    let stack = Stack::start().await;
    let finish = Arc::new(Notify::new());
    stack.planner.reply(Reply::After(finish.clone()));
    let http = stack.http.clone();
    let chat = tokio::spawn(async move { http.post("/api/v1/chat", &json!({"message": "hi"})).await });
    // A silent connection does not delay the shutdown.
    let _idle = TcpStream::connect(stack.gateway.addr).await.unwrap();
    stack.planner.has_seen(1).await;

    let addr = stack.gateway.addr;
    let stopping = tokio::spawn(stack.gateway.stop());
    crate::support::eventually("new connections are refused", || async {
        TcpStream::connect(addr).await.is_err()
    })
    .await;
    assert!(!stopping.is_finished(), "the chat in flight is waited for");
    finish.notify_one();
    let answer = chat.await.unwrap();
    assert_eq!((answer.status, &answer.json()["output"]), (StatusCode::OK, &"late".into()));
    stopping.await.unwrap();
}
