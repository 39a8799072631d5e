//! The OpenAPI document agrees with the router and with itself.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::Stack;

/// `POST /api/v1/chat`, … as the router has them.
fn routes_of_the_router() -> BTreeSet<String> {
    let source = include_str!("../../src/router.rs");
    let routes = source.lines().filter_map(|line| line.trim().strip_prefix(".route(\""));
    routes
        .map(|route| {
            let (path, handler) = route.split_once("\", ").expect("`.route(\"path\", method(handler))`");
            let (method, _) = handler.split_once('(').expect("method(handler)");
            format!("{} {path}", method.to_uppercase())
        })
        .collect()
}

#[tokio::test]
async fn the_document_is_served_as_it_was_reviewed() {
    let stack = Stack::start().await;
    let answer = stack.http.get("/api/v1/openapi.json").await;
    assert_eq!(answer.header("content-type"), "application/json");
    insta::assert_json_snapshot!("openapi", answer.json());
}

#[test]
fn every_route_is_documented_and_every_documented_route_exists() {
    let document = serde_json::to_value(phoenix_gateway::openapi_document()).unwrap();
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            documented.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let mut routes = routes_of_the_router();
    assert!(routes.remove("GET /") && routes.remove("GET /page/{file}"), "the page is for people");
    // The router matches the whole segment.
    assert!(routes.remove("POST /api/v1/plans/{plan_id}"));
    for action in ["cancel", "redrive"] {
        routes.insert(format!("POST /api/v1/plans/{{plan_id}}:{action}"));
    }
    assert_eq!(routes, documented);
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|member| references(member, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let document = serde_json::to_value(phoenix_gateway::openapi_document()).unwrap();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("a reference inside the document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}
