//! Fault injection: services are killed with SIGKILL at random while plans and chats are sent, watched, cancelled and
//! abandoned. In the end every plan has ended and is consistent with its attempts, its events and the responses that its
//! caller got, and no process is left.
//!
//! Bounded and seeded: `PHOENIX_SOAK_ROUNDS` sets the length, `PHOENIX_SOAK_SEED` repeats the actions, but not their exact
//! times (`cargo xtask soak --rounds N --seed S`).
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "helpers of tests")]

mod callers;
mod hostile;
mod journal;
mod random;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use phoenix_platform::config::Role;
use phoenix_testkit::{processes::pids_with_environment, services::Services, wait::until};
use serde_json::json;
use tokio::task::{JoinSet, LocalSet};

use crate::{callers::Observation, journal::JournalSnapshot, random::Random};

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// Rounds unless `PHOENIX_SOAK_ROUNDS` sets another number. `cargo xtask ci` runs ten times as many.
const ROUNDS: u64 = 20;

const SEED: u64 = 20_261_123;

/// Most concurrent callers; while there are more, the next round waits. A plan of a killed planner is taken over only when
/// its lease has expired, several rounds later.
const MAX_CALLERS: usize = 60;

/// Longest pause of a round before its kill.
const MAX_PAUSE: Duration = Duration::from_millis(1200);

/// Time in which every caller gets its answer after the last kill.
const SETTLE_LIMIT: Duration = Duration::from_secs(90);

#[tokio::test]
async fn every_acknowledged_plan_ends_under_random_kills() {
    LocalSet::new().run_until(soak()).await;
}

async fn soak() {
    let setting = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let rounds = setting("PHOENIX_SOAK_ROUNDS").unwrap_or(ROUNDS);
    let seed = setting("PHOENIX_SOAK_SEED").unwrap_or(SEED);
    let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join("soak.log");
    eprintln!("soak: {rounds} rounds, seed {seed}; the services log to {}", log.display());
    let mut random = Random(seed);
    let mut services = Services::start(&config(), "MARK", &log).await;
    let began = Instant::now();
    let mut callers = JoinSet::new();
    let mut observations = Vec::new();
    for round in 1..=rounds {
        spawn_callers(&services, &mut random, &mut callers);
        let role = *random.choose(Role::ALL);
        // The random pauses are the faults: they decide when the kill hits and how long the service is down.
        tokio::time::sleep(MAX_PAUSE.mul_f64(random.below(100) as f64 / 100.0)).await;
        services.kill(role).await;
        tokio::time::sleep(Duration::from_millis(*random.choose(&[0, 0, 100, 300]))).await;
        services.start_one(role);
        while callers.len() > MAX_CALLERS {
            observations.extend(callers.join_next().await.transpose().unwrap());
        }
        if round % 10 == 0 {
            let (secs, busy) = (began.elapsed().as_secs_f64(), callers.len());
            eprintln!("soak: round {round} of {rounds}, {secs:.0} s, {busy} callers busy");
        }
    }
    services.until_ready().await;
    eprintln!("soak: the last service was killed after {:.0} s", began.elapsed().as_secs_f64());
    let last = tokio::time::timeout(SETTLE_LIMIT, async {
        while let Some(observation) = callers.join_next().await {
            observations.push(observation.unwrap());
        }
    });
    assert!(last.await.is_ok(), "{} callers got no answer", callers.len());
    eprintln!("soak: the last caller had its answer after {:.0} s", began.elapsed().as_secs_f64());
    check(&services, &observations).await;
    eprintln!("soak: done after {:.0} s", began.elapsed().as_secs_f64());

    let mark = format!("MARK={}", services.dir().display());
    for (role, status) in services.stop().await {
        assert!(status.success(), "the {role} ended with {status}");
    }
    until("no process is left", async || pids_with_environment(&mark).is_empty()).await;
}

/// Starts the callers of one round.
fn spawn_callers(services: &Services, random: &mut Random, callers: &mut JoinSet<Observation>) {
    callers.spawn_local(callers::plan(services.rest(), random.fork()));
    callers.spawn_local(callers::plan(services.rest(), random.fork()));
    callers.spawn_local(callers::chat(services.rest(), random.fork()));
    callers.spawn_local(callers::hang_up(services.rest(), random.fork()));
    callers.spawn_local(callers::stream(services.rest(), random.fork()));
    callers.spawn_local(hostile::plan(services.rest(), random.fork()));
}

/// Checks the journal against every observation.
async fn check(services: &Services, observations: &[Observation]) {
    let journal = JournalSnapshot::read(&services.rest()).await;
    let again = journal.attempts_made_again();
    eprintln!(
        "soak: {} requests; plans {:?}; {again} attempts made again",
        observations.len(),
        journal.ends()
    );
    journal.check_consistency();
    observations.iter().for_each(|observation| journal.check_observation(observation));
    let count = async |name: &str| services.metric(Role::Planner, name).await;
    until("started = succeeded + failed, and none is in flight", async || {
        let ended =
            count("orchestrator_plan_succeeded_total").await + count("orchestrator_plan_failed_total").await;
        count("orchestrator_plan_started_total").await == ended
            && count("phoenix_plans_in_flight").await == 0.0
    })
    .await;
}

fn config() -> String {
    let agent = |name: &str, mode: &str, how: &str| {
        let command = json!([SCRIPTED, mode]);
        format!(
            "[agents.{name}]\ncommand = {command}\nmode = \"{how}\"\nenv = [\"PATH\", \"MARK\"]\n\
             [agents.{name}.retry]\nmax_attempts = 2\ninitial_backoff_ms = 10\n\
             [agents.{name}.circuit_breaker]\nfailure_threshold = 1000000\n"
        )
    };
    agent("quick", "echo", "workers")
        + &agent("once", "echo", "oneshot")
        + &agent("bad", "fail", "workers")
        + &agent("slow", "slow", "workers")
        + &agent("large", "large", "oneshot")
        + &agent("deep", "deep", "oneshot")
}
