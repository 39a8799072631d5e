//! Plans under fire: services are killed with SIGKILL at random while plans are sent, and in the end every plan that was
//! acknowledged has ended, consistently with its attempts, and nothing is left running.
//!
//! Bounded and seeded. `PHOENIX_SOAK_ROUNDS` makes it longer, `PHOENIX_SOAK_SEED` repeats a run.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests too")]

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{
    http::Rest,
    stack::{Stack, pids_with_environment},
    wait::{until, until_some},
};
use serde_json::{Value, json};

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// Rounds of a run that nobody asked to be longer.
const ROUNDS: u64 = 40;

const PLANS_PER_ROUND: u64 = 3;

#[tokio::test]
async fn every_acknowledged_plan_ends_whatever_is_killed() {
    let setting = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let rounds = setting("PHOENIX_SOAK_ROUNDS").unwrap_or(ROUNDS);
    let mut random = Random(setting("PHOENIX_SOAK_SEED").unwrap_or(20_261_123));
    let builder = Stack::builder();
    let dir = builder.dir().to_owned();
    let mut stack = builder.config(&config()).env("MARK", dir.display().to_string()).start().await;
    let mut acknowledged = BTreeMap::new();
    for round in 0..rounds {
        for n in 0..PLANS_PER_ROUND {
            let key = format!("plan-{round}-{n}");
            let plan_id = submit(&stack, &key, &plan(&mut random)).await;
            assert!(acknowledged.insert(plan_id, key).is_none(), "a key stands for one plan");
        }
        let role = Role::ALL[random.below(4)];
        // It may be on its way back from the last round.
        if stack.role_pid(role).is_some() {
            stack.signal_role(role, Signal::SIGKILL);
        }
    }
    let rest = stack.rest();
    for (plan_id, key) in &acknowledged {
        let plan = until_some(&format!("plan {key} ({plan_id}) has ended"), async || {
            let path = format!("/api/v1/plans/{plan_id}");
            let plan = rest.try_send("GET".parse().unwrap(), &path, None).await?;
            (plan.status == 200 && plan.json["ended_at"].is_string()).then_some(plan.json)
        })
        .await;
        check(&plan);
    }
    let count = async |name: &str| stack.metric(Role::Planner, name).await;
    until("started = succeeded + failed, and none is in flight", async || {
        let ended =
            count("orchestrator_plan_succeeded_total").await + count("orchestrator_plan_failed_total").await;
        count("orchestrator_plan_started_total").await == ended
            && count("phoenix_plans_in_flight").await == 0.0
    })
    .await;
    assert_eq!(stack.stop().await, Some(0), "{}", stack.stderr_text());
    let mark = format!("MARK={}", dir.display());
    until("nothing is left", async || pids_with_environment(&mark).is_empty()).await;
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
}

/// One to four tasks; most succeed, some fail, some failures are survived.
fn plan(random: &mut Random) -> Value {
    let agents = ["quick", "once", "quick", "slow", "bad"];
    let tasks: Vec<_> = (0..=random.below(4))
        .map(|n| {
            let depends_on: Vec<_> =
                (0..n).filter(|_| random.below(3) == 0).map(|before| format!("t{before}")).collect();
            let agent = agents[random.below(agents.len())];
            let on_failure = if random.below(2) == 0 { "fail" } else { "continue" };
            json!({"key": format!("t{n}"), "agent": agent, "action": "chat", "input": {"message": "hi"},
                   "depends_on": depends_on, "on_failure": on_failure})
        })
        .collect();
    json!({"tasks": tasks})
}

/// Sends a plan until it is acknowledged; the key makes sure that it is one plan however often it is sent.
async fn submit(stack: &Stack, key: &str, plan: &Value) -> String {
    let rest: Rest = stack.rest().with_header("prefer", "respond-async").with_header("idempotency-key", key);
    until_some(&format!("{key} is acknowledged"), async || {
        let answer = rest.try_send("POST".parse().unwrap(), "/api/v1/plans", Some(plan.clone())).await?;
        match answer.status.as_u16() {
            202 => Some(answer.str("plan_id").to_owned()),
            // Somebody is down at the moment, or the first try is still being taken in.
            409 | 503 | 504 => None,
            other => panic!("{key} was answered with {other}: {}", answer.text),
        }
    })
    .await
}

/// What an ended plan says of its tasks and attempts agrees with itself.
fn check(plan: &Value) {
    let status = plan["status"].as_str().unwrap();
    let mut survived = true;
    for task in plan["tasks"].as_array().unwrap() {
        let attempts = task["attempts"].as_array().unwrap();
        for (n, attempt) in attempts.iter().enumerate() {
            assert_eq!(attempt["number"], n + 1, "attempts are numbered without holes: {plan:#}");
            assert!(attempt["outcome"].is_string(), "no attempt of an ended plan is open: {plan:#}");
        }
        let last = attempts.last().map(|attempt| attempt["outcome"].as_str().unwrap());
        match task["status"].as_str().unwrap() {
            "succeeded" => assert_eq!(last, Some("succeeded"), "{plan:#}"),
            "dead_lettered" => {
                assert_ne!(last, Some("succeeded"), "{plan:#}");
                survived &= task["on_failure"] == "continue";
            }
            "cancelled" => survived = false,
            other => panic!("a task of an ended plan is {other}: {plan:#}"),
        }
    }
    assert_eq!(status == "succeeded", survived, "{plan:#}");
}

/// A small generator with a seed (SplitMix64, <https://prng.di.unimi.it/splitmix64.c>), so that a run can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(limit).unwrap()).unwrap()
    }
}
