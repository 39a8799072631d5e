//! The dead letters.

use phoenix_proto::planner::{DeadLetter, DeadLetterState};
use serde_json::json;

use crate::{
    looks, start,
    support::{FakePlanner, eventually, plans},
};

fn open(message: &str) -> DeadLetter {
    DeadLetter { state: DeadLetterState::Open.into(), settled: None, ..plans::dead_letter(message) }
}

#[tokio::test]
async fn dead_letters_are_inspected_redriven_and_discarded() {
    let Some((browser, stack)) = start().await else { return };
    let letters = ["the pipe broke", "<script>document.title = 'owned'</script>"].map(open);
    stack.planner.dead_letters.lock().unwrap().extend(letters);
    browser.open(&format!("{}/dead-letters?agent=echo_agent", stack.gateway.url())).await;
    browser.reads(".head", "open").await;
    browser.reads(".letters li:nth-child(2)", "<script>").await;
    browser.click(".letters summary").await;
    browser.reads(".letters .failure", "the pipe broke").await;
    looks::check(&browser, "dead-letters").await;

    browser.click(".letter .row button").await;
    browser.click("dialog [type=submit]").await;
    eventually("a plan is redriven", || async { !stack.planner.asked.lock().unwrap().sweeps.is_empty() })
        .await;
    let sweep = stack.planner.asked.lock().unwrap().sweeps.remove(0);
    assert_eq!(sweep.filter.unwrap().plan_id, FakePlanner::PLAN);
    browser.reads(".sweep", "7 selected").await;

    browser.click(".head .actions button:nth-child(2)").await;
    browser.reads("dialog h2", "Discard all that match?").await;
    browser.type_into("dialog input[name=reason]", "known").await;
    browser.click("dialog [type=submit]").await;
    eventually("they are discarded", || async { !stack.planner.asked.lock().unwrap().discards.is_empty() })
        .await;
    let discard = stack.planner.asked.lock().unwrap().discards.remove(0);
    let filter = discard.filter.unwrap();
    assert_eq!((filter.agent.as_str(), filter.plan_id.as_str()), ("echo_agent", ""));
    assert_eq!(discard.reason, "known");
    browser.click("select[name=state] option[value=discarded]").await;
    eventually("the state is part of the address", || async {
        browser.run("return location.search", json!([])).await == "?agent=echo_agent&state=discarded"
    })
    .await;
    let title = browser.run("return document.title", json!([])).await;
    assert_eq!(title, "Dead letters · Phoenix Orchestrator");
    browser.quit().await;
}
