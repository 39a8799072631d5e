//! The list of plans, and a plan.

use phoenix_domain::PlanId;
use phoenix_proto::planner::{Plan, PlanStatus, WatchPlanResponse};
use serde_json::json;

use crate::{
    looks, start,
    support::{
        FakePlanner, Stack, Watch,
        browser::{ARROW_DOWN, Browser},
        eventually, plans,
    },
};

/// What a hostile agent writes.
const HOSTILE: &str =
    "</pre><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">";

fn renamed(plan: Plan) -> Plan {
    Plan { plan_id: PlanId::generate().to_string(), ..plan }
}

#[tokio::test]
async fn plans_are_listed_live_and_filtered_by_the_address() {
    let Some((browser, stack)) = start().await else { return };
    for plan in [plans::succeeded("done"), plans::failed(HOSTILE), plans::failed("the pipe broke")] {
        stack.planner.keep(renamed(plan));
    }
    browser.open(&stack.gateway.url()).await;
    browser.click(".nav a[href='/plans']").await;
    browser.reads(".head", "3 newest plans").await;
    browser.reads(".plans li:nth-child(2) .row-error", "onerror=").await;
    browser.reads(".counts", "2 running").await;
    looks::check(&browser, "plans").await;

    stack.planner.keep(plans::running());
    browser.reads(".plans li:nth-child(4) .status", "running").await;
    browser.click("select[name=status] option[value=failed]").await;
    browser.click("select[name=age] option[value='1h']").await;
    browser.click("select[name=order] option[value=oldest]").await;
    browser.type_into("input[name=error]", "Pipe\u{e007}").await;
    browser.type_into("input[name=correlation_id]", &format!("{}\u{e007}", plans::CORRELATION)).await;
    eventually("the filter reaches the planner", || async {
        let listed = stack.planner.listed();
        listed.last().is_some_and(|last| {
            last.status == PlanStatus::Failed as i32
                && last.since.is_some()
                && last.oldest_first
                && last.error_text == "Pipe"
                && last.correlation_id.as_deref() == Some(plans::CORRELATION)
        })
    })
    .await;
    let query = browser.run("return location.search", json!([])).await;
    assert_eq!(
        query,
        format!("?status=failed&age=1h&order=oldest&error=Pipe&correlation_id={}", plans::CORRELATION)
    );

    browser.click(".counts a[href='/plans?status=running']").await;
    browser.reads(".counts [aria-current]", "2 running").await;
    let status = browser.run("return document.querySelector('select[name=status]').value", json!([])).await;
    assert_eq!(status, "running", "a count leads to its plans");
    browser.run("history.back()", json!([])).await;
    browser.reads(".plans li:nth-child(4) .status", "running").await;
    browser.run("document.querySelector('.plans li:nth-child(4) a').click()", json!([])).await;
    browser.reads(".plan-head h2", "Plan").await;
    let back = browser.run("history.back(); return location.pathname", json!([])).await;
    assert_eq!(back, format!("/plans/{}", FakePlanner::PLAN));
    browser.reads("#view h2", "Plans").await;
    let restored = "return document.querySelector('select[name=status]').value";
    assert_eq!(browser.run(restored, json!([])).await, "failed", "the address restores the filter");
    browser.quit().await;
}

#[tokio::test]
async fn plan_shows_tasks_events_and_output_while_it_runs() {
    let Some((browser, stack)) = start().await else { return };
    stack.planner.keep(plans::large(12, true));
    let says = plans::event(0, "output", &json!({"attempt": 4, "offset": 0, "text": HOSTILE}));
    let says = WatchPlanResponse { task_key: "step-011".into(), ..says };
    let events = plans::whole().into_iter().take(2).chain([says]);
    stack.planner.watches([Watch::Stays(events.collect())]);
    let url = format!("{}/plans/{}", stack.gateway.url(), FakePlanner::PLAN);
    browser.open(&url).await;
    browser.reads(".plan-head .status", "running").await;
    browser.reads(".legend", "waits before the next attempt").await;
    let bars = "return document.querySelectorAll('.bar-row .phase[data-kind=failed]').length";
    assert_eq!(browser.run(bars, json!([])).await, 36);

    browser.run("document.querySelector('.bars').focus()", json!([])).await;
    browser.press(&ARROW_DOWN.to_string().repeat(12)).await;
    browser.reads(".task-panel h3", "step-011").await;
    browser.reads(".task-panel .live", HOSTILE).await;
    looks::check(&browser, "plan-running").await;
    browser.click("#tab-graph").await;
    browser
        .run(
            "document.querySelector('.node').dispatchEvent(new MouseEvent('click', {bubbles: true}))",
            json!([]),
        )
        .await;
    browser.reads(".task-panel h3", "step-000").await;
    browser.reads(".task-panel", "result of 0").await;
    looks::check(&browser, "plan-graph").await;
    browser.click("#tab-events").await;
    browser.reads(".events", "2 events").await;
    browser.click(".event-row[data-index='1']").await;
    browser.reads(".event-details", "\"attempt\": 1").await;
    looks::check(&browser, "plan-events").await;
    let search = browser.run("return location.search", json!([])).await;
    assert_eq!(search, "?task=step-000&view=events");

    // The address shows the same again.
    browser.open(&format!("{url}?task=step-000&view=events")).await;
    browser.reads(".task-panel h3", "step-000").await;
    browser.reads(".events", "events").await;
    stack.planner.keep(plans::large(12, false));
    browser.open(&format!("{url}?task=step-011")).await;
    browser.reads(".task-panel .failure", "the agent did not answer").await;
    looks::check(&browser, "plan-failed").await;
    let title = browser.run("return document.title", json!([])).await;
    assert_eq!(title, "Plan · Phoenix Orchestrator", "no output of an agent is a script");
    let errors = browser.console().await;
    assert!(errors.is_empty(), "{errors:#?}");
    browser.quit().await;
}

#[tokio::test]
async fn plan_is_cancelled_and_redriven_with_new_input() {
    let Some((browser, stack)) = start().await else { return };
    stack.planner.keep(plans::running());
    browser.open(&format!("{}/plans/{}", stack.gateway.url(), FakePlanner::PLAN)).await;
    browser.reads(".task-panel h3", "chat").await;
    browser.click(".plan-head .actions button").await;
    browser.reads("dialog h2", "Cancel this plan?").await;
    browser.type_into("dialog input[name=reason]", "not needed").await;
    browser.click("dialog [type=submit]").await;
    let cancelled = stack.planner.first_cancelled().await;
    assert_eq!((cancelled.plan_id.as_str(), cancelled.reason.as_str()), (FakePlanner::PLAN, "not needed"));

    stack.planner.keep(plans::failed("the pipe broke"));
    browser.open(&format!("{}/plans/{}", stack.gateway.url(), FakePlanner::PLAN)).await;
    browser.reads(".plan-head .failure", "the pipe broke").await;
    browser.reads(".plan-head .actions", "Redrive").await;
    browser.click(".plan-head .actions button").await;
    browser.click("dialog details summary").await;
    looks::check(&browser, "plan-redrive").await;
    let fill = "const field = document.querySelector('dialog textarea'); field.value = arguments[0]";
    browser.run(fill, json!(["{\"message\": "])).await;
    browser.click("dialog [type=submit]").await;
    browser.reads("dialog .problem", "The input of chat is not JSON").await;
    browser.run(fill, json!(["{\"message\": \"again\"}"])).await;
    browser.click("dialog [type=submit]").await;
    eventually("the plan is redriven", || async { !stack.planner.asked.lock().unwrap().redrives.is_empty() })
        .await;
    let redrive = stack.planner.asked.lock().unwrap().redrives.remove(0);
    assert_eq!(redrive.inputs_json["chat"], r#"{"message":"again"}"#);
    browser.quit().await;
}

#[tokio::test]
async fn edited_input_keeps_the_digits_of_its_numbers() {
    let Some((browser, stack)) = start().await else { return };
    let numbers = r#"{"big":123456789012345678901234567890,"huge":1e400,"zero":-0,"cents":0.10,"word":"a"}"#;
    let mut plan = plans::failed("no");
    plan.tasks[0].input_json = numbers.into();
    stack.planner.keep(plan);
    browser.open(&format!("{}/plans/{}", stack.gateway.url(), FakePlanner::PLAN)).await;
    browser.reads(".task-panel", "123456789012345678901234567890").await;
    browser.click(".plan-head .actions button").await;
    browser.click("dialog details summary").await;
    let edit = "const field = document.querySelector('dialog textarea');\
                field.value = field.value.replace('\"a\"', '\"b\"'); return field.value";
    let edited = browser.run(edit, json!([])).await;
    assert!(edited.as_str().unwrap().contains("1e400"), "{edited}");
    browser.click("dialog [type=submit]").await;
    eventually("the plan is redriven", || async { !stack.planner.asked.lock().unwrap().redrives.is_empty() })
        .await;
    let redrive = stack.planner.asked.lock().unwrap().redrives.remove(0);
    // A zero at the end changes no number; the page does not keep it.
    let expected = numbers.replace("0.10", "0.1").replace("\"a\"", "\"b\"");
    assert_eq!(redrive.inputs_json["chat"], expected);
    browser.quit().await;
}

#[tokio::test]
async fn address_of_a_plan_asks_for_the_token_and_shows_it() {
    let Some(browser) = Browser::start().await else {
        println!("skipped: chromedriver is not installed");
        return;
    };
    let stack = Stack::start_with(|config| config.api_token = Some("s3cret".to_owned().into())).await;
    stack.planner.keep(plans::succeeded("done"));
    browser.open(&format!("{}/plans/{}", stack.gateway.url(), FakePlanner::PLAN)).await;
    browser.reads("#token-form", "API token required").await;
    browser.type_into("#token", "s3cret\u{e007}").await;
    browser.reads(".plan-head .status", "succeeded").await;
    browser.reads(".task-panel h3", "chat").await;
    browser.open(&format!("{}/plans/0190a6c1-0000-7cc3-9d6e-0a1b2c3d4e5f", stack.gateway.url())).await;
    browser.reads("#view .notice", "there is no plan").await;
    browser.quit().await;
}
