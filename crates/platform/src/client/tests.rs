use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use phoenix_domain::OrchestratorErrorCode;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{readiness::Readiness, server::GrpcServer, service_token::ServiceToken};

fn token() -> ServiceToken {
    ServiceToken::new("of-the-test").unwrap()
}

#[test]
fn url_is_checked_before_the_first_call() {
    assert!(channel("localhost", token()).is_err());
    assert!(channel("ftp://127.0.0.1:1", token()).is_err());
}

/// A server in its own runtime, and its URL.
fn peer() -> (String, Runtime) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        GrpcServer::new(Readiness::needing(&[]), token()).serve(listener, CancellationToken::new()).await
    });
    (url, runtime)
}

/// Waits until so many calls are answered.
async fn at_least(answered: &AtomicUsize, count: usize) {
    while answered.load(Relaxed) < count {
        tokio::task::yield_now().await;
    }
}

/// A server that dies as by SIGKILL breaks calls in several ways: some wait for the connection, some for their response, some
/// start without a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_peer_is_unavailable_to_calls_in_every_stage() {
    for round in 0..30 {
        let (url, peer) = peer();
        let channel = channel(&url, token()).unwrap();
        let answered = Arc::new(AtomicUsize::new(0));
        let mut calls = JoinSet::new();
        for _ in 0..16 {
            let mut client = HealthClient::new(channel.clone());
            let answered = Arc::clone(&answered);
            calls.spawn(async move {
                loop {
                    if let Err(status) = client.check(HealthCheckRequest::default()).await {
                        return status;
                    }
                    answered.fetch_add(1, Relaxed);
                }
            });
        }
        // A different moment in each round: the first calls wait for the connection, later ones for each other.
        at_least(&answered, 1 + 8 * round).await;
        peer.shutdown_background();
        for status in calls.join_all().await {
            let error = call_error("the planner", &status);
            assert_eq!(error.code, OrchestratorErrorCode::Unavailable, "{error}: {status:?}");
        }
    }
}

#[tokio::test]
async fn absent_peer_is_unavailable_at_once_with_a_retry_delay() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let channel = channel(&url, token()).unwrap();
    assert!(!is_serving(channel.clone(), CONNECT_TIMEOUT).await);
    let status = HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap_err();
    assert!(!was_sent(&status), "{status:?}");
    let error = call_error("the planner", &status);
    assert_eq!(error.code, OrchestratorErrorCode::Unavailable);
    assert_eq!(error.retry_after, Some(UNREACHABLE_RETRY_AFTER));
    assert!(!error.message.contains("127.0.0.1"), "no address in a message for callers");
}

/// A socket without an accept loop stands in for a stopped process: the kernel accepts its connections.
#[tokio::test]
async fn stopped_peer_is_unavailable_to_every_call_until_it_resumes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let channel = channel(&format!("http://{}", listener.local_addr().unwrap()), token()).unwrap();
    let asked = Instant::now();
    let mut calls = JoinSet::new();
    for _ in 0..16 {
        let mut client = HealthClient::new(channel.clone());
        calls.spawn(async move { client.check(HealthCheckRequest::default()).await.unwrap_err() });
    }
    for status in calls.join_all().await {
        assert!(!was_sent(&status), "{status:?}");
        let error = call_error("the executor", &status);
        assert_eq!(error.code, OrchestratorErrorCode::Unavailable, "{error}: {status:?}");
    }
    assert!(
        asked.elapsed() < PING_EVERY + PING_TIMEOUT,
        "{:?}: calls waited for each other",
        asked.elapsed()
    );
    let stop = CancellationToken::new();
    let server = GrpcServer::new(Readiness::needing(&[]), token()).serve(listener, stop.clone());
    let server = tokio::spawn(server);
    while !is_serving(channel.clone(), CONNECT_TIMEOUT).await {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
    drop(channel);
    server.await.unwrap().unwrap();
}

async fn check(channel: &PeerChannel) -> Result<i32, tonic::Status> {
    let response = HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await?;
    Ok(response.get_ref().status)
}

#[tokio::test]
async fn call_that_was_not_sent_is_tried_on_every_peer() {
    let absent = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    // The kernel accepts connections for a process that is stopped.
    let stopped = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (url, runtime) = peer();
    let urls = format!("http://{absent},http://{},{url}", stopped.local_addr().unwrap());
    let channel = channel(&urls, token()).unwrap();
    let mut calls = JoinSet::new();
    for _ in 0..16 {
        let channel = channel.clone();
        calls.spawn(async move { check(&channel).await });
    }
    for answer in calls.join_all().await {
        answer.unwrap();
    }
    assert!(is_serving(channel.clone(), CONNECT_TIMEOUT * 5).await, "one instance is enough");
    let peers = channel.peers().unwrap().current();
    let admitted: Vec<_> = peers.iter().filter(|peer| peer.is_admitted()).collect();
    assert!(admitted.len() <= 1, "the others get no calls: {admitted:?}");
    runtime.shutdown_background();
    let error = loop {
        if let Err(status) = check(&channel).await {
            break call_error("the planner", &status);
        }
    };
    assert_eq!(error.code, OrchestratorErrorCode::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_of_one_peer_fails_only_calls_in_flight_there() {
    let (first, second) = (peer(), peer());
    let channel = channel(&format!("{},{}", first.0, second.0), token()).unwrap();
    let mut callers = JoinSet::new();
    let stop = CancellationToken::new();
    let answered = Arc::new(AtomicUsize::new(0));
    for _ in 0..8 {
        let (channel, stop, answered) = (channel.clone(), stop.clone(), Arc::clone(&answered));
        callers.spawn(async move {
            let mut failed = Vec::new();
            while !stop.is_cancelled() {
                match check(&channel).await {
                    Ok(_) => _ = answered.fetch_add(1, Relaxed),
                    Err(status) => failed.push(status),
                }
            }
            failed
        });
    }
    // Enough calls that both peers have some in flight.
    at_least(&answered, 500).await;
    first.1.shutdown_background();
    let before = answered.load(Relaxed);
    at_least(&answered, before + 500).await;
    stop.cancel();
    for failed in callers.join_all().await {
        assert!(failed.len() <= 1, "each caller has one call in flight: {failed:?}");
        assert!(failed.iter().all(was_sent), "{failed:?}");
    }
    second.1.shutdown_background();
}

#[tokio::test]
async fn peer_that_is_not_ready_gets_no_calls() {
    let readiness = Readiness::needing(&["journal"]);
    let stop = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (url, runtime) = peer();
    let urls = format!("http://{},{url}", listener.local_addr().unwrap());
    let server = GrpcServer::new(readiness.clone(), token()).serve(listener, stop.clone());
    let server = tokio::spawn(server);
    let channel = channel(&urls, token()).unwrap();
    let peers = channel.peers().unwrap().resolved().await;
    let admitted = async |count: usize| {
        while peers.iter().filter(|peer| peer.is_admitted()).count() != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    admitted(1).await;
    for _ in 0..50 {
        assert_eq!(check(&channel).await.unwrap(), ServingStatus::Serving as i32);
    }
    readiness.set("journal", true);
    admitted(2).await;
    readiness.shut_down();
    admitted(1).await;
    stop.cancel();
    server.await.unwrap().unwrap();
    runtime.shutdown_background();
}
