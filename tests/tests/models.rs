//! A model provider behind the whole stack: configured by variables, called through a proxy.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

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

/// A model under the name `first` whose streamed answer breaks off, and `second` with a whole one, of which each counts its chats.
async fn broken_and_whole() -> (String, [Arc<AtomicUsize>; 2]) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
    let counts = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let request = whole_request(&mut connection).await;
            let piece =
                |text: &str| format!("data: {}\n\n", json!({"choices": [{"delta": {"content": text}}]}));
            let (model, body) = match request.starts_with("POST /first/") {
                true => (0, piece("half")),
                false => (1, piece("whole") + "data: [DONE]\n\n"),
            };
            counts[model].fetch_add(1, Ordering::SeqCst);
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
            connection.write_all((head.to_owned() + &body).as_bytes()).await.unwrap();
        }
    });
    (url, asked)
}

/// A stack whose model `first` breaks off, with `second` as its fallback.
async fn chain_of(url: &str) -> Stack {
    let model = |name: &str| format!("[llm.providers.{name}]\nbase_url = '{url}/{name}'\nmodel_name = 'm'\n");
    let llm = "[llm]\ndefault_provider = 'first'\nfallback = ['second/m']\n";
    Stack::builder().config(&format!("{llm}{}{}", model("first"), model("second"))).start().await
}

#[tokio::test]
async fn answer_that_broke_off_is_reset_before_the_next_model_begins() {
    let (url, asked) = broken_and_whole().await;
    let mut stack = chain_of(&url).await;
    let rest = stack.rest().with_header("accept", "text/event-stream");
    let counts = || asked.each_ref().map(|count| count.load(Ordering::SeqCst));
    let body =
        json!({"message": "m", "agent": "llm_router_agent", "options": {"fallback_after_output": true}});
    let answer = rest.post("/api/v1/chat", body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let place = |words: &str| answer.text.find(words).unwrap_or_else(|| panic!("{words}: {}", answer.text));
    let places =
        ["\"text\":\"half\"", "event: output_reset\n", "\"text\":\"whole\"", "event: response\n"].map(place);
    assert!(places.is_sorted(), "{}", answer.text);
    let (_, response) = answer.text.rsplit_once("data: ").unwrap();
    let response: serde_json::Value = serde_json::from_str(response.trim()).unwrap();
    assert_eq!((&response["status"], &response["output"]), (&json!("success"), &json!("whole")));
    assert_eq!(counts(), [1, 1]);

    // A stream of OpenAI's API ends with an error: what it has sent cannot be taken back.
    let body = json!({"model": "phoenix", "stream": true, "fallback_after_output": true,
        "messages": [{"role": "user", "content": "m"}]});
    let answer = rest.post("/v1/chat/completions", body).await;
    assert!(answer.text.contains("half") && !answer.text.contains("whole"), "{}", answer.text);
    assert!(
        answer.text.contains("the answer broke off") && !answer.text.contains("[DONE]"),
        "{}",
        answer.text
    );
    assert_eq!(stack.stop().await, Some(0));
}

#[tokio::test]
async fn broken_answer_is_repeated_by_its_model_by_default() {
    let (url, asked) = broken_and_whole().await;
    let mut stack = chain_of(&url).await;
    let rest = stack.rest().with_header("accept", "text/event-stream");
    let answer = rest.post("/api/v1/chat", json!({"message": "m", "agent": "llm_router_agent"})).await;
    assert!(!answer.text.contains("whole"), "{}", answer.text);
    assert_eq!(answer.text.matches("event: output_reset\n").count(), 2, "{}", answer.text);
    assert_eq!(asked.each_ref().map(|count| count.load(Ordering::SeqCst)), [3, 0]);
    assert_eq!(stack.stop().await, Some(0));
}
