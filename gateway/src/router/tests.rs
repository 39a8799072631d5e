//! Walks the router: authentication and methods of every route.

use std::{collections::BTreeSet, time::Duration};

use axum::{
    body::Body,
    http::{Method, StatusCode},
    response::Response,
};
use phoenix_domain::llm::LlmDescription;
use phoenix_platform::service_token::ServiceToken;
use tokio_util::sync::CancellationToken;

use super::*;

const PLAN: &str = "0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f";

/// Paths of the page.
const PAGE: [&str; 10] = [
    "/",
    "/plans",
    "/plans/0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e5f",
    "/agents",
    "/agents/{agent_id}",
    "/approvals",
    "/dead-letters",
    "/overview",
    "/docs",
    "/page/app.js",
];

/// Paths of probes.
const PROBES: [&str; 2] = ["/livez", "/readyz"];

fn config() -> GatewayConfig {
    // Nothing listens there: what comes as far as a handler is answered with 5xx at the latest.
    let nowhere = || "http://127.0.0.1:9".to_owned();
    GatewayConfig {
        planner_url: nowhere(),
        executor_url: nowhere(),
        health_url: nowhere(),
        api_token: Some("s3cret".to_owned().into()),
        identity: ServiceToken::new("of-the-test").unwrap().into(),
        tls: None,
        cors_allowed_origins: Vec::new(),
        mcp_actions: Vec::new(),
        request_timeout: Duration::from_secs(1),
        llm: LlmDescription { provider: "offline".into(), model: "none".into() },
        models: Vec::new(),
    }
}

fn gateway() -> Gateway {
    Gateway::new(&config(), CancellationToken::new()).unwrap()
}

/// Every path of the router, its parameters filled, and each action of a plan and of an agent.
fn paths() -> Vec<String> {
    let paths = routes(&gateway()).into_iter().map(|(path, _)| path);
    let filled = paths.map(|path| {
        path.replace("{plan_id}", PLAN).replace("{file}", "app.js").replace("{*model}", "{model}")
    });
    let of_plans = ["cancel", "redrive", "approve", "reject"];
    let of_agents = ["isolate", "restore"];
    filled
        .chain(of_plans.map(|action| format!("/api/v1/plans/{PLAN}:{action}")))
        .chain(of_agents.map(|action| format!("/api/v1/agents/{{agent_id}}:{action}")))
        .collect()
}

async fn ask(router: &Router, method: Method, path: &str) -> Response {
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn route_without_token_is_refused_unless_it_is_listed_as_open() {
    let added = [("/internal/x", get(unknown_path)), ("/v2/{anything}", post(unknown_path))];
    let all = routes(&gateway()).into_iter().chain(added).collect();
    let router = assemble(&config(), all, gateway()).unwrap();
    let paths = paths().into_iter().chain(["/internal/x".to_owned(), "/v2/y".to_owned()]);
    let mut open = BTreeSet::new();
    for path in paths {
        for method in [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE] {
            let status = ask(&router, method.clone(), &path).await.status();
            if status != StatusCode::UNAUTHORIZED {
                assert!(
                    PAGE.iter().chain(&PROBES).any(|open| *open == path),
                    "{method} {path} is open: {status}"
                );
                open.insert(path.clone());
            }
        }
    }
    assert_eq!(open, PAGE.into_iter().chain(PROBES).map(str::to_owned).collect());
}

#[tokio::test]
async fn documented_methods_are_those_that_allow_lists() {
    let config = GatewayConfig { api_token: None, ..config() };
    let router = assemble(&config, routes(&gateway()), gateway()).unwrap();
    let document = serde_json::to_value(crate::openapi_document()).unwrap();
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.replace("{plan_id}", PLAN);
        documented.extend(
            item.as_object().unwrap().keys().map(|method| format!("{} {path}", method.to_uppercase())),
        );
    }
    let mut allowed = BTreeSet::new();
    // The protocol of `/mcp` describes itself.
    let described = |path: &String| !PAGE.contains(&path.as_str()) && path != "/mcp";
    for path in paths().into_iter().filter(described) {
        let refused = ask(&router, Method::PATCH, &path).await;
        assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let methods = refused.headers()["allow"].to_str().unwrap().to_owned();
        let methods = methods.split(',').map(str::trim).filter(|method| *method != "HEAD");
        allowed.extend(methods.map(|method| format!("{method} {path}")));
    }
    assert_eq!(allowed, documented);
}

#[tokio::test]
async fn action_that_a_plan_does_not_have_is_unknown() {
    let config = GatewayConfig { api_token: None, ..config() };
    let router = assemble(&config, routes(&gateway()), gateway()).unwrap();
    for method in [Method::GET, Method::POST, Method::PUT] {
        let answer = ask(&router, method, &format!("/api/v1/plans/{PLAN}:pause")).await;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    }
}

#[test]
fn path_is_decoded_where_the_code_stands_for_itself() {
    let plain = |uri: &str| decoded(&uri.parse().unwrap()).map(|uri| uri.to_string());
    for (uri, expected) in [
        ("/api/v1/plans%3AdryRun?x=%3A", Some("/api/v1/plans:dryRun?x=%3A")),
        ("/api/v1/dead%2dletters%3aredrive", Some("/api/v1/dead-letters:redrive")),
        ("/%61pi/chat", Some("/api/chat")),
        ("http://localhost/%61", Some("http://localhost/a")),
        ("/a%2Fb%41", Some("/a%2FbA")),
        ("/a%zz%4", Some("/a%zz%4")),
        ("/plain?x=%41", None),
    ] {
        assert_eq!(plain(uri).as_deref(), expected, "{uri}");
    }
}

/// A route without an endpoint of its own counts as an unknown path, and takes any correlation id.
#[tokio::test]
async fn every_documented_route_has_an_endpoint_of_its_own() {
    let config = GatewayConfig { api_token: None, ..config() };
    let router = assemble(&config, routes(&gateway()), gateway()).unwrap();
    let document = serde_json::to_value(crate::openapi_document()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let filled = path.replace("{plan_id}", PLAN).replace("{key}", "a").replace("{number}", "1");
            let request = Request::builder().method(method.clone()).uri(filled);
            let request = request.header("host", "localhost").header("x-correlation-id", "42");
            let answer = router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            let is_probe = ["/livez", "/readyz"].contains(&path.as_str());
            assert_eq!(answer.status() == StatusCode::BAD_REQUEST, !is_probe, "{method} {path}");
        }
    }
}
