//! The console in a real browser: its views, their accessibility, and their speed.
//!
//! Every test takes screenshots into the target folder: 1280 and 360 pixels wide, light and dark.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // A test may panic and print.

#[path = "console/agents.rs"]
mod agents;
#[path = "console/approvals.rs"]
mod approvals;
#[path = "console/dead_letters.rs"]
mod dead_letters;
#[path = "console/docs.rs"]
mod docs;
#[path = "console/looks.rs"]
mod looks;
#[path = "console/overview.rs"]
mod overview;
#[path = "console/plans.rs"]
mod plan_views;
#[path = "console/speed.rs"]
mod speed;
mod support;

use phoenix_domain::health::HealthState;
use support::{Stack, agent, browser::Browser};

/// A browser, and a stack with two agents; `None` without chromedriver.
async fn start() -> Option<(Browser, Stack)> {
    let Some(browser) = Browser::start().await else {
        println!("skipped: chromedriver is not installed");
        return None;
    };
    let stack = Stack::start().await;
    stack.health.set(["echo_agent", "git_agent"].map(|name| agent(name, HealthState::Healthy, 0, None)));
    Some((browser, stack))
}
