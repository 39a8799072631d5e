//! Circuits open, let one probe through, and close.

use std::{collections::HashMap, sync::Arc, time::Duration};

use phoenix_domain::{
    TaskId,
    health::{HealthState, Outcome},
};
use phoenix_proto::{
    health_v1::{self, ReportOutcomeRequest},
    timestamp, to_timestamp,
};
use tokio::task::JoinSet;

use crate::harness::{LIMIT, LONG, Place, Service, agent, long_ago, now};

#[tokio::test]
async fn third_failure_opens_the_circuit_and_a_success_closes_it() {
    for place in Place::each().await {
        let service = Service::start([agent("a", LONG)], &place).await;
        for failures in 1..=2 {
            let health = service.ended("a", Outcome::Failure).await;
            assert_eq!((health.state, health.consecutive_failures), (HealthState::Degraded, failures));
            assert_eq!(health.circuit_open_until, None);
        }
        let ended_at = now();
        let open = service.report("a", Outcome::Failure, ended_at, "").await.unwrap();
        assert_eq!((open.state, open.consecutive_failures), (HealthState::Unhealthy, 3));
        assert_eq!(open.circuit_open_until, Some(ended_at + LONG));
        assert_eq!(open.last_failure_at, Some(ended_at));

        let refused = service.probe("a", 0).await.unwrap();
        assert!(!refused.granted && refused.lease.is_empty());
        assert_eq!(timestamp("refused_until", refused.refused_until), Ok(Some(ended_at + LONG)));

        let healed = service.ended("a", Outcome::Success).await;
        assert_eq!((healed.state, healed.consecutive_failures), (HealthState::Healthy, 0));
        assert_eq!((healed.circuit_open_until, healed.last_failure_at), (None, Some(ended_at)));
        assert_eq!(service.get("a").await.unwrap(), healed);
        service.stop().await;
    }
}

#[tokio::test]
async fn circuit_opens_with_a_second_task_also_after_a_restart() {
    for place in Place::each().await {
        let service = Service::start([agent("a", LONG)], &place).await;
        let (first, second) = (TaskId::generate().to_string(), TaskId::generate().to_string());
        for failures in 1..=4 {
            let health = service.report_of(&first, "a", Outcome::Failure, now(), "").await.unwrap();
            assert_eq!((health.state, health.consecutive_failures), (HealthState::Degraded, failures));
        }
        service.stop().await;
        let service = Service::start([agent("a", LONG)], &place).await;
        let health = service.report_of(&first, "a", Outcome::Failure, now(), "").await.unwrap();
        assert_eq!((health.state, health.circuit_open_until), (HealthState::Degraded, None));
        assert!(service.probe("a", 0).await.unwrap().granted, "another task runs");
        let health = service.report_of(&second, "a", Outcome::Failure, now(), "").await.unwrap();
        assert_eq!((health.state, health.consecutive_failures), (HealthState::Unhealthy, 6));
        service.stop().await;
    }
}

#[tokio::test]
async fn closed_circuit_admits_without_a_lease() {
    for place in Place::each().await {
        let service = Service::start([agent("a", LONG)], &place).await;
        let answer = service.probe("a", 0).await.unwrap();
        assert!(answer.granted && answer.lease.is_empty() && answer.refused_until.is_none());
        assert_eq!(service.get("a").await.unwrap().revision, 0, "nothing changed");
        service.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_sixteen_concurrent_callers_gets_the_probe() {
    for place in Place::each().await {
        let service = Arc::new(Service::start([agent("a", LONG)], &place).await);
        service.open_long_ago("a").await;
        let asked: JoinSet<_> = (0..16)
            .map(|_| {
                let service = Arc::clone(&service);
                async move { service.probe("a", 600_000).await.unwrap() }
            })
            .collect();
        let (granted, refused): (Vec<_>, Vec<_>) =
            asked.join_all().await.into_iter().partition(|answer| answer.granted);
        assert_eq!((granted.len(), refused.len()), (1, 15));
        let taken_until = service.get("a").await.unwrap().probe_until;
        for answer in refused {
            assert_eq!(timestamp("refused_until", answer.refused_until).unwrap(), taken_until);
        }

        let neutral = service.report("a", Outcome::Neutral, now(), &granted[0].lease).await.unwrap();
        assert_eq!((neutral.state, neutral.probe_until), (HealthState::Unhealthy, None));
        let next = service.probe("a", 600_000).await.unwrap();
        assert!(next.granted, "a cancelled probe returns its lease");
        let healed = service.report("a", Outcome::Success, now(), &next.lease).await.unwrap();
        assert_eq!(healed.state, HealthState::Healthy);
        Arc::into_inner(service).unwrap().stop().await;
    }
}

#[tokio::test]
async fn failed_probe_reopens_the_circuit_for_twice_the_cooldown() {
    for place in Place::each().await {
        let service = Service::start([agent("a", Duration::from_millis(50))], &place).await;
        service.open_long_ago("a").await;
        let first = service.probe("a", 0).await.unwrap();
        let ended_at = now();
        let failed = service.report("a", Outcome::Failure, ended_at, &first.lease).await.unwrap();
        let open_time = failed.circuit_open_until.unwrap().duration_since(ended_at).as_millis();
        assert!((100..=120).contains(&open_time), "twice 50 ms, and up to a fifth more: {open_time} ms");

        let granted = async {
            loop {
                let answer = service.probe("a", 0).await.unwrap();
                if answer.granted {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let second = tokio::time::timeout(LIMIT, granted).await.expect("the cooldown ends");
        assert!(now() >= failed.circuit_open_until.unwrap());
        assert_ne!(second.lease, first.lease);
        service.stop().await;
    }
}

#[tokio::test]
async fn lease_lasts_as_requested_or_as_long_as_a_task() {
    for place in Place::each().await {
        let service = Service::start([agent("asked", LONG), agent("default", LONG)], &place).await;
        // Three attempts of 30 s, pauses of 0.5 s and 1 s, and 5 s.
        for (name, lease_ms, expected) in [("asked", 1234, 1234), ("default", 0, 96_500)] {
            service.open_long_ago(name).await;
            let before = now();
            service.probe(name, lease_ms).await.unwrap();
            let after = now();
            let until = service.get(name).await.unwrap().probe_until.unwrap();
            let expected = Duration::from_millis(expected);
            assert!(until >= before + expected && until <= after + expected, "{name}: {until}");
        }
        service.stop().await;
    }
}

#[tokio::test]
async fn neutral_outcomes_change_nothing() {
    for place in Place::each().await {
        let service = Service::start([agent("a", LONG)], &place).await;
        let degraded = service.ended("a", Outcome::Failure).await;
        assert_eq!(service.ended("a", Outcome::Neutral).await, degraded);
        service.stop().await;
    }
}

#[tokio::test]
async fn reporter_clock_ahead_does_not_extend_the_cooldown() {
    for place in Place::each().await {
        let service = Service::start([agent("a", LONG)], &place).await;
        for _ in 0..3 {
            service.report("a", Outcome::Failure, now() + 24 * LONG, "").await.unwrap();
        }
        let health = service.get("a").await.unwrap();
        assert!(health.circuit_open_until.unwrap() <= now() + LONG);
        assert!(health.last_failure_at.unwrap() <= now());
        service.stop().await;
    }
}

#[tokio::test]
async fn reporter_clock_a_minute_off_changes_no_cooldown() {
    for place in Place::each().await {
        let service = Service::start([agent("a", Duration::from_secs(60))], &place).await;
        let mut health = None;
        for clock in [now() - Duration::from_secs(61), now(), now() + Duration::from_secs(61)] {
            let request = ReportOutcomeRequest {
                agent_id: "a".into(),
                outcome: health_v1::Outcome::Failure.into(),
                ended_at: Some(to_timestamp(clock - Duration::from_secs(1))),
                sent_at: Some(to_timestamp(clock)),
                ..ReportOutcomeRequest::default()
            };
            health = Some(service.send(request).await.unwrap());
        }
        let health = health.unwrap();
        let (failed_at, until) = (health.last_failure_at.unwrap(), health.circuit_open_until.unwrap());
        assert_eq!(until, failed_at + Duration::from_secs(60));
        assert!(failed_at <= now() - Duration::from_secs(1), "it failed a second before its report");
        let refused = service.probe("a", 0).await.unwrap();
        assert!(!refused.granted && (1..=59_000).contains(&refused.refused_for_ms), "{refused:?}");
        service.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_processes_on_one_file_lose_no_update() {
    const ROUNDS: u32 = 8;
    let place = Place::file();
    let agents = || [agent("a", LONG), agent("b", LONG)];
    let one = Arc::new(Service::start(agents(), &place).await);
    // The first answer shows that the table exists; two processes at once would race to create it.
    one.list().await;
    let two = Arc::new(Service::start(agents(), &place).await);
    let mut reporters = JoinSet::new();
    for n in 0..64 {
        let service = Arc::clone(if n % 2 == 0 { &one } else { &two });
        let name = if n % 4 < 2 { "a" } else { "b" };
        reporters.spawn(async move {
            for _ in 0..ROUNDS {
                service.report(name, Outcome::Failure, long_ago(), "").await.unwrap();
            }
        });
    }
    reporters.join_all().await;
    let mut counted = HashMap::new();
    for name in ["a", "b"] {
        // A change makes a process read the file; the other one may have written last.
        let health = one.report(name, Outcome::Failure, long_ago(), "").await.unwrap();
        counted.insert(name, (health.consecutive_failures, health.revision));
    }
    let expected = 32 * ROUNDS + 1;
    assert_eq!(counted, HashMap::from(["a", "b"].map(|name| (name, (expected, u64::from(expected))))));
    Arc::into_inner(one).unwrap().stop().await;
    Arc::into_inner(two).unwrap().stop().await;
}
