//! The commands that talk to a gateway over HTTPS: which certificates they accept, and what they say about others.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use jiff::Timestamp;
use phoenix_testkit::{
    certificates::Authority,
    phoenix_bin,
    services::Services,
    wait::{TIMEOUT, until},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

/// Of a command that no gateway answers (`EX_UNAVAILABLE`).
const UNREACHABLE: i32 = 69;

/// A gateway with a certificate for a name or address.
struct Secure {
    port: u16,
    _gateway: Child,
}

impl Secure {
    /// Starts a gateway whose certificate is valid for `lifetime`.
    async fn start(services: &Services, authority: &Authority, name: &str, lifetime: Duration) -> Self {
        let folder = services.dir().join(format!("{name}-{}", lifetime.as_secs()));
        let files = authority.issue_for(&folder, &[name], lifetime);
        let environment = [("GATEWAY_TLS_CERT", &*files.cert), ("GATEWAY_TLS_KEY", &*files.key)];
        let (port, gateway) = services.start_gateway_with(&environment);
        until("the gateway listens", async || TcpStream::connect(("127.0.0.1", port)).await.is_ok()).await;
        Self { port, _gateway: gateway }
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

/// What a command printed, and its exit code.
struct Ran {
    out: String,
    err: String,
    code: Option<i32>,
}

/// Runs `phoenix` with `words` and the authorities in `ca`.
async fn phoenix(url: &str, ca: Option<&Path>, words: &[&str]) -> Ran {
    let mut command = Command::new(phoenix_bin());
    command.args(words).env_clear().env("PHOENIX_URL", url).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(ca) = ca {
        command.env("PHOENIX_CA", ca);
    }
    let output = tokio::time::timeout(TIMEOUT, command.output()).await.unwrap().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { out: text(output.stdout), err: text(output.stderr), code: output.status.code() }
}

fn ca_in(folder: &Path, authority: &Authority) -> PathBuf {
    std::fs::create_dir_all(folder).unwrap();
    let path = folder.join("ca.pem");
    std::fs::write(&path, authority.pem()).unwrap();
    path
}

const LOAD: [&str; 8] = ["load", "--requests", "8", "--concurrency", "2", "--agent", "echo_agent", "--json"];

#[tokio::test]
async fn every_command_talks_to_a_gateway_over_https() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, log) = (Authority::new(), folder.path().join("log"));
    let mut services = Services::start("", "MARK", &log).await;
    let secure = Secure::start(&services, &authority, "127.0.0.1", Duration::from_secs(3600)).await;
    let (url, ca) = (secure.url(), ca_in(&folder.path().join("right"), &authority));
    until("the gateway is ready", async || {
        phoenix(&url, Some(&ca), &["chat", "--agent", "echo_agent", "ready"]).await.code == Some(0)
    })
    .await;
    let run = async |words: &[&str]| {
        let ran = phoenix(&url, Some(&ca), words).await;
        assert_eq!(ran.code, Some(0), "{words:?}: {} {}", ran.out, ran.err);
        ran
    };
    let chat = run(&["chat", "--agent", "echo_agent", "--json", "hello"]).await;
    let answer: Value = serde_json::from_str(chat.out.lines().last().unwrap()).unwrap();
    assert_eq!(answer["output"], "hello", "{answer}");
    let (plan_id, correlation_id) =
        (answer["plan_id"].as_str().unwrap(), answer["correlation_id"].as_str().unwrap());
    for (words, expected) in [
        (&["agents", "list"][..], "echo_agent"),
        (&["plans", "list"], plan_id),
        (&["plans", "get", plan_id], plan_id),
        (&["plans", "watch", plan_id], "succeeded"),
        (&["trace", correlation_id], plan_id),
        (&["approvals"], ""),
        (&["dead-letters", "list"], ""),
        (&["stats"], ""),
        (&["top"], "plans run"),
    ] {
        let ran = run(words).await;
        assert!(ran.out.contains(expected), "{words:?}: {}", ran.out);
    }
    let load: Value = serde_json::from_str(&run(&LOAD).await.out).unwrap();
    assert_eq!(load["outcomes"][0]["count"], 8, "{load}");
    assert_eq!(load["outcomes"][0]["status"], 200, "{load}");
    services.stop().await;
}

/// What `phoenix agents list` and `phoenix load` say about a gateway that they do not trust.
async fn refused(url: &str, ca: Option<&Path>, expected: &str) {
    let ran = phoenix(url, ca, &["agents", "list"]).await;
    assert_eq!(ran.code, Some(UNREACHABLE), "{}", ran.err);
    assert!(ran.err.contains("certificate") && ran.err.contains(expected), "{}", ran.err);
    assert!(ran.err.contains("--ca or PHOENIX_CA"), "{}", ran.err);
    let ran = phoenix(url, ca, &LOAD).await;
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.err.contains(expected), "{}", ran.err);
    let report: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(report["outcomes"], json!([{"status": null, "code": "connect_failed", "count": 8}]));
}

#[tokio::test]
async fn certificate_that_is_not_accepted_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, log) = (Authority::new(), folder.path().join("log"));
    let mut services = Services::start("", "MARK", &log).await;
    let ca = ca_in(&folder.path().join("right"), &authority);
    let wrong = ca_in(&folder.path().join("wrong"), &Authority::new());
    let hour = Duration::from_secs(3600);

    let secure = Secure::start(&services, &authority, "127.0.0.1", hour).await;
    // The name of that authority is the same, and its key is another one.
    refused(&secure.url(), Some(&wrong), "BadSignature").await;
    let plain = phoenix(&secure.url().replace("https", "http"), None, &["agents", "list"]).await;
    assert_eq!(plain.code, Some(UNREACHABLE), "{}", plain.err);
    let other = Secure::start(&services, &authority, "phoenix.example", hour).await;
    refused(&other.url(), Some(&ca), "phoenix.example").await;

    let lifetime = Duration::from_secs(10);
    let expiring = Secure::start(&services, &authority, "127.0.0.1", lifetime).await;
    // It was issued before now, and is valid to the end of its last second.
    let ends = Timestamp::now() + lifetime + Duration::from_secs(1);
    until("the certificate has expired", async || Timestamp::now() > ends).await;
    refused(&expiring.url(), Some(&ca), "expired").await;

    let missing = phoenix(&secure.url(), Some(Path::new("/nonexistent/ca.pem")), &["agents", "list"]).await;
    assert_eq!(missing.code, Some(64), "{}", missing.err);
    assert!(missing.err.contains("/nonexistent/ca.pem"), "{}", missing.err);
    services.stop().await;
}
