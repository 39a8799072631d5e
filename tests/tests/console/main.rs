//! What went wrong, as the console explains it: from the list of plans, at most two clicks away.
//!
//! The screenshots are in the target folder; with `UPDATE_IMAGES=1` one of them becomes that of README.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests"
)]

#[path = "../../../gateway/tests/console/looks.rs"]
mod looks;
mod staged;
mod support;

use phoenix_testkit::http::Rest;
use serde_json::json;
use staged::{Failures, start};
use support::browser::Browser;

/// Opens the list of plans, and clicks through `path` until the page says `words`.
async fn explained(browser: &Browser, base: &str, plan_id: &str, path: &[&str], words: &[&str]) {
    browser.open(&format!("{base}/plans")).await;
    let row = format!(".plans a[href='/plans/{plan_id}']");
    browser.reads(&row, &plan_id[..8]).await;
    let clicks: Vec<&str> = [row.as_str()].into_iter().chain(path.iter().copied()).collect();
    assert!(clicks.len() <= 2, "{clicks:?}");
    for css in clicks {
        support::eventually(css, || async {
            browser.run("return document.querySelector(arguments[0]) !== null", json!([css])).await == true
        })
        .await;
        browser.click(css).await;
    }
    let visible = "return document.querySelector('#view').innerText.replace(/\\s+/g, ' ')";
    for word in words {
        support::eventually(word, || async {
            let text = browser.run(visible, json!([])).await;
            let is_there = text.as_str().unwrap().contains(word);
            if !is_there && std::env::var_os("SHOW_PAGE").is_some() {
                println!("{word}: {text}");
            }
            is_there
        })
        .await;
    }
}

#[tokio::test]
async fn ten_failures_are_explained_within_two_clicks() {
    let Some(browser) = Browser::start().await else {
        println!("skipped: chromedriver is not installed");
        return;
    };
    let stack = start().await;
    let rest: Rest = stack.rest();
    let Failures { crash, hang, slow, garbage, breaker, executor, planner, provider, budget, approval } =
        staged::all(&stack, &rest).await;
    let base = stack.base_url();
    let task = |index: usize| format!("#task-{index}");
    let cases: [(&str, &str, Option<String>, &[&str]); 10] = [
        ("crash", &crash, Some(task(1)), &["exited with code 3", "cannot open the index", "3 attempts"]),
        ("hang", &hang, None, &["timeout", "did not answer within 1 s"]),
        ("slow", &slow, None, &["timeout", "did not answer within", "no time was left"]),
        ("garbage", &garbage, None, &["backend_failure", "wrote a line that is not an action response"]),
        ("breaker", &breaker, None, &["agent_unavailable", "2 attempts failed in a row"]),
        ("executor", &executor, None, &["its executor was lost while it ran"]),
        ("planner", &planner, None, &["its planner stopped while it ran", "waits for another planner"]),
        ("provider", &provider, None, &["over its rate limit or quota (429): slow down"]),
        ("budget", &budget, None, &["budget_exhausted", "max_calls"]),
        ("approval", &approval, None, &["neither approved nor rejected", "expired"]),
    ];
    for (name, plan_id, second, words) in cases {
        println!("{name}: {plan_id}");
        explained(&browser, &base, plan_id, &second.iter().map(String::as_str).collect::<Vec<_>>(), words)
            .await;
        let shot = browser.screenshot().await;
        looks::store(&format!("failure-{name}"), &shot);
    }
    browser.open(&format!("{base}/plans")).await;
    browser.reads(".counts", "failed").await;
    looks::check(&browser, "failures").await;
    explained(&browser, &base, &crash, &["#task-1"], &["exited with code 3"]).await;
    looks::check(&browser, "failure-crash").await;
    if std::env::var_os("UPDATE_IMAGES").is_some() {
        let image = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/images/console.png");
        let shot = browser.screenshot().await;
        assert!(shot.len() < 200_000, "{} bytes are too many for README", shot.len());
        std::fs::write(image, shot).unwrap();
    }
    let errors = browser.console().await;
    assert!(errors.is_empty(), "{errors:#?}");
    browser.quit().await;
}
