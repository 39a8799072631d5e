//! Details of HTTP: encodings, hosts, paths, methods, and errors of the HTTP library.

use http::{Method, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{FakePlanner, PATIENCE, Stack, plans};

const JSON: (&str, &str) = ("content-type", "application/json");
const CHAT: &str = r#"{"message":"hi"}"#;
const PLAN: &str = r#"{"tasks":[{"key":"a","agent":"echo_agent"}]}"#;

fn cancel() -> String {
    format!("/api/v1/plans/{}:cancel", FakePlanner::PLAN)
}

/// The response to these bytes, up to the end of the connection.
async fn raw(stack: &Stack, request: &str) -> String {
    let mut stream = TcpStream::connect(stack.gateway.addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("ends in time").unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn body_with_content_encoding_is_rejected() {
    let stack = Stack::start().await;
    for coding in ["gzip", "br", "identity, gzip", "GZIP", "x-unknown"] {
        let headers = [JSON, ("content-encoding", coding)];
        let answer = stack.http.send(Method::POST, "/api/v1/chat", &headers, b"\x1f\x8b\x08").await;
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{coding}");
        assert_eq!(answer.header("accept-encoding"), "identity", "{coding}");
        assert_eq!(answer.json()["error"]["details"]["field"], "Content-Encoding");
    }
    let headers = [JSON, ("content-encoding", "identity")];
    assert_eq!(stack.http.send(Method::POST, "/api/v1/chat", &headers, CHAT).await.status, StatusCode::OK);
}

#[tokio::test]
async fn request_with_two_hosts_is_rejected_everywhere() {
    let stack = Stack::start_with(|config| config.api_token = Some("s3cret".to_owned().into())).await;
    for path in ["/api/v1/agents", "/livez", "/"] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\nconnection: close\r\n\r\n"
        );
        let answer = raw(&stack, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains(r#""field":"Host""#), "{answer}");
        assert!(answer.contains("x-correlation-id: "), "{answer}");
    }
}

#[tokio::test]
async fn error_of_the_http_library_has_body_and_correlation_id() {
    let stack = Stack::start().await;
    let many: String = (0..101).map(|n| format!("x-{n}: y\r\n")).collect();
    let long = "x".repeat(70_000);
    for (request, status, content_type) in [
        (format!("GET /livez HTTP/1.1\r\nhost: localhost\r\n{many}\r\n"), "431", "application/problem+json"),
        (format!("POST /api/v1/chat HTTP/1.1\r\nhost: localhost\r\n{many}\r\n"), "431", "application/json"),
        (format!("GET /{long} HTTP/1.1\r\nhost: localhost\r\n\r\n"), "414", "application/problem+json"),
        (format!("POST /api/chat?{long} HTTP/1.1\r\nhost: localhost\r\n\r\n"), "414", "application/json"),
        ("GET /livez HTTP/1.1\r\nbad header\r\n\r\n".into(), "400", "application/problem+json"),
    ] {
        let answer = raw(&stack, &request).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(head.contains(&format!("content-type: {content_type}")), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}\n{body}");
        let id = head.lines().find_map(|line| line.strip_prefix("x-correlation-id: ")).unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        match content_type {
            "application/problem+json" => {
                assert_eq!((&body["status"].to_string()[..], &body["correlation_id"]), (status, &id.into()));
            }
            _ => assert_eq!(body["status"], "error"),
        }
    }
    // The same after an ordinary request on the same connection.
    let request = format!(
        "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\nGET /{long} HTTP/1.1\r\nhost: localhost\r\n\r\n"
    );
    let answer = raw(&stack, &request).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("the path is too long"), "{answer}");
}

#[tokio::test]
async fn event_stream_with_weight_zero_is_not_sent() {
    let stack = Stack::start().await;
    for accept in ["text/event-stream;q=0", "text/event-stream; q=0.0, */*"] {
        let answer = stack.http.send(Method::POST, "/api/v1/chat", &[JSON, ("accept", accept)], CHAT).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (StatusCode::OK, "application/json"),
            "{accept}"
        );
    }
}

#[tokio::test]
async fn event_stream_disables_proxy_buffering() {
    let stack = Stack::start().await;
    stack.planner.keep(plans::succeeded("done"));
    let events = format!("/api/v1/plans/{}/events", FakePlanner::PLAN);
    let watched = stack.http.send(Method::GET, &events, &[], "").await;
    let accept = [JSON, ("accept", "text/event-stream")];
    let chat = stack.http.send(Method::POST, "/api/v1/chat", &accept, CHAT).await;
    for answer in [watched, chat] {
        assert_eq!(answer.header("content-type"), "text/event-stream");
        assert_eq!(answer.header("x-accel-buffering"), "no");
    }
}

#[tokio::test]
async fn encoded_path_equals_the_decoded_path() {
    let stack = Stack::start().await;
    let sweep = r#"{"filter":{},"reason":"r"}"#;
    for (plain, encoded, body) in [
        ("/api/v1/plans:dryRun", "/api/v1/plans%3AdryRun", PLAN),
        ("/api/v1/dead-letters:redrive", "/api/v1/dead%2Dletters%3aredrive", sweep),
        ("/api/v1/dead-letters:discard", "/api/v1/dead-letters%3Adiscard", sweep),
        ("/api/v1/chat", "/api/v1/ch%61t", CHAT),
        ("/api/chat", "/%61pi/chat", CHAT),
    ] {
        let answer = stack.http.send(Method::POST, plain, &[JSON], body).await;
        let same = stack.http.send(Method::POST, encoded, &[JSON], body).await;
        assert!(answer.status.is_success(), "{answer:?}");
        assert_eq!(
            (same.status, same.json().as_object().map(serde_json::Map::len)),
            (answer.status, answer.json().as_object().map(serde_json::Map::len)),
            "{encoded}"
        );
    }
    stack.planner.keep(plans::running());
    let answer = stack.http.send(Method::POST, &cancel().replace(':', "%3A"), &[], "").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

#[tokio::test]
async fn empty_chunked_body_counts_as_absent() {
    let stack = Stack::start().await;
    for content_type in ["", "content-type: text/plain\r\n", "content-type: application/json\r\n"] {
        stack.planner.keep(plans::running());
        let request = format!(
            "POST {} HTTP/1.1\r\nhost: localhost\r\n{content_type}transfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\n",
            cancel()
        );
        let answer = raw(&stack, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{content_type} {answer}");
    }
}

#[tokio::test]
async fn byte_order_mark_before_a_body_is_ignored() {
    let stack = Stack::start().await;
    let chat = stack.http.send(Method::POST, "/api/v1/chat", &[JSON], format!("\u{feff}{CHAT}")).await;
    assert_eq!(chat.status, StatusCode::OK, "{chat:?}");
    for body in ["\u{feff}{}", "\u{feff}", "\u{feff}null"] {
        stack.planner.keep(plans::running());
        let answer = stack.http.send(Method::POST, &cancel(), &[JSON], body).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
}

#[tokio::test]
async fn request_from_another_origin_has_no_effect() {
    let stack =
        Stack::start_with(|config| config.cors_allowed_origins = vec!["https://ops.example.com".into()])
            .await;
    let own = format!("http://{}", stack.gateway.addr);
    let redrive = format!("/api/v1/plans/{}:redrive", FakePlanner::PLAN);
    for path in [cancel(), redrive] {
        for header in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            stack.planner.keep(plans::running());
            let answer = stack.http.send(Method::POST, &path, &[header], "").await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} {header:?}");
            assert_eq!(answer.json()["correlation_id"], answer.header("x-correlation-id"));
        }
    }
    assert_eq!((stack.planner.cancelled(), stack.planner.asked.lock().unwrap().redrives.len()), (0, 0));
    for headers in [
        &[("origin", own.as_str())][..],
        &[("origin", "https://ops.example.com"), ("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-origin")],
        &[],
    ] {
        stack.planner.keep(plans::running());
        let answer = stack.http.send(Method::POST, &cancel(), headers, "").await;
        assert_eq!(answer.status, StatusCode::OK, "{headers:?} {answer:?}");
    }
    let read = stack.http.send(Method::GET, "/api/v1/plans", &[("origin", "https://evil.example")], "").await;
    assert_eq!(
        read.status,
        StatusCode::OK,
        "reading changes nothing, and the browser keeps the answer to itself"
    );
}

#[tokio::test]
async fn options_without_preflight_headers_is_routed() {
    let stack =
        Stack::start_with(|config| config.cors_allowed_origins = vec!["https://ops.example.com".into()])
            .await;
    for headers in
        [&[][..], &[("origin", "https://ops.example.com")], &[("access-control-request-method", "POST")]]
    {
        let nowhere = stack.http.send(Method::OPTIONS, "/nowhere", headers, "").await;
        assert_eq!(nowhere.status, StatusCode::NOT_FOUND, "{headers:?}");
        let known = stack.http.send(Method::OPTIONS, "/api/v1/chat", headers, "").await;
        assert_eq!(
            (known.status, known.header("allow")),
            (StatusCode::METHOD_NOT_ALLOWED, "POST"),
            "{headers:?}"
        );
    }
}

#[tokio::test]
async fn wrong_method_has_the_methods_of_the_path_in_allow() {
    let stack = Stack::start().await;
    let plan = format!("/api/v1/plans/{}", FakePlanner::PLAN);
    for (path, allow) in [
        (plan.clone(), "GET,HEAD"),
        (format!("{plan}:cancel"), "POST"),
        (format!("{plan}:redrive"), "POST"),
        ("/api/v1/plans".into(), "POST,GET,HEAD"),
    ] {
        for method in [Method::PUT, Method::DELETE, Method::OPTIONS] {
            let answer = stack.http.send(method, &path, &[], "").await;
            assert_eq!(
                (answer.status, answer.header("allow")),
                (StatusCode::METHOD_NOT_ALLOWED, allow),
                "{path}"
            );
        }
    }
    let answer = stack.http.send(Method::POST, &plan, &[], "").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    let answer = stack.http.send(Method::GET, &format!("{plan}:cancel"), &[], "").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
}
