//! The page of the API.

use serde_json::json;

use crate::{looks, start};

#[tokio::test]
async fn api_is_readable_and_its_curl_lines_can_be_copied() {
    let Some((browser, stack)) = start().await else { return };
    browser.open(&format!("{}/docs", stack.gateway.url())).await;
    browser.reads("#view", "/api/v1/plans").await;
    browser.type_into(".docs-search input", "cancel a plan").await;
    let shown = "return [...document.querySelectorAll('section .rows > details')].filter((node) => node.checkVisibility()).map((node) => node.id)";
    assert_eq!(browser.run(shown, json!([])).await, json!(["post-api-v1-plans-plan-id-cancel"]));
    browser.click("#post-api-v1-plans-plan-id-cancel > summary").await;
    let line = browser.text("#post-api-v1-plans-plan-id-cancel .copy code").await;
    let expected = format!(
        "curl -s -X POST -H 'Content-Type: application/json' -d '{{\"reason\":\"text\"}}' '{}/api/v1/plans/{{plan_id}}:cancel'",
        stack.gateway.url()
    );
    assert_eq!(line, expected);
    looks::check(&browser, "docs").await;
    let every = "for (const node of document.querySelectorAll('section .rows > details')) node.open = true";
    browser.run(every, json!([])).await;
    let errors = browser.console().await;
    assert!(errors.is_empty(), "{errors:#?}");
    browser.quit().await;
}
