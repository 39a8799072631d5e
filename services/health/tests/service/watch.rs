//! Streams of health changes.

use std::time::Duration;

use phoenix_domain::health::{HealthState, Outcome};
use phoenix_proto::{
    HealthSnapshot,
    health_v1::{WatchAgentHealthRequest, WatchAgentHealthResponse},
};
use tonic::Streaming;

use crate::harness::{LIMIT, LONG, Place, Service, agent, decode};

async fn next(stream: &mut Streaming<WatchAgentHealthResponse>) -> Option<Vec<HealthSnapshot>> {
    let message = tokio::time::timeout(LIMIT, stream.message()).await.expect("a message comes").unwrap()?;
    Some(message.agents.into_iter().map(|health| decode(Some(health))).collect())
}

#[tokio::test]
async fn watcher_gets_every_agent_first_and_then_changes() {
    for place in Place::each().await {
        let service = Service::start([agent("a", LONG), agent("b", LONG)], &place).await;
        let before = service.ended("b", Outcome::Failure).await;
        let mut client = service.client.clone();
        let mut watch = client.watch_agent_health(WatchAgentHealthRequest {}).await.unwrap().into_inner();
        let first = next(&mut watch).await.unwrap();
        assert_eq!(first.iter().map(|health| health.agent.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((first[0].state, &first[1]), (HealthState::Healthy, &before));

        let mut newest = None;
        for _ in 0..50 {
            newest = Some(service.ended("a", Outcome::Failure).await);
        }
        let newest = newest.unwrap();
        let mut revision = 0;
        loop {
            let message = next(&mut watch).await.unwrap();
            assert_eq!(message.len(), 1, "only the agent that changed");
            assert!(message[0].revision > revision, "never the same twice, never backwards");
            revision = message[0].revision;
            if revision == newest.revision {
                assert_eq!(message[0], newest);
                break;
            }
        }
        service.stop().await;
    }
}

#[tokio::test]
async fn shutdown_ends_watchers_at_once_without_an_error() {
    for place in Place::each().await {
        let service = Service::start([agent("a", LONG)], &place).await;
        let mut watchers = Vec::new();
        for _ in 0..3 {
            let watch = service.client.clone().watch_agent_health(WatchAgentHealthRequest {}).await;
            watchers.push(watch.unwrap().into_inner());
        }
        for watch in &mut watchers {
            next(watch).await.unwrap();
        }
        service.shutdown.cancel();
        for watch in &mut watchers {
            assert_eq!(next(watch).await, None);
        }
        // Well before the drain would time out.
        let limit = phoenix_platform::shutdown::DRAIN - Duration::from_secs(5);
        tokio::time::timeout(limit, service.task).await.expect("it ends").unwrap().unwrap();
    }
}
