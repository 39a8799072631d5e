//! PostgreSQL databases on a real server: opening, migrations, failures of the server, notifications.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests, outside test functions")]

use std::time::{Duration, Instant};

use phoenix_platform::postgres::{
    Database, OpenError, OpenOptions, PATIENCE, Pooler, Session, Transient, open, transient,
};
use phoenix_testkit_postgres::{Loss, Proxy, Server, server::PASSWORD};
use sqlx::{Connection, migrate::Migrator};

static MIGRATOR: Migrator = sqlx::migrate!("tests/migrations");

const OPTIONS: OpenOptions = OpenOptions {
    role: "test",
    schema: "phoenix_test",
    pooler: Pooler::Session,
    connections: 4,
    patience: Duration::ZERO,
};

/// Timeout of every wait, never reached on a slow machine.
const LIMIT: Duration = Duration::from_secs(30);

async fn opened(url: &str) -> Database {
    open(url, OPTIONS, &MIGRATOR).await.unwrap()
}

async fn refusal(url: &str) -> String {
    let error = open(url, OPTIONS, &MIGRATOR).await.unwrap_err().to_string();
    for secret in [PASSWORD, "%2F", "sesame"] {
        assert!(!error.contains(secret), "{error}");
    }
    error
}

async fn insert(session: &mut Session, id: i64) -> Result<(), sqlx::Error> {
    let mut transaction = session.begin().await?;
    sqlx::query("INSERT INTO phoenix_test.things (id) VALUES ($1)")
        .bind(id)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

/// Inserts a row, and tries again after transient failures. The number of failures.
async fn insert_with_retries(database: &Database, id: i64) -> usize {
    let started_at = Instant::now();
    for failures in 0.. {
        let inserted = match database.session().await {
            Ok(mut session) => {
                let inserted = insert(&mut session, id).await;
                session.finish(inserted)
            }
            Err(error) => Err(error),
        };
        let Err(error) = inserted else { return failures };
        assert!(transient(&error).is_some(), "{error}");
        assert!(started_at.elapsed() < LIMIT, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    unreachable!("an endless loop")
}

#[tokio::test]
async fn concurrent_starts_migrate_an_empty_database_once() {
    let Some(server) = Server::shared().await else { return };
    let url = server.database().await;
    let starts: tokio::task::JoinSet<_> = (0..8)
        .map(|_| {
            let url = url.clone();
            async move { opened(&url).await }
        })
        .collect();
    let databases = starts.join_all().await;
    assert_eq!(insert_with_retries(&databases[7], 1).await, 0);
    let count = "SELECT count(*) FROM phoenix_test._sqlx_migrations";
    assert_eq!(server.text(&url, count).await, "2");
    let names =
        "SELECT DISTINCT application_name FROM pg_stat_activity WHERE application_name LIKE 'phoenix%'";
    assert_eq!(server.text(&url, names).await, "phoenix-test");
    for database in databases {
        database.close().await;
    }
}

#[tokio::test]
async fn database_of_a_newer_or_altered_version_is_refused() {
    let Some(server) = Server::shared().await else { return };
    let url = server.database().await;
    opened(&url).await.close().await;
    server
        .execute(
            &url,
            "INSERT INTO phoenix_test._sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'from the future', TRUE, '', 0)",
        )
        .await;
    let message = refusal(&url).await;
    assert!(message.contains("was written by a newer version (its schema is 9999)"), "{message}");
    server.execute(&url, "DELETE FROM phoenix_test._sqlx_migrations WHERE version = 9999").await;
    server.execute(&url, "UPDATE phoenix_test._sqlx_migrations SET checksum = '' WHERE version = 2").await;
    let message = refusal(&url).await;
    assert!(message.contains("migration 2 was applied in another form"), "{message}");
}

#[tokio::test]
async fn failed_migration_changes_nothing_and_is_named() {
    let Some(server) = Server::shared().await else { return };
    let url = server.database().await;
    server
        .execute(&url, "CREATE SCHEMA phoenix_test; CREATE TABLE phoenix_test.things_by_name (x INT)")
        .await;
    let message = refusal(&url).await;
    assert!(message.contains("migration 2 failed") && message.contains("things_by_name"), "{message}");
    let left = "SELECT count(*) FROM pg_tables WHERE schemaname = 'phoenix_test'";
    assert_eq!(server.text(&url, left).await, "1");
}

#[tokio::test]
async fn refused_connections_are_explained_without_the_password() {
    let Some(server) = Server::shared().await else { return };
    let url = server.database().await;
    let port = server.port().to_string();
    let nowhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    for (url, expected) in [
        (url.replace("open%2Fsesame", "wrong-sesame"), "check the user and the password"),
        (format!("{url}_missing"), "create the database first"),
        (url.replace(&port, &nowhere.to_string()), "onnection refused"),
        (format!("{url}?sslmode=require"), "TLS"),
    ] {
        let message = refusal(&url).await;
        assert!(message.contains(expected) && message.contains("postgres://phoenix@127.0.0.1:"), "{message}");
    }
}

#[tokio::test]
async fn user_without_rights_is_named_and_may_use_an_existing_schema() {
    let Some(server) = Server::shared().await else { return };
    let url = server.database().await;
    server.execute(&url, "CREATE ROLE weak LOGIN PASSWORD 'open/sesame'").await;
    let weak = url.replace("phoenix:", "weak:");
    let message = refusal(&weak).await;
    assert!(message.contains("give the user the right CREATE on the database"), "{message}");
    server.execute(&url, "CREATE SCHEMA phoenix_test AUTHORIZATION weak").await;
    opened(&weak).await.close().await;
    opened(&weak).await.close().await;
}

#[tokio::test]
async fn start_waits_for_a_server_that_starts_later() {
    let Some(server) = Server::start().await else { return };
    let url = server.database().await;
    server.stop().await;
    let start = tokio::spawn(async move {
        open(&url, OpenOptions { patience: PATIENCE, ..OPTIONS }, &MIGRATOR).await.unwrap()
    });
    server.start_again().await;
    assert_eq!(insert_with_retries(&start.await.unwrap(), 1).await, 0);
}

#[tokio::test]
async fn killed_server_fails_one_statement_at_most() {
    let Some(server) = Server::start().await else { return };
    let database = opened(&server.database().await).await;
    let mut sessions = Vec::new();
    for id in 0..4 {
        let mut session = database.session().await.unwrap();
        let inserted = insert(&mut session, id).await;
        sessions.push((session, inserted));
    }
    for (session, inserted) in sessions {
        session.finish(inserted).unwrap();
    }
    server.kill().await;
    server.start_again().await;
    // The other three connections are known to be older than the failure.
    assert!(insert_with_retries(&database, 4).await <= 1);
    assert_eq!(insert_with_retries(&database, 5).await, 0);
}

#[tokio::test]
async fn demoted_server_is_recognised_and_left() {
    let Some(server) = Server::start().await else { return };
    let database = opened(&server.database().await).await;
    assert_eq!(insert_with_retries(&database, 1).await, 0);
    server.set("default_transaction_read_only", Some("on")).await;
    let mut session = database.session().await.unwrap();
    let inserted = insert(&mut session, 2).await;
    let error = session.finish(inserted).unwrap_err();
    assert_eq!(transient(&error), Some(Transient::ReadOnly), "{error}");
    server.set("default_transaction_read_only", None).await;
    assert_eq!(insert_with_retries(&database, 2).await, 0);
}

#[tokio::test]
async fn full_server_is_transient() {
    let Some(server) = Server::start_with(&[("max_connections", "5")]).await else { return };
    let url = server.database().await;
    server
        .execute(
            &url,
            "CREATE ROLE guest LOGIN PASSWORD 'open/sesame'; CREATE SCHEMA phoenix_test AUTHORIZATION guest",
        )
        .await;
    let guest = url.replace("phoenix:", "guest:");
    let mut held = Vec::new();
    while let Ok(connection) = sqlx::PgConnection::connect(&guest).await {
        held.push(connection);
    }
    let error = open(&guest, OPTIONS, &MIGRATOR).await.unwrap_err();
    let OpenError::Open { cause, .. } = &error else { unreachable!("{error}") };
    assert_eq!(transient(cause), Some(Transient::Exhausted), "{error}");
    held.clear();
    open(&guest, OpenOptions { patience: PATIENCE, ..OPTIONS }, &MIGRATOR).await.unwrap();
}

#[tokio::test]
async fn lost_commit_fails_whether_or_not_it_was_applied() {
    let Some(server) = Server::shared().await else { return };
    let url = server.database().await;
    let proxy = Proxy::start(server.port()).await;
    let database = opened(&proxy.url(&url)).await;
    for (id, loss, rows) in [(1, Loss::Request, "0"), (2, Loss::Answer, "1")] {
        proxy.lose_next_commit(loss);
        let mut session = database.session().await.unwrap();
        let inserted = insert(&mut session, id).await;
        let error = session.finish(inserted).unwrap_err();
        assert_eq!(transient(&error), Some(Transient::Unreachable), "{error}");
        assert_eq!(server.text(&url, "SELECT count(*) FROM phoenix_test.things").await, rows, "{loss:?}");
    }
    assert_eq!(proxy.lost(), 2);
    assert_eq!(insert_with_retries(&database, 3).await, 0);
}

#[tokio::test]
async fn frozen_client_loses_its_locks_after_seconds() {
    let Some(server) = Server::shared().await else { return };
    let database = opened(&server.database().await).await;
    let mut frozen = database.session().await.unwrap();
    let mut transaction = frozen.begin().await.unwrap();
    sqlx::query("INSERT INTO phoenix_test.things (id) VALUES (1)").execute(&mut *transaction).await.unwrap();
    let started_at = Instant::now();
    // Waits for the other transaction, which has inserted the same key.
    assert_eq!(insert_with_retries(&database, 1).await, 0);
    assert!(started_at.elapsed() < LIMIT);
    let error = transaction.commit().await.unwrap_err();
    assert_eq!(transient(&error), Some(Transient::Unreachable), "{error}");
}

#[tokio::test]
async fn hint_follows_a_notification_of_another_process() {
    let Some(server) = Server::start().await else { return };
    let url = server.database().await;
    let database = opened(&url).await;
    let mut hints = database.hints("phoenix_test", "own".into());
    let mut next = async || tokio::time::timeout(LIMIT, hints.next()).await.expect("a hint comes");
    // The first connection.
    next().await;
    server.execute(&url, "SELECT pg_notify('phoenix_test', 'other')").await;
    next().await;
    server.kill().await;
    server.start_again().await;
    // The second connection.
    next().await;
    server.execute(&url, "SELECT pg_notify('phoenix_test', 'other')").await;
    next().await;
}
