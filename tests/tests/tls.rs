//! TLS on real processes: between the services, and at the gateway.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use phoenix_platform::{
    client, config::Role, identity::ServiceIdentity, service_token::ServiceToken, tls::ServiceTls,
};
use phoenix_testkit::{
    certificates::Authority,
    phoenix_bin,
    services::Services,
    wait::{TIMEOUT, until},
};
use tokio::process::Command;

const READY: Duration = Duration::from_secs(1);

/// Time after the end of a fault in which the service is back, and a margin for a busy machine.
const RECOVERY_LIMIT: Duration = Duration::from_secs(5 + 2);

#[tokio::test]
async fn stack_with_mutual_tls_serves_and_renews_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, log) = (Authority::new(), folder.path().join("log"));
    let mut services = Services::start_with_tls("", &log, &authority).await;
    let answer = services.rest().chat_with("echo_agent", "hello").await;
    assert_eq!((answer.status.as_u16(), answer.str("output")), (200, "hello"), "{}", answer.text);

    // A certificate of the same CA whose role may not call the planner.
    let files = authority.issue(&folder.path().join("executor"), &["executor"]);
    let tls = Some(ServiceTls::load(files, Role::Executor).unwrap());
    let token = ServiceToken::new("any").unwrap();
    let planner = services.secure_url(Role::Planner);
    let stranger = client::channel(&planner, ServiceIdentity { token, tls }).unwrap();
    assert!(!client::is_serving(stranger, READY).await);
    until("the planner logs why", async || {
        std::fs::read_to_string(&log).unwrap().contains(r#""problem":"wrong_role""#)
    })
    .await;

    let folder = services.dir().join("certificates/planner");
    let _ = authority.issue(&folder, &["planner", "127.0.0.1"]);
    until("the certificate is reloaded", async || {
        std::fs::read_to_string(&log).unwrap().contains("certificate reloaded")
    })
    .await;
    std::fs::write(folder.join("tls.key"), "broken").unwrap();
    until("the broken key is counted", async || {
        services.metric(Role::Planner, "phoenix_tls_reload_failures_total").await == 1.0
    })
    .await;
    services.kill(Role::Executor).await;
    services.start_one(Role::Executor);
    services.until_ready().await;
    let answer = services.rest().chat_with("echo_agent", "again").await;
    assert_eq!(answer.str("output"), "again", "{}", answer.text);
    assert_eq!(services.metric(Role::Planner, "phoenix_tls_reload_failures_total").await, 1.0);
    services.stop().await;
}

#[tokio::test]
async fn expired_certificate_is_named_until_it_is_renewed() {
    let (authority, log) =
        (Authority::new(), Path::new(env!("CARGO_TARGET_TMPDIR")).join("expired-certificate.log"));
    let mut services = Services::start_with_tls("", &log, &authority).await;
    let logged = async |text: &str| {
        until(text, async || std::fs::read_to_string(&log).unwrap().contains(text)).await;
    };
    let planner = services.dir().join("certificates/planner");
    let names = ["planner", "127.0.0.1"];
    let _ = authority.issue_for(&planner, &names, Duration::from_secs(6));
    logged("certificate reloaded").await;
    until("the certificate has expired", async || {
        let expires = "phoenix_tls_certificate_expires_timestamp_seconds{use=\"service\"}";
        let left = services.metric(Role::Planner, expires).await - jiff::Timestamp::now().as_second() as f64;
        left < -1.0
    })
    .await;
    let rest = services.rest();
    let answer = rest.chat_with("echo_agent", "still connected").await;
    assert_eq!(answer.status.as_u16(), 200, "a connection outlives its certificate: {}", answer.text);

    services.kill(Role::Gateway).await;
    services.start_one(Role::Gateway);
    until("the gateway says what is missing", async || {
        let answer = rest.try_send("GET".parse().unwrap(), "/readyz", None).await;
        answer.is_some_and(|answer| answer.status == 503 && answer.text.contains("planner"))
    })
    .await;
    logged(r#""problem":"certificate_expired""#).await;

    let _ = authority.issue(&planner, &names);
    let renewed = Instant::now();
    until("a chat is answered", async || {
        let body = serde_json::json!({"message": "renewed", "agent": "echo_agent"});
        let answer = rest.try_send("POST".parse().unwrap(), "/api/v1/chat", Some(body)).await;
        answer.is_some_and(|answer| answer.status == 200)
    })
    .await;
    assert!(renewed.elapsed() < RECOVERY_LIMIT, "{:?}", renewed.elapsed());

    // A service does not start with an expired certificate.
    services.kill(Role::Executor).await;
    let executor = services.dir().join("certificates/executor");
    let _ = authority.issue_for(&executor, &["executor", "127.0.0.1"], Duration::ZERO);
    services.start_one(Role::Executor);
    assert_eq!(services.ended(Role::Executor).await.code(), Some(64));
    logged("the certificate expired at").await;
    services.stop().await;
}

/// Standard output of a program, if it is installed.
async fn output(program: &str, args: &[&str]) -> Option<String> {
    let command = Command::new(program).args(args).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(TIMEOUT, command).await.unwrap().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn gateway_with_a_certificate_serves_https() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let mut services = Services::start("", "MARK", &folder.path().join("log")).await;
    let files = authority.issue(folder.path(), &["localhost", "127.0.0.1"]);
    let environment = [("GATEWAY_TLS_CERT", &*files.cert), ("GATEWAY_TLS_KEY", &*files.key)];
    let (port, _gateway) = services.start_gateway_with(&environment);
    let url = format!("https://localhost:{port}/readyz");

    let _ = rustls::crypto::ring::default_provider().install_default();
    let ca = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([ca]).build().unwrap();
    until("the gateway answers over HTTPS", async || {
        client.get(&url).send().await.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    assert!(client.get(url.replace("https", "http")).send().await.is_err(), "no plain HTTP");

    let ca = files.ca.unwrap();
    let ca = ca.to_str().unwrap();
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let args =
            ["-s", flag, "--cacert", ca, "-o", "/dev/null", "-w", "%{http_code} %{http_version}", &url];
        if let Some(answer) = output("curl", &args).await {
            assert_eq!(answer, format!("200 {version}"));
        }
    }
    let target = format!("localhost:{port}");
    let args = ["s_client", "-connect", &target, "-CAfile", ca, "-verify_return_error", "-alpn", "h2"];
    if let Some(answer) = output("openssl", &args).await {
        assert!(
            answer.contains("Verify return code: 0 (ok)") && answer.contains("ALPN protocol: h2"),
            "{answer}"
        );
    }
    services.stop().await;
}

#[tokio::test]
async fn public_address_without_tls_is_refused_with_both_ways_out() {
    let dir = tempfile::tempdir().unwrap();
    for role in Role::ALL {
        let text = start_on_every_address(*role, dir.path()).await;
        for word in ["0.0.0.0:0 is reachable from other machines without TLS", "TLS_CERT", "--insecure"] {
            assert!(text.contains(word), "{role}: {text}");
        }
    }
}

/// The error of a service that is started on every address without TLS.
async fn start_on_every_address(role: Role, dir: &Path) -> String {
    let mut command = Command::new(phoenix_bin());
    command.args([role.as_str(), "--addr", "0.0.0.0:0"]).current_dir(dir).env_clear().kill_on_drop(true);
    command.envs([("PHOENIX_SERVICE_TOKEN", "t"), ("ORCH_API_TOKEN", "t")]);
    let output = tokio::time::timeout(TIMEOUT, command.output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(64), "{role}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}
