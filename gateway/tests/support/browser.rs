//! Headless Chromium, driven through chromedriver by the W3C WebDriver protocol. See <https://www.w3.org/TR/webdriver2/>.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::Duration,
};

use http::Method;
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Http, eventually};

/// Browsers that run at once in a process of tests: more of them start too slowly.
static BROWSERS: Semaphore = Semaphore::const_new(2);

/// Time limit of a command: a browser starts slowly on a loaded machine.
const BROWSER_PATIENCE: Duration = Duration::from_secs(120);

/// The member of an element reference that names the element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

const CONTROL: char = '\u{e009}';
const ENTER: char = '\u{e007}';
pub const ARROW_DOWN: char = '\u{e015}';
/// Releases every key that is held.
const NULL: char = '\u{e000}';

#[derive(Debug)]
pub struct Browser {
    http: Http,
    session: String,
    processes: Processes,
    _permit: SemaphorePermit<'static>,
}

/// Processes of driver and browser, and the browser's profile. Dropping it removes all of them.
#[derive(Debug)]
struct Processes {
    driver: Child,
    browser: Option<Pid>,
    profile: TempDir,
}

impl Drop for Processes {
    fn drop(&mut self) {
        // Each process leads its own group; one that has exited needs no signal.
        for pid in [Some(Pid::from_raw(self.driver.id().cast_signed())), self.browser].into_iter().flatten() {
            let _ = killpg(pid, Signal::SIGKILL);
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = self.driver.wait();
    }
}

impl Browser {
    /// Starts a browser; `None` without chromedriver.
    ///
    /// # Panics
    /// Without chromedriver when `CI` is set.
    pub async fn start() -> Option<Self> {
        let permit = BROWSERS.acquire().await.unwrap();
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = match command.process_group(0).spawn() {
            Ok(driver) => driver,
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "chromedriver must be installed in CI: {error}");
                return None;
            }
        };
        let stdout = driver.stdout.take().unwrap();
        let profile = tempfile::tempdir().unwrap();
        let mut processes = Processes { driver, browser: None, profile };
        let port = tokio::task::spawn_blocking(move || port(BufReader::new(stdout))).await.unwrap();
        let http = Http::patient(SocketAddr::from(([127, 0, 0, 1], port)), BROWSER_PATIENCE);
        let session = command_of(&http, Method::POST, "/session", &capabilities(&processes.profile)).await;
        let pid = session["capabilities"]["goog:processID"].as_i64().expect("the browser's process id");
        processes.browser = Some(Pid::from_raw(i32::try_from(pid).unwrap()));
        let session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        Some(Self { http, session, processes, _permit: permit })
    }

    /// Ends the browser, and checks that no process is left.
    pub async fn quit(self) {
        self.command(Method::DELETE, "", &json!({})).await;
        let profile = self.processes.profile.path().display().to_string();
        drop(self.processes);
        eventually("no process of the browser is left", || async { !is_in_use(&profile) }).await;
    }

    pub async fn open(&self, url: &str) {
        self.command(Method::POST, "/url", &json!({"url": url})).await;
    }

    pub async fn click(&self, css: &str) {
        // The page scrolls smoothly, and a click on a moving element misses it.
        let script =
            "document.querySelector(arguments[0]).scrollIntoView({behavior: 'instant', block: 'center'})";
        self.run(script, json!([css])).await;
        let element = self.find(css).await;
        self.command(Method::POST, &format!("/element/{element}/click"), &json!({})).await;
    }

    pub async fn type_into(&self, css: &str, text: &str) {
        let element = self.find(css).await;
        self.command(Method::POST, &format!("/element/{element}/value"), &json!({"text": text})).await;
    }

    /// Types `text` and presses Ctrl+Enter.
    pub async fn type_and_send(&self, css: &str, text: &str) {
        self.type_into(css, &format!("{text}{CONTROL}{ENTER}{NULL}")).await;
    }

    /// Pastes the clipboard.
    pub async fn paste_into(&self, css: &str) {
        self.type_into(css, &format!("{CONTROL}v{NULL}")).await;
    }

    /// Visible text of the first element that matches; empty without one.
    pub async fn text(&self, css: &str) -> String {
        let script = "const element = document.querySelector(arguments[0]);\
                      return element?.checkVisibility() ? element.innerText : ''";
        self.run(script, json!([css])).await.as_str().unwrap().to_owned()
    }

    /// Waits until the first element that matches contains `text`.
    pub async fn reads(&self, css: &str, text: &str) {
        let what = format!("`{text}` in {css}");
        eventually(&what, || async { self.text(css).await.contains(text) }).await;
    }

    /// The result of a script.
    pub async fn run(&self, script: &str, arguments: Value) -> Value {
        self.command(Method::POST, "/execute/sync", &json!({"script": script, "args": arguments})).await
    }

    /// Sets the window to the width of a phone.
    pub async fn be_a_phone(&self, width: u32) {
        let params = json!({"width": width, "height": 740, "deviceScaleFactor": 2, "mobile": true});
        self.devtools("Emulation.setDeviceMetricsOverride", &params).await;
    }

    /// Sets the window to the size of a desktop.
    pub async fn be_a_desktop(&self) {
        self.devtools("Emulation.clearDeviceMetricsOverride", &json!({})).await;
    }

    /// Sets the preferred colours: `light` or `dark`.
    pub async fn prefer(&self, colors: &str) {
        let feature = json!({"name": "prefers-color-scheme", "value": colors});
        self.devtools("Emulation.setEmulatedMedia", &json!({"features": [feature]})).await;
    }

    /// The whole page as a PNG.
    pub async fn screenshot(&self) -> Vec<u8> {
        let params = json!({"format": "png", "captureBeyondViewport": true});
        let shot = self.devtools("Page.captureScreenshot", &params).await;
        decode_base64(shot["data"].as_str().unwrap())
    }

    /// Presses keys in the element that has the focus.
    pub async fn press(&self, keys: &str) {
        let keys: Vec<_> = keys
            .chars()
            .flat_map(|key| {
                [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})]
            })
            .collect();
        let actions = json!({"actions": [{"type": "key", "id": "keyboard", "actions": keys}]});
        self.command(Method::POST, "/actions", &actions).await;
    }

    async fn devtools(&self, command: &str, params: &Value) -> Value {
        let command = json!({"cmd": command, "params": params});
        self.command(Method::POST, "/goog/cdp/execute", &command).await
    }

    /// Lines of the console since the last call.
    pub async fn console(&self) -> Vec<String> {
        let entries = self.command(Method::POST, "/se/log", &json!({"type": "browser"})).await;
        let message = |entry: &Value| entry["message"].as_str().unwrap().to_owned();
        entries.as_array().unwrap().iter().map(message).collect()
    }

    /// URLs of requests since the last call.
    pub async fn requests(&self) -> Vec<String> {
        let entries = self.command(Method::POST, "/se/log", &json!({"type": "performance"})).await;
        let messages = entries.as_array().unwrap().iter().map(|entry| {
            serde_json::from_str::<Value>(entry["message"].as_str().unwrap()).unwrap()["message"].take()
        });
        let asked = messages.filter(|message| {
            // The first tab of the browser sends requests, too.
            let params = &message["params"];
            let by_a_page = params["documentURL"].as_str().is_some_and(|url| url.starts_with("http"));
            message["method"] == "Network.requestWillBeSent" && by_a_page
        });
        asked.map(|message| message["params"]["request"]["url"].as_str().unwrap().to_owned()).collect()
    }

    async fn find(&self, css: &str) -> String {
        let by = json!({"using": "css selector", "value": css});
        let element = self.command(Method::POST, "/element", &by).await;
        element[ELEMENT].as_str().unwrap().to_owned()
    }

    async fn command(&self, method: Method, path: &str, body: &Value) -> Value {
        command_of(&self.http, method, &format!("{}{path}", self.session), body).await
    }
}

async fn command_of(http: &Http, method: Method, path: &str, body: &Value) -> Value {
    let answer = http.send(method, path, &[("content-type", "application/json")], body.to_string()).await;
    assert!(answer.status.is_success(), "{path}: {}", answer.text);
    answer.json()["value"].take()
}

fn decode_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.bytes().filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte));
    let digits: Vec<usize> = digits.collect();
    let bytes = digits.chunks(4).flat_map(|group| {
        let value = (0..4).fold(0, |value, index| (value << 6) | group.get(index).copied().unwrap_or(0));
        u32::try_from(value).unwrap().to_be_bytes()[1..group.len()].to_vec()
    });
    bytes.collect()
}

/// The port in the output of the driver.
fn port(lines: impl BufRead) -> u16 {
    let mut lines = lines.lines().map_while(Result::ok);
    let port = lines.find_map(|line| {
        line.split_once("started successfully on port ")?.1.trim_end_matches('.').parse().ok()
    });
    port.expect("chromedriver says its port")
}

fn capabilities(profile: &TempDir) -> Value {
    let profile = format!("--user-data-dir={}", profile.path().display());
    let arguments = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1280,900",
        &profile,
    ];
    json!({"capabilities": {"alwaysMatch": {
        "browserName": "chrome",
        "goog:chromeOptions": {"args": arguments},
        "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
    }}})
}

/// Whether a process was started with `profile`.
fn is_in_use(profile: &str) -> bool {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .any(|command| String::from_utf8_lossy(&command).contains(profile))
}
