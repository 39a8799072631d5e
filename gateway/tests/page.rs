//! The page in a real browser.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // A test may panic and print.

mod support;

use std::time::Duration;

use jiff::Timestamp;
use phoenix_domain::{OrchestratorError, OrchestratorErrorCode, health::HealthState};
use serde_json::json;
use support::{FakePlanner, Reply, Stack, Watch, agent, browser::Browser, eventually, plans};

/// When the circuit of an agent admits a probe.
const UNTIL: &str = "2026-01-31T12:00:00Z";

#[tokio::test]
async fn page_sends_chats_and_shows_agents() {
    let Some(browser) = Browser::start().await else {
        println!("skipped: chromedriver is not installed");
        return;
    };
    let stack = Stack::start().await;
    let healthy = || agent("git_agent", HealthState::Healthy, 0, None);
    stack.health.set([agent("echo_agent", HealthState::Healthy, 0, None), healthy()]);
    browser.open(&stack.gateway.url()).await;
    browser.reads("#summary", "2 agents healthy").await;

    sends_a_chat_and_copies_its_ids(&browser, &stack).await;
    shows_details_of_a_plan_while_it_runs(&browser, &stack).await;
    shows_an_answer_as_it_grows(&browser, &stack).await;
    shows_an_error_with_its_details(&browser, &stack).await;
    shows_health_of_an_agent_as_it_changes(&browser, &stack).await;
    stack.health.set([healthy()]);
    browser.reads("#summary", "1 agent healthy").await;

    browser.be_a_phone(360).await;
    let widths =
        browser.run("return [document.documentElement.scrollWidth, innerWidth]", serde_json::json!([]));
    assert_eq!(widths.await, serde_json::json!([360, 360]), "the page fits a phone");

    let errors = browser.console().await;
    let expected =
        |line: &String| line.contains("/api/v1/chat - Failed to load resource") && line.contains("503");
    assert!(errors.len() == 1 && errors.iter().all(expected), "{errors:#?}");
    let requests = browser.requests().await;
    assert!(requests.iter().any(|url| url.ends_with("/api/v1/chat")), "{requests:#?}");
    for url in requests {
        assert!(url.starts_with(&stack.gateway.url()), "the page sent a request to another origin: {url}");
    }
    browser.quit().await;
}

async fn sends_a_chat_and_copies_its_ids(browser: &Browser, stack: &Stack) {
    stack.planner.reply(Reply::Output("On branch main\n<img src=x onerror=alert(1)>".into()));
    browser.click("#agent option[value=git_agent]").await;
    browser.type_and_send("#message", "git status").await;
    browser.reads(".entry[data-status=success] .output", "<img src=x onerror=alert(1)>").await;
    assert_eq!(browser.text(".entry .message").await, "git status");
    let seen = stack.planner.seen().remove(0);
    assert_eq!(
        (seen.request.message.as_str(), seen.request.agent.as_deref()),
        ("git status", Some("git_agent"))
    );

    browser.click(".context summary").await;
    let ids = [seen.id().to_string(), FakePlanner::PLAN.to_owned()];
    for (index, id) in ids.iter().enumerate() {
        let button = format!(".entry .ids .copy:nth-child({})", index + 1);
        assert_eq!(browser.text(&format!("{button} code")).await, *id);
        browser.click(&button).await;
        browser.reads(&format!("{button} .copy-sign"), "Copied").await;
        browser.paste_into("#context").await;
    }
    let pasted = browser.run("return document.getElementById('context').value", serde_json::json!([])).await;
    assert_eq!(pasted, ids.concat(), "the clipboard held each id");
    browser.run("document.getElementById('composer').reset()", serde_json::json!([])).await;
}

async fn shows_details_of_a_plan_while_it_runs(browser: &Browser, stack: &Stack) {
    stack.planner.keep(plans::running());
    browser.click(".entry[data-status=success] .happened summary").await;
    let task = ".entry[data-status=success] .task";
    browser.reads(&format!("{task} .state"), "retried").await;
    browser
        .reads(&format!("{task} .attempts"), "Attempt 1 · failed · io · 200 ms · pid 11: the pipe broke")
        .await;
    stack.planner.keep(plans::succeeded("done"));
    browser.reads(&format!("{task}[data-status=succeeded]"), "queued 100 ms").await;
    let text = browser.text(task).await;
    assert!(text.contains("queued 100 ms · backoff 200 ms · running 600 ms"), "{text}");
    assert!(text.contains("Attempt 2 · succeeded · 400 ms · pid 12"), "{text}");
}

async fn shows_an_answer_as_it_grows(browser: &Browser, stack: &Stack) {
    let says = |attempt: u32, offset: u64, text: &str| {
        plans::event(0, "output", &json!({"attempt": attempt, "offset": offset, "text": text}))
    };
    stack.planner.keep(plans::running());
    let progress = plans::event(0, "progress", &json!({"attempt": 2, "message": "Counts"}));
    let live = vec![says(1, 0, "void"), says(2, 0, "one <b>"), says(2, 7, "two"), progress];
    stack.planner.watches([Watch::Stays(plans::whole().into_iter().take(2).chain(live).collect())]);
    browser.type_into("#message", "count").await;
    browser.click("#send").await;
    browser.reads(".entry[data-status=running] .output", "one <b>two").await;
    browser.reads(".entry[data-status=running] .foot", "Counts").await;
    assert_eq!(
        browser.text(".entry[data-status=running] .output").await,
        "one <b>two",
        "the first attempt is void"
    );
    browser.click(".entry[data-status=running] .foot button").await;
    browser.reads(".entry[data-status=error] .failure .code", "cancelled").await;
    browser.run("document.querySelector('.entry[data-status=error]').remove()", json!([])).await;
    stack.planner.keep(plans::succeeded("done"));
}

async fn shows_an_error_with_its_details(browser: &Browser, stack: &Stack) {
    stack.planner.fail(
        OrchestratorError::new(
            OrchestratorErrorCode::AgentUnavailable,
            format!("`git_agent` rests until {UNTIL}"),
        )
        .with_detail("attempts", 3)
        .with_detail("plan_id", FakePlanner::PLAN)
        .with_detail("stderr", "fatal: not a git repository\n")
        .with_retry_after(Duration::from_secs(600)),
    );
    browser.type_into("#message", "git log").await;
    browser.click("#send").await;
    browser.reads(".entry[data-status=error] .failure .code", "agent_unavailable").await;
    assert!(browser.text(".failure .why").await.starts_with("git_agent rests until "));
    let moment = "const time = document.querySelector('.failure .why time');\
                  return [time.dateTime, time.innerText === new Date(time.dateTime).toLocaleString()]";
    let moment = browser.run(moment, serde_json::json!([])).await;
    assert_eq!(moment, serde_json::json!([UNTIL, true]), "shown in the time zone of the reader");
    assert_eq!(browser.text(".failure dl").await.split_whitespace().collect::<Vec<_>>(), ["attempts", "3"]);
    assert!(browser.text(".failure button").await.starts_with("Send again in "), "it counts down");
    browser.click(".failure summary").await;
    browser.reads(".failure pre", "fatal: not a git repository").await;
    assert_eq!(browser.text(".entry[data-status=error] .copy:nth-child(2) code").await, FakePlanner::PLAN);
    assert!(browser.text("#announcer").await.contains("agent_unavailable"), "it is announced");
}

async fn shows_health_of_an_agent_as_it_changes(browser: &Browser, stack: &Stack) {
    let row = "#agents [data-agent=git_agent]";
    let until = Timestamp::now() + Duration::from_secs(90);
    stack.health.set([agent("git_agent", HealthState::Unhealthy, 3, Some(until))]);
    browser.reads(&format!("{row}[data-state=unhealthy] .state"), "unhealthy").await;
    browser.reads(&format!("{row} .facts"), "3 failures · rejects chats for 1:").await;
    browser.reads("#summary", "1 of 1 unhealthy").await;
    assert_eq!(browser.text("#agents [data-agent=echo_agent]").await, "", "a removed agent is not shown");
    stack.health.set([agent("git_agent", HealthState::Degraded, 1, None)]);
    browser.reads(&format!("{row}[data-state=degraded] .facts"), "1 failure").await;
}

#[tokio::test]
async fn page_asks_for_the_token_once() {
    let Some(browser) = Browser::start().await else {
        println!("skipped: chromedriver is not installed");
        return;
    };
    let stack = Stack::start_with(|config| config.api_token = Some("s3cret".to_owned().into())).await;
    stack.health.set([agent("echo_agent", HealthState::Healthy, 0, None)]);
    browser.open(&stack.gateway.url()).await;
    browser.reads("#token-form", "API token required").await;
    browser.reads("#summary", "locked").await;
    browser.type_into("#token", "wrong").await;
    browser.click("#token-form button").await;
    browser.reads("#token-hint", "did not accept").await;
    browser.type_into("#token", "s3cret").await;
    browser.click("#token-form button").await;
    browser.reads("#summary", "1 agent healthy").await;
    assert_eq!(browser.text("#token-form").await, "");
    browser.type_and_send("#message", "hi").await;
    browser.reads(".entry[data-status=success] .output", "done").await;

    opens_the_api_description(&browser).await;
    marks_stale_health(&browser, &stack).await;

    let kept = "return [Object.values(sessionStorage), Object.values(localStorage), document.cookie]";
    let kept = browser.run(kept, serde_json::json!([])).await;
    assert_eq!(kept, serde_json::json!([["s3cret"], [], ""]), "in this tab only");
    browser.quit().await;
}

/// A plain link would get a 401: it cannot send the token.
async fn opens_the_api_description(browser: &Browser) {
    let watch = "window.open = (url) => { document.title = url; }";
    browser.run(watch, serde_json::json!([])).await;
    browser.click("#description").await;
    eventually("the description is shown", || async {
        let title = browser.run("return document.title", serde_json::json!([])).await;
        title.as_str().is_some_and(|title| title.starts_with("blob:"))
    })
    .await;
}

async fn marks_stale_health(browser: &Browser, stack: &Stack) {
    stack.health.hang();
    browser.reads("#agents-problem", "The list below is from ").await;
    browser.reads("#agents[data-stale] .state", "healthy").await;
    browser.reads("#summary", "health unknown").await;
}
