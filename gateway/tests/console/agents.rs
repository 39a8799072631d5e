//! The agents.

use std::time::Duration;

use jiff::Timestamp;
use phoenix_domain::health::HealthState;
use serde_json::json;

use crate::{looks, start, support::agent};

#[tokio::test]
async fn agents_show_their_health_and_actions() {
    let Some((browser, stack)) = start().await else { return };
    let until = Timestamp::now() + Duration::from_secs(600);
    stack.health.set([
        agent("echo_agent", HealthState::Healthy, 0, None),
        agent("git_agent", HealthState::Unhealthy, 3, Some(until)),
    ]);
    browser.open(&format!("{}/agents", stack.gateway.url())).await;
    browser.reads(".head", "2 agents, 1 unhealthy").await;
    browser.reads(".agent-rows li:nth-child(2)", "3 failures · rejects chats for ").await;
    looks::check(&browser, "agents").await;
    browser.click(".agent-rows li:nth-child(2) a").await;
    browser.reads(".plan-head .status", "unhealthy").await;
    browser.reads(".facts-card", "Next probe").await;
    browser.click(".action details summary").await;
    browser.reads(".action details", "\"required\"").await;
    looks::check(&browser, "agent").await;
    browser.reads(".plan-head .actions", "Isolate").await;
    browser.click(".plan-head .actions button").await;
    browser.type_into("dialog input[name=reason]", "maintenance <b>").await;
    browser.type_into("dialog input[name=actor]", "alice").await;
    browser.click("dialog [type=submit]").await;
    browser.reads(".plan-head .actions", "Restore").await;
    browser.reads(".facts-card", "maintenance <b>").await;
    browser.reads(".facts-card", "alice").await;
    browser.reads(".change", "isolated").await;
    looks::check(&browser, "agent-isolated").await;
    stack.health.set([agent("git_agent", HealthState::Degraded, 1, None)]);
    browser.reads(".plan-head .status", "degraded").await;
    browser.click(".facts-card a").await;
    browser.reads("#view h2", "Plans").await;
    let filter = browser.run("return location.search", json!([])).await;
    assert_eq!(filter, "?agent=git_agent");
    browser.quit().await;
}
