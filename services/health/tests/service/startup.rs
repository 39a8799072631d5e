//! Starts on existing data, and starts that fail.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use phoenix_domain::health::{HealthState, Outcome};
use phoenix_health::serve;
use phoenix_proto::health_v1::WatchAgentHealthRequest;
use sqlx::{Connection, PgConnection, SqliteConnection};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::harness::{LIMIT, LONG, Place, Service, agent, config, decode, file_url, now};

#[tokio::test]
async fn health_survives_a_restart() {
    for place in Place::each().await {
        let agents = || [agent("failing", LONG), agent("probed", LONG), agent("working", LONG)];
        let service = Service::start(agents(), &place).await;
        for _ in 0..3 {
            service.ended("failing", Outcome::Failure).await;
        }
        service.ended("working", Outcome::Success).await;
        service.open_long_ago("probed").await;
        let lease = service.probe("probed", 600_000).await.unwrap().lease;
        let before = service.list().await;
        service.stop().await;

        let service = Service::start(agents(), &place).await;
        assert_eq!(service.list().await, before);
        assert_eq!(before[0].state, HealthState::Unhealthy);
        assert!(!service.probe("probed", 0).await.unwrap().granted, "the probe is still under way");
        let healed = service.report("probed", Outcome::Success, now(), &lease).await.unwrap();
        assert_eq!(healed.state, HealthState::Healthy);
        service.stop().await;
    }
}

#[tokio::test]
async fn clock_set_back_does_not_extend_the_cooldown() {
    const COOLDOWN: Duration = Duration::from_millis(300);
    for place in Place::each().await {
        let service = Service::start([agent("a", COOLDOWN)], &place).await;
        for _ in 0..3 {
            service.ended("a", Outcome::Failure).await;
        }
        service.stop().await;
        // The values that a service would have written an hour from now.
        alter(
            &place,
            "UPDATE agent_health SET circuit_open_until = circuit_open_until + 3600000000,
                                 last_failure_at = last_failure_at + 3600000000",
        )
        .await;
        let started = Instant::now();
        let service = Service::start([agent("a", COOLDOWN)], &place).await;
        let mut changes =
            service.client.clone().watch_agent_health(WatchAgentHealthRequest {}).await.unwrap().into_inner();
        let corrected = async {
            loop {
                let health = decode(changes.message().await.unwrap().unwrap().agents.pop());
                if health.circuit_open_until.unwrap() <= now() + COOLDOWN {
                    return health;
                }
            }
        };
        let health =
            tokio::time::timeout(LIMIT, corrected).await.expect("the watcher gets the corrected circuit");
        assert_eq!(health.state, HealthState::Unhealthy, "no attempt was made");
        assert!(health.last_failure_at.unwrap() <= now());
        let granted = async {
            while !service.probe("a", 0).await.unwrap().granted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, granted).await.expect("the cooldown ends");
        assert!(started.elapsed() >= COOLDOWN, "the cooldown did not end at once");
        service.stop().await;
    }
}

#[tokio::test]
async fn missing_directory_is_created() {
    let folder = tempfile::tempdir().unwrap();
    let service =
        Service::start_with(config([agent("a", LONG)], file_url(&folder.path().join("data/below")))).await;
    service.ended("a", Outcome::Success).await;
    service.stop().await;
}

#[tokio::test]
async fn unwritable_directory_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    let message = refusal(&file).await;
    assert!(message.contains("cannot be opened") && message.contains("file/health.db"), "{message}");
}

#[tokio::test]
async fn file_that_is_no_database_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("health.db"), "not a database ".repeat(1000)).unwrap();
    let message = refusal(folder.path()).await;
    assert!(message.contains("cannot be opened") && message.contains("not a database"), "{message}");
}

#[tokio::test]
async fn database_of_a_newer_version_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    Service::start_with(config([agent("a", LONG)], file_url(folder.path())))
        .await
        .stop_after_first_answer()
        .await;
    alter_file(
        folder.path(),
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'from the future', TRUE, x'00', 0)",
    )
    .await;
    let message = refusal(folder.path()).await;
    assert!(message.contains("newer version") && message.contains("9999"), "{message}");
}

#[tokio::test]
async fn corrupt_row_stops_the_service_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start_with(config([agent("a", LONG)], file_url(folder.path()))).await;
    service.ended("a", Outcome::Failure).await;
    service.stop().await;
    alter_file(folder.path(), "UPDATE agent_health SET last_failure_at = 9223372036854775807").await;
    let message = refusal(folder.path()).await;
    assert!(message.contains("agent `a`") && message.contains("last_failure_at"), "{message}");
}

impl Service {
    /// Stops the service once it has created its table.
    async fn stop_after_first_answer(self) {
        self.list().await;
        self.stop().await;
    }
}

/// The message of a service that fails to start, or when it reads the health of the first agents.
async fn refusal(folder: &Path) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served = serve(config([agent("a", LONG)], file_url(folder)), listener, CancellationToken::new());
    tokio::time::timeout(LIMIT, served).await.expect("the start fails").unwrap_err().to_string()
}

/// Changes stored values.
async fn alter(place: &Place, sql: &'static str) {
    match place {
        Place::Folder(folder) => alter_file(folder.path(), sql).await,
        Place::Server(url) => {
            let mut connection = PgConnection::connect(url).await.unwrap();
            sqlx::raw_sql("SET search_path TO phoenix_health").execute(&mut connection).await.unwrap();
            sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        }
    }
}

async fn alter_file(folder: &Path, sql: &'static str) {
    let mut connection = SqliteConnection::connect(&file_url(folder)).await.unwrap();
    sqlx::query(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}
