//! How a view looks and reads: screenshots, the width of a phone, and what axe finds.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::browser::Browser;

/// Checks the view that is open in both colours and both widths, and stores it as `name-*.png`.
///
/// # Panics
/// When axe finds a problem or the view is wider than a phone.
pub(crate) async fn check(browser: &Browser, name: &str) {
    let axe = axe();
    for colors in ["light", "dark"] {
        browser.prefer(colors).await;
        for width in [1280, 360] {
            if width == 360 {
                browser.be_a_phone(360).await;
            } else {
                browser.be_a_desktop().await;
            }
            let what = format!("{name}-{colors}-{width}");
            let widths = "return [document.documentElement.scrollWidth, innerWidth]";
            let widths = browser.run(widths, json!([])).await;
            assert!(widths[0].as_i64() <= widths[1].as_i64(), "{what} is wider than its window: {widths}");
            store(&what, &browser.screenshot().await);
            // Contrast depends on the colours and targets on the width, not on both.
            if let Some(axe) = axe.as_ref().filter(|_| (colors, width) != ("dark", 360)) {
                let problems = violations(browser, axe).await;
                assert!(problems.is_empty(), "{what}: {problems:#?}");
            }
        }
    }
    browser.be_a_desktop().await;
    browser.prefer("light").await;
}

/// The program axe, which `cargo xtask test` installs.
fn axe() -> Option<String> {
    let Some(folder) = std::env::var_os("NPM_CLIENTS") else {
        let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!is_ci, "NPM_CLIENTS must be set in CI; cargo xtask test sets it");
        println!("SKIPPED: accessibility, because NPM_CLIENTS is not set");
        return None;
    };
    Some(std::fs::read_to_string(Path::new(&folder).join("node_modules/axe-core/axe.min.js")).unwrap())
}

/// What axe finds: rule, help, and the elements.
async fn violations(browser: &Browser, axe: &str) -> Vec<String> {
    browser.run(&format!("if (!window.axe) {{ {axe} }}"), json!([])).await;
    let run = "return axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice']})\
               .then(({violations}) => violations)";
    let found = browser.run(run, json!([])).await;
    let elements = |violation: &Value| {
        let nodes = violation["nodes"].as_array().unwrap().iter().take(5);
        nodes
            .map(|node| format!("{} {}", node["html"], node["any"][0]["message"]))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let found = found.as_array().unwrap().iter();
    found.map(|found| format!("{}: {}\n{}", found["id"], found["help"], elements(found))).collect()
}

/// Stores a screenshot as `name.png`.
pub(crate) fn store(name: &str, png: &[u8]) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("console");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{name}.png")), png).unwrap();
}
