//! `phoenix doctor` about a PostgreSQL: each finding says what to do, and none contains a password.

use std::process::Stdio;

use phoenix_testkit::phoenix_bin;
use phoenix_testkit_postgres::{PgBouncer, Server, server::PASSWORD};
use serde_json::Value;
use tokio::process::Command;

/// Findings about the database of a planner: severity, message, action.
type Findings = Vec<(String, String, String)>;

/// Examines the database at `url`, and returns what was found and whether the exit code is that of an error.
async fn examine(url: &str, environment: &[(&str, &str)]) -> (Findings, bool) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(phoenix_bin());
    command
        .args(["doctor", "--json", "--role", "planner", "--addr", "127.0.0.1:0"])
        .current_dir(folder.path())
        .env_clear()
        .envs([("PHOENIX_SERVICE_TOKEN", "the-services-of-a-test"), ("DATABASE_URL", url)])
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = command.output().await.unwrap();
    let text = String::from_utf8([&*output.stdout, &*output.stderr].concat()).unwrap();
    for secret in [PASSWORD, "open%2Fsesame", "sesame"] {
        assert!(!text.contains(secret), "a secret is shown: {text}");
    }
    let mut findings = Findings::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let finding: Value = serde_json::from_str(line).unwrap();
        assert_eq!(finding["action"].is_null(), finding["severity"] == "ok", "{finding}");
        if finding["check"] == "database" {
            let [severity, message, action] = ["severity", "message", "action"]
                .map(|name| finding[name].as_str().unwrap_or_default().to_owned());
            findings.push((severity, message, action));
        }
    }
    assert!(!findings.is_empty(), "{text}");
    let has_error = findings.iter().any(|finding| finding.0 == "error");
    assert!(!has_error || output.status.code() == Some(1), "{text}");
    (findings, has_error)
}

/// Checks that a finding of this severity has these words.
fn has(findings: &Findings, severity: &str, message: &str, action: &str) {
    let matches = |found: &&(String, String, String)| {
        found.0 == severity && found.1.contains(message) && found.2.contains(action)
    };
    assert!(findings.iter().any(|found| matches(&found)), "{severity} {message} {action}: {findings:#?}");
}

#[tokio::test]
async fn doctor_explains_a_server_that_cannot_be_used() {
    let Some(server) = Server::start().await else { return };
    let database = server.database().await;
    let (findings, has_error) = examine(&database, &[]).await;
    assert!(!has_error && findings.len() == 1, "{findings:?}");
    has(&findings, "ok", "PostgreSQL", "");
    has(&findings, "ok", "without TLS", "");

    let (wrong, _) = examine(&database.replace("sesame", "sesameee"), &[]).await;
    has(&wrong, "error", "check the user and the password in DATABASE_URL", "DATABASE_URL");
    let (absent, _) = examine(&server.url("nothing"), &[]).await;
    has(&absent, "error", "create the database first", "DATABASE_URL");
    let (encrypted, _) = examine(&format!("{database}?sslmode=require"), &[]).await;
    has(&encrypted, "error", "TLS", "DATABASE_URL");

    server.set("default_transaction_read_only", Some("on")).await;
    let (read_only, _) = examine(&database, &[]).await;
    has(&read_only, "error", "accepts no writes", "name the primary");
    server.set("default_transaction_read_only", None).await;

    for setting in ["synchronous_commit", "full_page_writes", "fsync"] {
        server.set(setting, Some("off")).await;
        let (lossy, has_error) = examine(&database, &[]).await;
        assert!(!has_error, "{lossy:?}");
        has(&lossy, "warning", &format!("{setting} of"), "set it to on");
        server.set(setting, None).await;
    }

    server.stop().await;
    let (down, _) = examine(&database, &[]).await;
    has(&down, "error", "refused", "start the server");
}

#[tokio::test]
async fn doctor_knows_the_rights_that_a_planner_needs() {
    let Some(server) = Server::start_with(&[("max_connections", "20")]).await else { return };
    let database = server.database().await;
    let few = "CREATE ROLE few LOGIN PASSWORD 'open/sesame' CONNECTION LIMIT 8;
               CREATE ROLE stranger LOGIN PASSWORD 'open/sesame'; CREATE ROLE reader LOGIN PASSWORD 'open/sesame'";
    server.execute("postgres", few).await;
    let user = |name: &str| database.replace("phoenix:", &format!("{name}:"));
    let (stranger, _) = examine(&user("stranger"), &[]).await;
    has(&stranger, "error", "neither create nor use the schema phoenix_planner", "CREATE on the database");
    server
        .execute(&database, "CREATE SCHEMA phoenix_planner; GRANT USAGE ON SCHEMA phoenix_planner TO reader")
        .await;
    let (reader, has_error) = examine(&user("reader"), &[]).await;
    assert!(!has_error, "{reader:?}");
    has(&reader, "warning", "does not own the schema phoenix_planner", "make the user its owner");
    server.execute(&database, "GRANT phoenix TO few").await;
    let (few, _) = examine(&user("few"), &[]).await;
    has(&few, "error", "allows 8 connections, and the planner uses up to 13", "max_connections");

    let held = vec![server.url("postgres"); 6];
    let mut connections = Vec::new();
    for url in &held {
        use sqlx::Connection;
        connections.push(sqlx::PgConnection::connect(url).await.unwrap());
    }
    let (full, has_error) = examine(&database, &[]).await;
    assert!(!has_error, "{full:?}");
    has(&full, "warning", "of 17 connections", "PgBouncer");
    drop(connections);
}

#[tokio::test]
async fn doctor_recognises_a_pooler_in_transaction_mode() {
    let Some(server) = Server::start().await else { return };
    let Some(pooler) = PgBouncer::start(&server).await else { return };
    let database = server.database().await;
    let (strict, _) = examine(&pooler.url(&database), &[]).await;
    has(&strict, "error", "set DATABASE_POOLER=transaction", "DATABASE_URL");
    // One that accepts the connections of any client serves them for a while, and then loses statements.
    let tolerant = "ignore_startup_parameters = extra_float_digits";
    let tolerant = PgBouncer::start_with(&server, tolerant).await.unwrap();
    let (undeclared, _) = examine(&tolerant.url(&database), &[]).await;
    has(&undeclared, "error", "is a pooler", "set DATABASE_POOLER=transaction");
    for pooler in [&pooler, &tolerant] {
        let (declared, has_error) =
            examine(&pooler.url(&database), &[("DATABASE_POOLER", "transaction")]).await;
        assert!(!has_error && declared.len() == 1, "{declared:?}");
    }
}
