//! How large and how fast the console is. Times depend on the machine, so they are printed; only their order of magnitude is checked.

use serde_json::{Value, json};

use crate::support::{FakePlanner, Stack, Watch, browser::Browser, plans};

/// Limit of everything that the first view loads, uncompressed.
const FIRST_VIEW_BYTES: u64 = 100_000;

#[tokio::test]
async fn first_view_is_small_and_is_not_sent_twice() {
    let Some(browser) = Browser::start().await else {
        println!("skipped: chromedriver is not installed");
        return;
    };
    let stack = Stack::start().await;
    browser.open(&stack.gateway.url()).await;
    browser.reads("#summary", "agents healthy").await;
    let loaded = "const entries = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')];\
                  const [paint] = performance.getEntriesByName('first-contentful-paint');\
                  return {bytes: entries.reduce((sum, {decodedBodySize}) => sum + decodedBodySize, 0),\
                          sent: entries.reduce((sum, {transferSize}) => sum + transferSize, 0),\
                          files: entries.length, paint: paint?.startTime, end: Math.max(...entries.map((entry) => entry.responseEnd))}";
    let first = browser.run(loaded, json!([])).await;
    println!(
        "first view, cold: {} bytes in {} files, painted after {} ms, loaded after {} ms",
        first["bytes"], first["files"], first["paint"], first["end"]
    );
    assert!(first["bytes"].as_u64().unwrap() <= FIRST_VIEW_BYTES, "{first}");
    assert!(first["paint"].as_f64().unwrap() < 5_000.0, "{first}");
    browser.open(&format!("{}/plans", stack.gateway.url())).await;
    browser.reads("#summary", "agents healthy").await;
    let second = browser.run(loaded, json!([])).await;
    println!("second view, warm: {second}");
    assert!(second["bytes"].as_u64().unwrap() <= FIRST_VIEW_BYTES, "{second}");
    assert!(second["sent"].as_u64().unwrap() < first["sent"].as_u64().unwrap(), "{second}");
    browser.quit().await;
}

#[tokio::test]
async fn plan_of_256_tasks_and_10_000_events_stays_fluid() {
    let Some(browser) = Browser::start().await else {
        println!("skipped: chromedriver is not installed");
        return;
    };
    let stack = Stack::start().await;
    stack.planner.keep(plans::large(256, true));
    let events =
        (1..=10_000).map(|position| plans::event(position, "attempt_started", &json!({"attempt": position})));
    stack.planner.watches([Watch::Stays(events.collect())]);
    browser.open(&stack.gateway.url()).await;
    let measure = "const begun = performance.now();\
                   document.querySelector('.nav a[href=\"/plans\"]').click();\
                   history.pushState(null, '', arguments[0]); dispatchEvent(new PopStateEvent('popstate'));\
                   return new Promise((resolve) => { const look = () => document.querySelectorAll('.bar-row').length === 256\
                     ? resolve(performance.now() - begun) : requestAnimationFrame(look); look(); });";
    let shown = browser.run(measure, json!([format!("/plans/{}", FakePlanner::PLAN)])).await;
    let phases = browser.run("return document.querySelectorAll('.bar-row .phase').length", json!([])).await;
    let drawn = "const [id] = arguments; return (async () => {\
                 const plan = await (await fetch(`/api/v1/plans/${id}`)).json();\
                 const { waterfall } = await import('/page/waterfall.js');\
                 const begun = performance.now(); const from = Date.parse(plan.created_at);\
                 const view = waterfall(() => {}); document.body.append(view.node);\
                 view.update(plan, from, from + 60_000); view.node.getBoundingClientRect();\
                 const taken = performance.now() - begun; view.node.remove(); return taken; })()";
    let drawn = browser.run(drawn, json!([FakePlanner::PLAN])).await;
    browser.click("#tab-events").await;
    browser.reads(".events", "10000 events").await;
    let scroll = "const list = document.querySelector('.window'); const rows = list.querySelectorAll('.event-row').length;\
                  const begun = performance.now();\
                  for (let top = 0; top < list.scrollHeight; top += 16_000) { list.scrollTop = top; list.dispatchEvent(new Event('scroll')); }\
                  return {rows, steps: list.scrollHeight / 16_000, each: (performance.now() - begun) / (list.scrollHeight / 16_000)}";
    let scrolled = browser.run(scroll, json!([])).await;
    browser.click("#tab-graph").await;
    println!(
        "256 tasks, {phases} phases: {drawn} ms, {shown} ms with the request; 10 000 events: {scrolled}"
    );
    assert!(number(&shown) < 10_000.0 && number(&scrolled["rows"]) < 200.0, "{shown} {scrolled}");
    browser.quit().await;
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}
