//! A model provider behind the whole stack: configured by variables, called through a proxy.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use phoenix_domain::json::Json;
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

/// What libraries change when they read it: numbers of any length and form, names, characters.
const ODD: &str = r#"{"type":"object","properties":{"big":123456789012345678901234567890,"price":1.10,"huge":1e400,"zero":-0,"one":[[1.0]],"\u0000\" 😀":"\\ \u2028","$serde_json::private::Number":"1"}}"#;

/// A provider with the APIs of OpenAI and Anthropic whose answer calls a tool with the schema of the first tool as its arguments.
async fn repeating_provider() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let request = whole_request(&mut connection).await;
            let (head, body) = request.split_once("\r\n\r\n").unwrap();
            let body = Json::parse(body).unwrap();
            let is_anthropic = head.starts_with("POST /anthropic/");
            let tool = &body["tools"][0];
            let schema = if is_anthropic { &tool["input_schema"] } else { &tool["function"]["parameters"] };
            let (kind, answer) = repeated(is_anthropic, body["stream"] == true, &schema.to_string());
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n");
            connection.write_all((head + &answer).as_bytes()).await.unwrap();
        }
    });
    url
}

/// The type and the body of an answer that calls a tool with `arguments`, which a stream has in two parts.
fn repeated(is_anthropic: bool, is_streamed: bool, arguments: &str) -> (&'static str, String) {
    let quoted = |text: &str| Json::from(text).to_string();
    let [first, second] = [&arguments[..40], &arguments[40..]].map(quoted);
    let events = |events: &[String]| events.iter().map(|event| format!("data: {event}\n\n")).collect();
    match (is_anthropic, is_streamed) {
        (true, false) => (
            "application/json",
            format!(
                r#"{{"content":[{{"type":"tool_use","id":"c","name":"f","input":{arguments}}}],"stop_reason":"tool_use"}}"#
            ),
        ),
        (true, true) => {
            let part = |text: &str| {
                format!(
                    r#"{{"type":"content_block_delta","delta":{{"type":"input_json_delta","partial_json":{text}}}}}"#
                )
            };
            let start = r#"{"type":"content_block_start","content_block":{"type":"tool_use","id":"c","name":"f","input":{}}}"#;
            let stop = r#"{"type":"content_block_stop"}"#;
            let reason = r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"}}"#;
            let end = r#"{"type":"message_stop"}"#;
            let parts = [start.into(), part(&first), part(&second), stop.into(), reason.into(), end.into()];
            ("text/event-stream", events(&parts))
        }
        (false, false) => (
            "application/json",
            format!(
                r#"{{"choices":[{{"message":{{"content":null,"tool_calls":[{{"id":"c","type":"function","function":{{"name":"f","arguments":{}}}}}]}},"finish_reason":"tool_calls"}}]}}"#,
                quoted(arguments)
            ),
        ),
        (false, true) => {
            let part = |rest: &str, text: &str, end: &str| {
                format!(
                    r#"{{"choices":[{{"delta":{{"tool_calls":[{{"index":0{rest},"function":{{"name":"f","arguments":{text}}}}}]}}{end}}}]}}"#
                )
            };
            let begin = r#","id":"c","type":"function""#;
            let end = r#","finish_reason":"tool_calls""#;
            ("text/event-stream", events(&[part(begin, &first, ""), part("", &second, end)]))
        }
    }
}

/// The arguments of the call in an answer of one of the three APIs.
fn arguments(door: &str, answer: &str, is_streamed: bool) -> Json {
    let events: Vec<Json> = match is_streamed {
        true => answer
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .filter(|data| *data != "[DONE]")
            .map(|data| Json::parse(data).unwrap())
            .collect(),
        false => vec![Json::parse(answer).unwrap()],
    };
    let texts = |text: fn(&Json) -> Option<&str>| events.iter().filter_map(text).collect::<String>();
    let text = match (door, is_streamed) {
        ("/v1/chat/completions", false) => {
            texts(|answer| answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"].as_str())
        }
        ("/v1/chat/completions", true) => {
            texts(|chunk| chunk["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"].as_str())
        }
        ("/v1/messages", false) => events[0]["content"][0]["input"].to_string(),
        ("/v1/messages", true) => texts(|event| event["delta"]["partial_json"].as_str()),
        (_, false) => texts(|answer| answer["output"][0]["arguments"].as_str()),
        (_, true) => texts(|event| match event["type"].as_str() {
            Some("response.function_call_arguments.delta") => event["delta"].as_str(),
            _ => None,
        }),
    };
    Json::parse(&text).unwrap_or_else(|error| panic!("{door}: {error}: {answer}"))
}

#[tokio::test]
async fn odd_values_pass_every_door_to_every_api_and_back() {
    let url = repeating_provider().await;
    let config = format!(
        "[llm]\ndefault_provider = 'repeating'\n[llm.providers.repeating]\nbase_url = '{url}/openai'\nmodel_name = 'm'\n\
         [llm.anthropic]\nbase_url = '{url}/anthropic'\napi_key = 'sk-ant-of-the-test'\n"
    );
    let mut stack = Stack::builder().config(&config).start().await;
    let rest = stack.rest();
    let function = format!(r#""name":"f","parameters":{ODD}"#);
    let message = r#"[{"role":"user","content":"m"}]"#;
    for (door, members) in [
        (
            "/v1/chat/completions",
            format!(r#""messages":{message},"tools":[{{"type":"function","function":{{{function}}}}}]"#),
        ),
        (
            "/v1/messages",
            format!(r#""messages":{message},"max_tokens":99,"tools":[{{"name":"f","input_schema":{ODD}}}]"#),
        ),
        ("/v1/responses", format!(r#""input":"m","tools":[{{"type":"function",{function}}}]"#)),
    ] {
        for model in ["repeating/m", "anthropic/m"] {
            for is_streamed in [false, true] {
                let body = format!(r#"{{"model":"{model}","stream":{is_streamed},{members}}}"#);
                let answer = rest.post_text(door, body).await;
                assert_eq!(answer.status, 200, "{door} {model}: {}", answer.text);
                let found = arguments(door, &answer.text, is_streamed);
                assert_eq!(found, Json::parse(ODD).unwrap(), "{door} {model} {is_streamed}: {}", answer.text);
            }
        }
    }
    assert_eq!(stack.stop().await, Some(0));
}
