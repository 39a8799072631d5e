//! Several services on one database of PostgreSQL, and failures of its server.

use std::{sync::Arc, time::Duration};

use phoenix_domain::{
    OrchestratorErrorCode,
    health::{HealthState, Outcome},
};
use phoenix_platform::postgres::Pooler;
use phoenix_proto::HealthSnapshot;
use phoenix_testkit_postgres::{Loss, Proxy, Server};
use tokio::{task::JoinSet, time::Instant};

use crate::harness::{LIMIT, LONG, Service, agent, config, long_ago};

/// Longest time after which a change at one service is seen at another, and a service works again after a failure.
const SOON: Duration = Duration::from_secs(5);

async fn start(url: &str) -> Service {
    Service::start_with(config([agent("a", LONG), agent("b", LONG)], url.to_owned())).await
}

/// Waits until the service shows what `expected` accepts, and returns the time it took.
async fn until(service: &Service, expected: impl Fn(&HealthSnapshot) -> bool) -> Duration {
    let started_at = Instant::now();
    while !expected(&service.get("a").await.unwrap()) {
        assert!(started_at.elapsed() < LIMIT, "{:?}", service.get("a").await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    started_at.elapsed()
}

/// Reports a failure until the service accepts it, and returns the time it took.
async fn report_until_accepted(service: &Service) -> Duration {
    let started_at = Instant::now();
    while let Err(error) = service.report("a", Outcome::Failure, long_ago(), "").await {
        assert_eq!(error.code, OrchestratorErrorCode::Unavailable, "{error}");
        assert!(started_at.elapsed() < LIMIT, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    started_at.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_many_callers_of_two_services_gets_the_probe() {
    let Some(server) = Server::shared().await else { return };
    let url = server.database().await;
    let (one, two) = (Arc::new(start(&url).await), Arc::new(start(&url).await));
    for _ in 0..5 {
        one.open_long_ago("a").await;
        let asked: JoinSet<_> = (0..32)
            .map(|n| {
                let service = Arc::clone(if n % 2 == 0 { &one } else { &two });
                async move { service.probe("a", 600_000).await.unwrap() }
            })
            .collect();
        let granted: Vec<_> = asked.join_all().await.into_iter().filter(|answer| answer.granted).collect();
        assert_eq!(granted.len(), 1);
        // The other service ends the probe.
        let healed = two.report("a", Outcome::Success, long_ago(), &granted[0].lease).await.unwrap();
        assert_eq!(healed.state, HealthState::Healthy);
    }
    for service in [one, two] {
        Arc::into_inner(service).unwrap().stop().await;
    }
}

#[tokio::test]
async fn circuit_that_opens_at_one_service_is_seen_at_the_other() {
    let Some(server) = Server::shared().await else { return };
    let url = server.database().await;
    let (one, two) = (start(&url).await, start(&url).await);
    for _ in 0..3 {
        one.ended("a", Outcome::Failure).await;
    }
    let opened = one.get("a").await.unwrap();
    let took = until(&two, |health| *health == opened).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    let healed = two.ended("a", Outcome::Success).await;
    let took = until(&one, |health| *health == healed).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_services_lose_no_update() {
    const ROUNDS: u32 = 8;
    let Some(server) = Server::shared().await else { return };
    let url = server.database().await;
    let (one, two) = (Arc::new(start(&url).await), Arc::new(start(&url).await));
    let mut reporters = JoinSet::new();
    for n in 0..32 {
        let service = Arc::clone(if n % 2 == 0 { &one } else { &two });
        let name = if n % 4 < 2 { "a" } else { "b" };
        reporters.spawn(async move {
            for _ in 0..ROUNDS {
                service.report(name, Outcome::Failure, long_ago(), "").await.unwrap();
            }
        });
    }
    reporters.join_all().await;
    for name in ["a", "b"] {
        let health = one.report(name, Outcome::Failure, long_ago(), "").await.unwrap();
        assert_eq!(
            (health.consecutive_failures, health.revision),
            (16 * ROUNDS + 1, u64::from(16 * ROUNDS + 1))
        );
    }
    for service in [one, two] {
        Arc::into_inner(service).unwrap().stop().await;
    }
}

#[tokio::test]
async fn commit_without_an_answer_is_applied_once() {
    let Some(server) = Server::shared().await else { return };
    let proxy = Proxy::start(server.port()).await;
    let service = start(&proxy.url(&server.database().await)).await;
    service.ended("a", Outcome::Failure).await;
    for (loss, failures) in [(Loss::Answer, 2), (Loss::Request, 3)] {
        proxy.lose_next_commit(loss);
        let health = service.ended("a", Outcome::Failure).await;
        assert_eq!(
            (health.consecutive_failures, health.revision),
            (failures, u64::from(failures)),
            "{loss:?}"
        );
    }
    assert_eq!(proxy.lost(), 2);
    service.stop().await;
}

#[tokio::test]
async fn service_works_again_soon_after_its_server_was_down() {
    let Some(server) = Server::start().await else { return };
    let service = start(&server.database().await).await;
    let mut failures = 0;
    for kills in [false, true] {
        failures += 1;
        assert_eq!(service.ended("a", Outcome::Failure).await.consecutive_failures, failures);
        if kills {
            server.kill().await;
        } else {
            server.stop().await;
        }
        let refused = service.report("a", Outcome::Failure, long_ago(), "").await.unwrap_err();
        assert_eq!(refused.code, OrchestratorErrorCode::Unavailable);
        assert_eq!(service.get("a").await.unwrap().consecutive_failures, failures, "reads come from memory");
        server.start_again().await;
        let took = report_until_accepted(&service).await;
        assert!(took < SOON, "{took:?}");
        failures += 1;
        assert_eq!(service.get("a").await.unwrap().consecutive_failures, failures, "nothing was lost");
    }
    service.stop().await;
}

#[tokio::test]
async fn service_works_again_soon_after_its_connections_were_cut() {
    let Some(server) = Server::shared().await else { return };
    let proxy = Proxy::start(server.port()).await;
    let service = start(&proxy.url(&server.database().await)).await;
    service.ended("a", Outcome::Failure).await;
    proxy.cut();
    let refused = service.report("a", Outcome::Failure, long_ago(), "").await.unwrap_err();
    assert_eq!(refused.code, OrchestratorErrorCode::Unavailable);
    proxy.restore();
    let took = report_until_accepted(&service).await;
    assert!(took < SOON, "{took:?}");
    assert_eq!(service.get("a").await.unwrap().consecutive_failures, 2);
    service.stop().await;
}

#[tokio::test]
async fn slow_and_read_only_servers_lose_nothing() {
    let Some(server) = Server::start().await else { return };
    let proxy = Proxy::start(server.port()).await;
    let service = start(&proxy.url(&server.database().await)).await;
    proxy.delay(Duration::from_millis(50));
    assert_eq!(service.ended("a", Outcome::Failure).await.consecutive_failures, 1);
    proxy.delay(Duration::ZERO);
    server.set("default_transaction_read_only", Some("on")).await;
    let refused = service.report("a", Outcome::Failure, long_ago(), "").await.unwrap_err();
    assert_eq!(refused.code, OrchestratorErrorCode::Unavailable);
    server.set("default_transaction_read_only", None).await;
    let took = report_until_accepted(&service).await;
    assert!(took < SOON, "{took:?}");
    assert_eq!(service.get("a").await.unwrap().consecutive_failures, 2);
    service.stop().await;
}

#[tokio::test]
async fn pooler_in_transaction_mode_gets_no_session_state() {
    let Some(server) = Server::shared().await else { return };
    let Some(pooler) = phoenix_testkit_postgres::PgBouncer::start(&server).await else { return };
    let url = pooler.url(&server.database().await);
    let start = async || {
        let config = config([agent("a", LONG)], url.clone());
        Service::start_with(phoenix_health::HealthConfig { database_pooler: Pooler::Transaction, ..config })
            .await
    };
    let (one, two) = (start().await, start().await);
    for n in 1..=20 {
        let service = if n % 2 == 0 { &one } else { &two };
        assert_eq!(
            service.report("a", Outcome::Failure, long_ago(), "").await.unwrap().consecutive_failures,
            n
        );
    }
    // Without notifications, by the poll.
    let newest = one.ended("a", Outcome::Success).await;
    let took = until(&two, |health| *health == newest).await;
    assert!(took < SOON, "{took:?}");
    one.stop().await;
    two.stop().await;
}
