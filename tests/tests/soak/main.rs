//! Fault injection: services, and the server of PostgreSQL, are killed with SIGKILL at random while plans and chats are sent,
//! watched, cancelled and abandoned; some plans wait for approvals, and some call an MCP server. In the end every plan has ended and
//! is consistent with its attempts, its events and the responses that its caller got; no attempt number was used twice, no task ran
//! twice at once, or without its approval; and no process is left.
//!
//! Bounded and seeded: `PHOENIX_SOAK_ROUNDS` and `PHOENIX_SOAK_POSTGRES_ROUNDS` set the length, `PHOENIX_SOAK_SEED` repeats the
//! actions, but not their exact times; `PHOENIX_SOAK_PLANNERS`, `…_EXECUTORS` and `…_GATEWAYS` set the number of instances
//! (`cargo xtask soak`).
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "helpers of tests")]

mod approvals;
mod callers;
mod hostile;
mod journal;
mod ledger;
mod mcp;
mod random;
mod responses;
mod system;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use phoenix_platform::config::Role;
use phoenix_testkit::{cluster::Replicas, http::Rest, processes::pids_with_environment, wait::until};
use tokio::{
    sync::Mutex,
    task::{JoinSet, LocalSet},
};

use crate::{
    approvals::Decision,
    callers::Observation,
    journal::JournalSnapshot,
    random::Random,
    system::{Store, System},
};

/// Rounds unless `PHOENIX_SOAK_ROUNDS` sets another number. `cargo xtask ci` runs ten times as many.
const ROUNDS: u64 = 20;

/// The same on PostgreSQL.
const POSTGRES_ROUNDS: u64 = 10;

/// Held by the soak that runs: two at once would only wait for each other.
static TURN: Mutex<()> = Mutex::const_new(());

const SEED: u64 = 20_261_123;

/// Most concurrent callers; while there are more, the next round waits. A plan of a killed planner is taken over only when
/// its lease has expired, several rounds later.
const MAX_CALLERS: usize = 80;

/// Longest pause of a round before its kill.
const MAX_PAUSE: Duration = Duration::from_millis(1200);

/// Time in which every caller gets its answer after the last kill.
const SETTLE_LIMIT: Duration = Duration::from_secs(90);

#[tokio::test]
async fn every_acknowledged_plan_ends_under_random_kills() {
    LocalSet::new().run_until(soak(Store::Sqlite, Replicas::ONE)).await;
}

#[tokio::test]
async fn every_plan_on_postgres_ends_once_under_random_kills() {
    LocalSet::new().run_until(soak(Store::Postgres, Replicas::TWO)).await;
}

/// A number that an environment variable sets.
fn setting(name: &str) -> Option<u64> {
    std::env::var(format!("PHOENIX_SOAK_{name}")).ok().map(|value| value.parse().unwrap())
}

/// The number of instances that environment variables set.
fn replicas(default: Replicas) -> Replicas {
    let count = |name, default| setting(name).map_or(default, |count| usize::try_from(count).unwrap());
    Replicas {
        planners: count("PLANNERS", default.planners),
        executors: count("EXECUTORS", default.executors),
        gateways: count("GATEWAYS", default.gateways),
        health_services: default.health_services,
    }
}

async fn soak(store: Store, default: Replicas) {
    let _turn = TURN.lock().await;
    let rounds = match store {
        Store::Sqlite => setting("ROUNDS").unwrap_or(ROUNDS),
        Store::Postgres => setting("POSTGRES_ROUNDS").unwrap_or(POSTGRES_ROUNDS),
    };
    let seed = setting("SEED").unwrap_or(SEED);
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("soak-{store}.log"));
    let say = |what: &str| eprintln!("soak on {store}: {what}");
    let replicas = replicas(default);
    say(&format!("{rounds} rounds, seed {seed}, {replicas:?}; the services log to {}", log.display()));
    // A generator of their own for approvals and MCP, so that a seed of an earlier version still means the same kills.
    let (mut random, mut own) = (Random(seed), Random(!seed));
    let Some(mut system) = System::start(store, replicas, &log).await else { return };
    let rest = system.cluster.rest();
    let began = Instant::now();
    let mut callers = JoinSet::new();
    let mut observations = Vec::new();
    for round in 1..=rounds {
        spawn_callers(&rest, &mut random, &mut callers);
        let decision = Decision::of_round(round);
        callers.spawn_local(approvals::plan(rest.clone(), own.fork(), decision));
        if system.has_mcp && round % 2 == 0 {
            callers.spawn_local(mcp::plan(rest.clone(), own.fork()));
        }
        // The random pauses are the faults: they decide when the kill hits.
        tokio::time::sleep(MAX_PAUSE.mul_f64(random.below(100) as f64 / 100.0)).await;
        system.kill_one(&mut random).await;
        while callers.len() > MAX_CALLERS {
            observations.extend(callers.join_next().await.transpose().unwrap());
        }
        if round % 10 == 0 {
            let (secs, busy) = (began.elapsed().as_secs_f64(), callers.len());
            say(&format!("round {round} of {rounds}, {secs:.0} s, {busy} callers busy"));
        }
    }
    system.cluster.until_ready().await;
    say(&format!(
        "the last kill was {:.0} s after the first round; {}",
        began.elapsed().as_secs_f64(),
        system.kills()
    ));
    let last = tokio::time::timeout(SETTLE_LIMIT, async {
        while let Some(observation) = callers.join_next().await {
            observations.push(observation.unwrap());
        }
    });
    assert!(last.await.is_ok(), "{} callers got no answer", callers.len());
    say(&format!("the last caller had its answer after {:.0} s", began.elapsed().as_secs_f64()));
    check(&system, &observations, rounds).await;
    say(&format!("done after {:.0} s", began.elapsed().as_secs_f64()));

    let mark = format!("MARK={}", system.cluster.dir().display());
    system.cluster.stop().await;
    until("no process is left", async || pids_with_environment(&mark).is_empty()).await;
}

/// Starts the callers of one round.
fn spawn_callers(rest: &Rest, random: &mut Random, callers: &mut JoinSet<Observation>) {
    callers.spawn_local(callers::plan(rest.clone(), random.fork()));
    callers.spawn_local(callers::plan(rest.clone(), random.fork()));
    callers.spawn_local(callers::chat(rest.clone(), random.fork()));
    callers.spawn_local(callers::hang_up(rest.clone(), random.fork()));
    callers.spawn_local(callers::stream(rest.clone(), random.fork()));
    callers.spawn_local(responses::response(rest.clone(), random.fork()));
    callers.spawn_local(hostile::plan(rest.clone(), random.fork()));
}

/// Checks the journal against every observation, and the ledger of the agents.
async fn check(system: &System, observations: &[Observation], rounds: u64) {
    let journal = JournalSnapshot::read(&system.cluster.rest()).await;
    let again = journal.attempts_made_again();
    let executions = ledger::check(&system.ledger());
    ledger::check_approvals(&system.ledger(), observations);
    let (approvals, units) = (journal.approvals(), journal.ends_of("units"));
    eprintln!(
        "soak: {} requests; plans {:?}; {executions} executions, {again} of them made again; approvals {approvals:?}; calls of an \
         MCP server {units:?}",
        observations.len(),
        journal.ends()
    );
    if rounds >= POSTGRES_ROUNDS {
        for state in ["approved", "rejected", "expired"] {
            assert!(approvals.contains_key(state), "no task was {state}");
        }
        assert!(
            !system.has_mcp || units.contains_key("succeeded"),
            "no call of the MCP server has succeeded"
        );
    }
    journal.check_consistency();
    observations.iter().for_each(|observation| journal.check_observation(observation));
    let sum = async |name: &str| system.cluster.metrics(Role::Planner, name).await.iter().sum::<f64>();
    until("started = succeeded + failed, and none is in flight", async || {
        let ended =
            sum("orchestrator_plan_succeeded_total").await + sum("orchestrator_plan_failed_total").await;
        sum("orchestrator_plan_started_total").await == ended && sum("phoenix_plans_in_flight").await == 0.0
    })
    .await;
}
