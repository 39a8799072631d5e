//! Authentication, hosts and origins.

use http::{Method, StatusCode};

use crate::support::Stack;

const JSON: (&str, &str) = ("content-type", "application/json");
const CHAT: &str = r#"{"message":"hi"}"#;

#[tokio::test]
async fn api_requires_token_and_open_routes_do_not() {
    let stack = Stack::start_with(|config| config.api_token = Some("s3cret".to_owned().into())).await;
    for wrong in [
        None,
        Some("Bearer wrong"),
        Some("Bearer s3cre"),
        Some("Bearer s3crets3cret"),
        Some("Bearer "),
        Some("Bearer"),
        Some("s3cret"),
        Some("Basic s3cret"),
    ] {
        for (method, path) in [
            (Method::POST, "/api/v1/chat"),
            (Method::POST, "/api/chat"),
            (Method::GET, "/api/v1/agents"),
            (Method::GET, "/api/v1/agents/git_agent"),
            (Method::GET, "/api/v1/openapi.json"),
            (Method::POST, "/api/v1/plans"),
            (Method::GET, "/api/v1/plans"),
            (Method::POST, "/api/v1/plans:dryRun"),
            (Method::POST, "/api/v1/plans:propose"),
            (Method::GET, "/api/v1/plans/x/events"),
            (Method::POST, "/api/v1/plans/x:cancel"),
            (Method::GET, "/health"),
            (Method::GET, "/api/nowhere"),
            (Method::PUT, "/api/v1/chat"),
        ] {
            let mut headers = vec![JSON];
            headers.extend(wrong.map(|value| ("authorization", value)));
            let answer = stack.http.send(method, path, &headers, CHAT).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path} {wrong:?}");
            assert_eq!(answer.header("www-authenticate"), "Bearer");
            let body = answer.json();
            match path {
                "/api/chat" => assert_eq!(body["status"], "error"),
                "/api/v1/chat" => assert_eq!(body["error"]["code"], "unauthenticated"),
                _ => assert_eq!(body["code"], "unauthenticated"),
            }
            assert!(!answer.text.contains("s3cret"));
        }
    }
    assert!(stack.planner.seen().is_empty(), "nothing was planned");

    for right in ["Bearer s3cret", "bearer s3cret", "BEARER   s3cret "] {
        let headers = [JSON, ("authorization", right)];
        let answer = stack.http.send(Method::POST, "/api/v1/chat", &headers, CHAT).await;
        assert_eq!(answer.status, StatusCode::OK, "{right}");
    }
    for open in ["/", "/page/app.js", "/livez", "/readyz"] {
        assert_eq!(stack.http.get(open).await.status, StatusCode::OK, "{open}");
    }
    assert_eq!(stack.http.get("/nowhere").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn request_with_token_may_have_any_host() {
    let stack = Stack::start_with(|config| config.api_token = Some("s3cret".to_owned().into())).await;
    let headers = [("authorization", "Bearer s3cret"), ("host", "phoenix.example")];
    let answer = stack.http.send(Method::GET, "/api/v1/agents", &headers, "").await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn cors_allows_configured_origins_only() {
    let origin = "https://ops.example.com";
    let stack = Stack::start_with(|config| {
        config.cors_allowed_origins = vec![origin.into()];
        config.api_token = Some("s3cret".to_owned().into());
    })
    .await;
    for (asked, allowed) in [(origin, origin), ("https://evil.example", "")] {
        let headers = [
            ("origin", asked),
            ("access-control-request-method", "POST"),
            (
                "access-control-request-headers",
                "authorization,content-type,x-api-key,anthropic-version,x-stainless-os,openai-organization",
            ),
        ];
        let preflight = stack.http.send(Method::OPTIONS, "/api/v1/chat", &headers, "").await;
        assert_eq!(preflight.status, StatusCode::OK, "a preflight carries no token");
        assert_eq!(preflight.header("access-control-allow-origin"), allowed);
        assert!(preflight.header("access-control-allow-headers").contains("x-stainless-os"), "{preflight:?}");
        let refused = stack.http.send(Method::GET, "/api/v1/agents", &[("origin", asked)], "").await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        assert_eq!(refused.header("access-control-allow-origin"), allowed);
    }
}
