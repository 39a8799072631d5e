//! A model provider behind the whole stack: configured by variables, called through a proxy.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use phoenix_testkit::stack::Stack;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A proxy that answers in place of the provider, until the test ends.
async fn provider() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move { answer(connection, &count).await });
        }
    });
    (url, asked)
}

/// Answers one request depending on a word in its message.
async fn answer(mut connection: TcpStream, asked: &AtomicUsize) {
    let request = whole_request(&mut connection).await;
    asked.fetch_add(1, Ordering::SeqCst);
    let completion =
        |reason: &str| json!({"choices": [{"message": {"content": "half"}, "finish_reason": reason}]});
    let (head, body) = if !request.starts_with("POST http://model.invalid/v1/chat/completions ") {
        ("404 Not Found", json!({"error": request.lines().next()}))
    } else if request.contains("busy") {
        ("429 Too Many Requests\r\nRetry-After: 30", json!({"error": {"message": "slow down"}}))
    } else if request.contains("long") {
        ("200 OK", completion("length"))
    } else if request.contains("bad") {
        ("200 OK", json!({"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}))
    } else {
        ("200 OK", completion("stop"))
    };
    let body = body.to_string();
    let response =
        format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    connection.write_all(response.as_bytes()).await.unwrap();
}

async fn whole_request(connection: &mut TcpStream) -> String {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return text.into_owned();
            }
        }
        assert_ne!(connection.read_buf(&mut request).await.unwrap(), 0, "the agent closed the connection");
    }
}

#[tokio::test]
async fn model_named_by_variables_is_called_once_per_chat() {
    let (proxy, requests) = provider().await;
    let mut stack = Stack::builder()
        .env("OPENAI_API_KEY", "sk-key-of-the-test")
        .env("OPENAI_BASE_URL", "http://model.invalid/v1")
        .env("http_proxy", proxy)
        .start()
        .await;
    let rest = stack.rest();
    let whole = rest.chat_with("llm_router_agent", "hello").await;
    assert_eq!((whole.status.as_u16(), whole.str("output")), (200, "half"), "{}", whole.text);
    assert!(whole.json.get("finish_reason").is_none(), "{}", whole.text);
    let partial = rest.chat_with("llm_router_agent", "a long story").await;
    assert_eq!((partial.status.as_u16(), partial.str("finish_reason")), (200, "length"), "{}", partial.text);

    let before = requests.load(Ordering::SeqCst);
    // More often than the failure threshold of the agent's circuit.
    for chat in 1..=4 {
        let busy = rest.chat_with("llm_router_agent", "busy").await;
        assert_eq!(busy.status.as_u16(), 429, "{}", busy.text);
        assert_eq!((busy.header("retry-after"), &busy.json["error"]["code"]), ("30", &json!("overloaded")));
        assert!(
            busy.json["error"]["message"].as_str().unwrap().ends_with("(429): slow down"),
            "{}",
            busy.text
        );
        assert_eq!(requests.load(Ordering::SeqCst), before + chat, "each chat is one request");
    }
    for _ in 0..4 {
        let declined = rest.chat_with("llm_router_agent", "a bad one").await;
        assert_eq!(declined.status.as_u16(), 400, "{}", declined.text);
        assert!(
            declined.text.contains("declined to answer this message: content_filter"),
            "{}",
            declined.text
        );
    }
    assert_eq!(requests.load(Ordering::SeqCst), before + 8);
    let health = rest.agent("llm_router_agent").await.unwrap();
    assert_eq!((&health["health"], &health["consecutive_failures"]), (&json!("healthy"), &json!(0)));
    assert_eq!(stack.stop().await, Some(0));
}
