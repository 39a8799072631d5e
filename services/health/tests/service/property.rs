//! The service behaves like the pure state machine: the same reports lead to the same state.

use std::time::Duration;

use jiff::Timestamp;
use phoenix_domain::health::{AgentHealth, BreakerPolicy, Outcome, Report};
use phoenix_proto::HealthSnapshot;
use proptest::prelude::*;
use uuid::Uuid;

use crate::harness::{LONG, Place, Service, agent, long_ago, now};

/// The tasks that attempts belong to; an empty one is unknown.
const TASKS: [&str; 3] = ["", "0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e51", "0190a6c1-5b0e-7cc3-9d6e-0a1b2c3d4e52"];

#[derive(Debug, Clone, Copy)]
enum Step {
    Report(Outcome, usize),
    /// Reports under the lease that was granted last, which may have expired.
    ReportProbe(Outcome),
    Acquire,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = || prop::sample::select(&[Outcome::Success, Outcome::Failure, Outcome::Neutral]);
    prop_oneof![
        4 => (outcome(), 0..TASKS.len()).prop_map(|(outcome, task)| Step::Report(outcome, task)),
        3 => (0..TASKS.len()).prop_map(|task| Step::Report(Outcome::Failure, task)),
        2 => outcome().prop_map(Step::ReportProbe),
        3 => Just(Step::Acquire),
        1 => Just(Step::Restart),
    ]
}

/// The snapshot without the end of its lease, which depends on the service's clock.
fn comparable(mut snapshot: HealthSnapshot) -> HealthSnapshot {
    snapshot.probe_until = snapshot.probe_until.map(|_| Timestamp::UNIX_EPOCH);
    snapshot
}

async fn run(place: &Place, steps: &[(Step, u64)]) -> Result<(), TestCaseError> {
    let start = || Service::start([agent("a", LONG)], place);
    let mut service = start().await;
    let policy = BreakerPolicy { failure_threshold: 3, cooldown: LONG, ..BreakerPolicy::default() };
    let (mut model, mut at, mut lease) = (AgentHealth::default(), long_ago(), None::<Uuid>);
    for &(step, wait_ms) in steps {
        at += Duration::from_millis(wait_ms);
        match step {
            Step::Report(outcome, task) => {
                service.report_of(TASKS[task], "a", outcome, at, "").await.unwrap();
                let task = TASKS[task].parse().ok();
                model.record(&Report { task, ..Report::new(outcome, at) }, &policy);
            }
            Step::ReportProbe(outcome) => {
                let text = lease.map(|lease| lease.to_string()).unwrap_or_default();
                service.report("a", outcome, at, &text).await.unwrap();
                model.record(&Report { lease, ..Report::new(outcome, at) }, &policy);
            }
            Step::Acquire => {
                let answer = service.probe("a", 3_600_000).await.unwrap();
                let granted = answer.lease.parse().ok();
                // Deadlines are over by the service's clock, and by this one.
                model.acquire_probe(granted.unwrap_or_else(Uuid::new_v4), now(), LONG);
                lease = granted.or(lease);
            }
            Step::Restart => {
                service.stop().await;
                service = start().await;
            }
        }
        let expected = HealthSnapshot::of("a".parse().unwrap(), &model);
        prop_assert_eq!(comparable(service.get("a").await.unwrap()), comparable(expected), "{:?}", step);
    }
    service.stop().await;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn service_equals_the_state_machine_folded_over_reports(
        steps in prop::collection::vec((step(), 0u64..60_000), 1..60),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for place in Place::each().await {
                run(&place, &steps).await?;
            }
            Ok::<_, TestCaseError>(())
        })?;
    }
}
