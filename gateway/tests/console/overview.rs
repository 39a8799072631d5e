//! The overview.

use serde_json::json;

use crate::{looks, start, support::eventually};

#[tokio::test]
async fn overview_draws_what_happened_in_a_window() {
    let Some((browser, stack)) = start().await else { return };
    browser.open(&format!("{}/overview", stack.gateway.url())).await;
    browser.reads(".tile", "Plans accepted").await;
    browser.reads(".charts", "Latency").await;
    let label = "return document.querySelectorAll('.chart')[2].getAttribute('aria-label')";
    let label = browser.run(label, json!([])).await.as_str().unwrap().to_owned();
    assert!(label.starts_with("Latency: p50 2"), "{label}");
    looks::check(&browser, "overview").await;
    browser.click("#view details summary").await;
    browser.reads("#view table", "Latency p95").await;
    looks::check(&browser, "overview-table").await;
    browser.click("select[name=window] option[value='24h']").await;
    eventually("the window is part of the address", || async {
        browser.run("return location.search", json!([])).await == "?window=24h"
    })
    .await;
    let errors = browser.console().await;
    assert!(errors.is_empty(), "{errors:#?}");
    browser.quit().await;
}
