//! Invalid input: a table of requests, and a snapshot of every response.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Answer, Stack};

const ID: &str = "4f9d3c1e-7a55-4d0a-9d2b-0c7f5f0c2f11";
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

/// Name, method, path, headers, body.
type Case<'a> = (&'a str, Method, &'a str, &'a [(&'a str, &'a str)], &'a str);

/// The response without parts that differ between runs.
fn picture(name: &str, answer: &Answer) -> Value {
    let mut body = answer.json();
    let told = body.get_mut("correlation_id").map(Value::take);
    if let Some(told) = told {
        assert_eq!(told, answer.header("x-correlation-id"), "{name}");
        body["correlation_id"] = "[id]".into();
    }
    assert!(answer.header("x-correlation-id").len() == 36, "{name}: every answer has an id");
    let mut headers = serde_json::Map::new();
    for header in ["content-type", "allow", "retry-after", "www-authenticate"] {
        if !answer.header(header).is_empty() {
            headers.insert(header.into(), answer.header(header).into());
        }
    }
    json!({"case": name, "status": answer.status.as_u16(), "headers": headers, "body": body})
}

#[tokio::test]
async fn error_of_a_chat_names_the_field() {
    let stack = Stack::start().await;
    let depth_bomb = format!(r#"{{"message":{}"#, "[".repeat(100_000));
    let hidden_bomb = format!(r#"{{"x":{}"#, "{\"x\":".repeat(100_000));
    let long_message = json!({"message": "x".repeat(32_769)}).to_string();
    let long_context = json!({"message": "x", "context": "x".repeat(262_145)}).to_string();
    let long_name = format!(r#"{{"message":"x","{}":1}}"#, "y".repeat(5_000));
    let cases: &[(&str, &[u8])] = &[
        ("blank message", br#"{"message":" \n\t"}"#),
        ("empty message", br#"{"message":""}"#),
        ("missing message", br#"{}"#),
        ("message is a number", br#"{"message":5}"#),
        ("message is null", br#"{"message":null}"#),
        ("message is an object", br#"{"message":{"text":"hi"}}"#),
        ("message too long", long_message.as_bytes()),
        ("context too long", long_context.as_bytes()),
        ("context is a list", br#"{"message":"hi","context":["a"]}"#),
        ("unknown field", br#"{"message":"hi","mesage":"typo"}"#),
        ("unknown field with a long name", long_name.as_bytes()),
        ("duplicate field", br#"{"message":"hi","message":"ho"}"#),
        ("correlation id is no UUID", br#"{"message":"hi","correlation_id":"42"}"#),
        ("correlation id is a number", br#"{"message":"hi","correlation_id":42}"#),
        ("other version", br#"{"message":"hi","api_version":"v2"}"#),
        ("agent is a path", br#"{"message":"hi","agent":"../sh"}"#),
        ("agent is empty", br#"{"message":"hi","agent":""}"#),
        ("empty body", b""),
        ("blank body", b" \n"),
        ("half an object", br#"{"message":"hi""#),
        ("an object and more", br#"{"message":"hi"} x"#),
        ("a list of the fields", br#"["hi",null,null,null,null]"#),
        ("a string", br#""hi""#),
        ("not JSON", b"message=hi"),
        ("single quotes", b"{'message':'hi'}"),
        ("not UTF-8", b"{\"message\":\"\xff\xfe\"}"),
        ("half a surrogate pair", br#"{"message":"\ud800"}"#),
        ("depth bomb", depth_bomb.as_bytes()),
        ("depth bomb in an unknown field", hidden_bomb.as_bytes()),
    ];
    let mut pictures = Vec::new();
    for (name, body) in cases {
        let answer = stack.http.send(Method::POST, "/api/v1/chat", JSON, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{name}");
        assert!(answer.text.len() < 1_000, "{name}: what was sent is not sent back");
        pictures.push(picture(name, &answer));
    }
    assert!(stack.planner.seen().is_empty(), "nothing was planned");
    insta::assert_json_snapshot!("bad_chats", pictures);
}

#[tokio::test]
async fn error_of_the_http_layer_has_the_format_of_its_path() {
    let stack = Stack::start().await;
    let json = "application/json";
    let of_bytes = |bytes: usize| format!(r#"{{"message":"{}"}}"#, "x".repeat(bytes - 14));
    let [too_large, conversation] = [1024 * 1024 + 1, 3 * 1024 * 1024 + 1].map(of_bytes);
    assert_eq!(too_large.len(), 1024 * 1024 + 1);
    let cases: &[Case<'_>] = &[
        ("no media type", Method::POST, "/api/v1/chat", &[], "{}"),
        ("wrong media type", Method::POST, "/api/v1/chat", &[("content-type", "text/plain")], "{}"),
        ("wrong media type, legacy", Method::POST, "/api/chat", &[("content-type", "text/json")], "{}"),
        ("a byte too many", Method::POST, "/api/v1/chat", &[("content-type", json)], &conversation),
        ("a byte too many, legacy", Method::POST, "/api/chat", &[("content-type", json)], &too_large),
        ("header is no UUID", Method::GET, "/api/v1/agents", &[("x-correlation-id", "42")], ""),
        (
            "header is no UUID, chat",
            Method::POST,
            "/api/v1/chat",
            &[("content-type", json), ("x-correlation-id", "42")],
            r#"{"message":"hi"}"#,
        ),
        ("unknown path", Method::GET, "/nowhere", &[], ""),
        ("unknown path of the API", Method::POST, "/api/v1/chats", &[("content-type", json)], "{}"),
        ("slash at the end", Method::POST, "/api/v1/chat/", &[("content-type", json)], "{}"),
        ("unknown file", Method::GET, "/page/..%2Fsrc%2Flib.rs", &[], ""),
        ("wrong method, chat", Method::GET, "/api/v1/chat", &[], ""),
        ("wrong method, legacy", Method::PUT, "/api/chat", &[], ""),
        ("wrong method, agents", Method::DELETE, "/api/v1/agents", &[], ""),
        ("wrong method, page", Method::POST, "/", &[], ""),
        (
            "no preflight without origins",
            Method::OPTIONS,
            "/api/v1/chat",
            &[("origin", "https://x.example")],
            "",
        ),
        ("another name of this machine", Method::GET, "/api/v1/agents", &[("host", "evil.example")], ""),
        (
            "unknown field, legacy",
            Method::POST,
            "/api/chat",
            &[("content-type", json)],
            r#"{"message":"hi","agent":"a"}"#,
        ),
    ];
    let mut pictures = Vec::new();
    for (name, method, path, headers, body) in cases {
        let answer = stack.http.send(method.clone(), path, headers, body).await;
        assert!(answer.status.is_client_error(), "{name}: {answer:?}");
        pictures.push(picture(name, &answer));
    }
    assert!(stack.planner.seen().is_empty(), "nothing was planned");
    insta::assert_json_snapshot!("http_refusals", pictures);
}

#[tokio::test]
async fn json_media_types_are_accepted_and_probes_ignore_headers() {
    let stack = Stack::start().await;
    for media_type in ["application/json; charset=utf-8", "Application/JSON", "application/vnd.phoenix+json"]
    {
        let headers = [("content-type", media_type)];
        let body = format!(
            r#"{{"message":"hi","context":null,"agent":null,"api_version":null,"correlation_id":"{ID}"}}"#
        );
        let answer = stack.http.send(Method::POST, "/api/v1/chat", &headers, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{media_type}");
    }
    let answer = stack.http.send(Method::GET, "/livez", &[("x-correlation-id", "42")], "").await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn every_response_has_security_headers() {
    let stack = Stack::start().await;
    for path in ["/", "/plans", "/page/app.js", "/health", "/nowhere", "/api/v1/chat"] {
        let answer = stack.http.get(path).await;
        for (header, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
        ] {
            assert_eq!(answer.header(header), value, "{path}");
        }
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
        let kept = if ["/", "/plans", "/page/app.js"].contains(&path) { "no-cache" } else { "no-store" };
        assert_eq!(answer.header("cache-control"), kept, "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), "", "{path}");
    }
}
