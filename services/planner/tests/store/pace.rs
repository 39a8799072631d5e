//! Latency of acceptance during a purge.

use std::time::{Duration, Instant};

use phoenix_planner::{background::retention, config::Retention, journal::Journal, store};
use phoenix_platform::readiness::Readiness;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{Fresh, accepted, fill, new_plan, plan_ended, sqlite};

/// Start of old plans, in seconds before the epoch of these tests.
const LONG_AGO: i64 = -30_000_000;

/// Concurrent callers.
const CALLERS: usize = 16;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::test]
async fn plans_are_accepted_during_a_purge() {
    let (fresh, journal) = full_of(500).await;
    let (waits, left) = accept_while_deleting(&fresh, &journal).await;
    assert_eq!(left, 0);
    assert!(waits.len() > CALLERS, "{} plans were accepted meanwhile", waits.len());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: cargo test --release -p phoenix-planner --test store -- --ignored --nocapture"]
async fn acceptance_latency_during_a_purge_of_100_000() {
    let (fresh, journal) = full_of(100_000).await;
    // The length of the measurement, not a wait.
    let quiet = accept_for(&journal, async { tokio::time::sleep(Duration::from_secs(10)).await }).await;
    report("nothing is deleted", quiet);
    let started = Instant::now();
    let (waits, left) = accept_while_deleting(&fresh, &journal).await;
    let rate = waits.len() as f64 / started.elapsed().as_secs_f64();
    report("100 000 plans are deleted", waits);
    assert_eq!(left, 0);
    println!("in {:.1} s, {rate:.0} accepted/s", started.elapsed().as_secs_f64());
}

/// A journal with this number of old plans.
async fn full_of(plans: i64) -> (Fresh, Journal) {
    let fresh = sqlite().await;
    fill(&*fresh.store, LONG_AGO, plans).await;
    let journal = Journal::open(&fresh.url, Readiness::needing(&[])).await.unwrap();
    (fresh, journal)
}

/// Latency of each acceptance until the purge is done, and the number of old plans left.
async fn accept_while_deleting(fresh: &Fresh, journal: &Journal) -> (Vec<Duration>, usize) {
    let retention = Retention { plans: Some(30 * DAY), keys: DAY };
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    tokio::spawn(retention::run(journal.clone(), retention, stop));
    let old = async || -> usize {
        let filter = store::PlanFilter {
            before: Some(phoenix_domain::PlanId::first_at(crate::at(LONG_AGO + 10_000_000))),
            limit: 1,
            ..store::PlanFilter::default()
        };
        fresh.store.plans(&filter).await.unwrap().items.len()
    };
    let until_gone = async {
        while old().await > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waits = accept_for(journal, until_gone).await;
    (waits, old().await)
}

/// Accepts and ends plans, as chats do, while `lasts` runs. Returns the latency of each acceptance.
async fn accept_for(journal: &Journal, lasts: impl Future<Output = ()>) -> Vec<Duration> {
    let stop = CancellationToken::new();
    let callers: JoinSet<Vec<Duration>> = (0..CALLERS)
        .map(|_| {
            let (journal, stop) = (journal.clone(), stop.clone());
            async move {
                let mut waits = Vec::new();
                while !stop.is_cancelled() {
                    let plan = new_plan(&["a"]);
                    let asked = Instant::now();
                    journal.create(vec![accepted(&plan)]).await.unwrap();
                    waits.push(asked.elapsed());
                    journal.append_durable(vec![plan_ended(&plan, 1)]).await.unwrap();
                }
                waits
            }
        })
        .collect();
    lasts.await;
    stop.cancel();
    callers.join_all().await.concat()
}

fn report(what: &str, mut waits: Vec<Duration>) {
    waits.sort_unstable();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "while {what}: {} accepted, p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, max {:.2} ms",
        waits.len(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}
