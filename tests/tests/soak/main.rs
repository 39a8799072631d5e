//! Plans under fire: services are killed with SIGKILL at random while plans and chats are sent, watched, cancelled and
//! given up. In the end every plan has ended, agrees with its attempts, its events and whatever its caller was told, and
//! nothing is left running.
//!
//! Bounded and seeded: `PHOENIX_SOAK_ROUNDS` makes it longer, `PHOENIX_SOAK_SEED` repeats what is done, though not when
//! exactly (`cargo xtask soak --rounds N --seed S`).
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "helpers of tests are tests too")]

mod callers;
mod hostile;
mod ledger;
mod random;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use phoenix_platform::config::Role;
use phoenix_testkit::{services::Services, stack::pids_with_environment, wait::until};
use serde_json::json;
use tokio::task::{JoinSet, LocalSet};

use crate::{callers::Witness, ledger::Ledger, random::Random};

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// Rounds unless `PHOENIX_SOAK_ROUNDS` says otherwise. `cargo xtask ci` runs ten times as many.
const ROUNDS: u64 = 20;

const SEED: u64 = 20_261_123;

/// Callers that may be at it at once; while there are more, the next round waits. A plan of a killed planner is taken over
/// only when its lease has run out, several rounds later.
const CALLERS: usize = 60;

/// How long a round leaves its callers alone with their work, at most.
const QUIET: Duration = Duration::from_millis(1200);

/// By when every caller has its answer after the last service was killed.
const CALM: Duration = Duration::from_secs(90);

#[tokio::test]
async fn every_acknowledged_plan_ends_whatever_is_killed() {
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
    let mut witnesses = Vec::new();
    for round in 1..=rounds {
        call(&services, &mut random, &mut callers);
        let role = *random.one_of(Role::ALL);
        // Chance decides at which moment of their work the callers are hit, and how long they are left alone with it.
        tokio::time::sleep(QUIET.mul_f64(random.below(100) as f64 / 100.0)).await;
        services.kill(role).await;
        tokio::time::sleep(Duration::from_millis(*random.one_of(&[0, 0, 100, 300]))).await;
        services.start_one(role);
        while callers.len() > CALLERS {
            witnesses.extend(callers.join_next().await.transpose().unwrap());
        }
        if round % 10 == 0 {
            let (secs, busy) = (began.elapsed().as_secs_f64(), callers.len());
            eprintln!("soak: round {round} of {rounds}, {secs:.0} s, {busy} callers busy");
        }
    }
    services.until_ready().await;
    eprintln!("soak: the last service was killed after {:.0} s", began.elapsed().as_secs_f64());
    let last = tokio::time::timeout(CALM, async {
        while let Some(witness) = callers.join_next().await {
            witnesses.push(witness.unwrap());
        }
    });
    assert!(last.await.is_ok(), "{} callers wait in vain", callers.len());
    eprintln!("soak: the last caller had its answer after {:.0} s", began.elapsed().as_secs_f64());
    judge(&services, &witnesses).await;
    eprintln!("soak: done after {:.0} s", began.elapsed().as_secs_f64());

    let mark = format!("MARK={}", services.dir().display());
    for (role, status) in services.stop().await {
        assert!(status.success(), "the {role} ended with {status}");
    }
    until("nothing is left", async || pids_with_environment(&mark).is_empty()).await;
}

/// One round's callers.
fn call(services: &Services, random: &mut Random, callers: &mut JoinSet<Witness>) {
    callers.spawn_local(callers::plan(services.rest(), random.fork()));
    callers.spawn_local(callers::plan(services.rest(), random.fork()));
    callers.spawn_local(callers::chat(services.rest(), random.fork()));
    callers.spawn_local(callers::hang_up(services.rest(), random.fork()));
    callers.spawn_local(callers::stream(services.rest(), random.fork()));
    callers.spawn_local(hostile::plan(services.rest(), random.fork()));
}

/// What must hold in the end.
async fn judge(services: &Services, witnesses: &[Witness]) {
    let ledger = Ledger::read(&services.rest()).await;
    let again = ledger.attempts_made_again();
    eprintln!("soak: {} requests; plans {:?}; {again} attempts made again", witnesses.len(), ledger.ends());
    ledger.is_consistent();
    witnesses.iter().for_each(|witness| ledger.agrees_with(witness));
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
