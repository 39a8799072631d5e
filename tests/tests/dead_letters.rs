//! Redrive of dead letters over REST, through killed planners.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{collections::BTreeSet, path::Path};

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{
    http::Rest,
    sandbox::Sandbox,
    stack::Stack,
    wait::{until, until_some},
};
use serde_json::{Value, json};

const SCRIPTED: &str = env!("CARGO_BIN_EXE_scripted_agent");

/// An agent that fails while `broken` exists, and records each of its starts.
fn agent(name: &str, dir: &Path, broken: &Path) -> String {
    let command = json!([SCRIPTED, "fail", dir.join(format!("{name}.starts")), broken]);
    format!(
        "[agents.{name}]\ncommand = {command}\n[agents.{name}.retry]\nmax_attempts = 1\n\
         [agents.{name}.circuit_breaker]\nfailure_threshold = 1000\n"
    )
}

fn starts(dir: &Path, name: &str) -> usize {
    std::fs::read_to_string(dir.join(format!("{name}.starts"))).map_or(0, |text| text.lines().count())
}

async fn dead_letters(rest: &Rest, query: &str) -> Vec<Value> {
    let answer = rest.get(&format!("/api/v1/dead-letters?page_size=500&{query}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json["dead_letters"].as_array().unwrap().clone()
}

#[tokio::test]
async fn redrive_finishes_a_failed_plan_without_repeating_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, broken) = (dir.path(), dir.path().join("broken"));
    std::fs::write(&broken, "").unwrap();
    let sandbox =
        Sandbox::start(&(agent("good", dir, &dir.join("nothing")) + &agent("flaky", dir, &broken))).await;
    let rest = sandbox.rest();
    let task = |key: &str, agent: &str, message: &str| json!({"key": key, "agent": agent, "action": "chat", "input": {"message": message}});
    let plan = json!({"tasks": [
        task("first", "good", "one"),
        task("second", "flaky", "{{tasks.first.output}} two"),
        task("third", "good", "{{tasks.second.output}} three"),
    ]});
    let failed = rest.post("/api/v1/plans", plan).await;
    assert_eq!((failed.status.as_u16(), failed.str("status")), (200, "failed"), "{}", failed.text);
    let [letter] = &dead_letters(&rest, "agent=flaky").await[..] else { panic!("one dead letter") };
    assert_eq!((&letter["plan_id"], &letter["key"]), (&failed.json["plan_id"], &json!("second")));
    assert_eq!((&letter["attempts"], &letter["error"]["code"]), (&json!(1), &json!("execution_failed")));
    assert_eq!((&letter["state"], &letter["settled"]), (&json!("open"), &json!(null)));

    let redrive = format!("/api/v1/plans/{}:redrive", failed.str("plan_id"));
    std::fs::remove_file(&broken).unwrap();
    let named = rest.clone().with_header("idempotency-key", "redrive-1");
    let redriven = named.post(&redrive, json!({"reason": "fixed"})).await;
    assert_eq!(
        (redriven.status.as_u16(), redriven.str("output")),
        (200, "one two three"),
        "{}",
        redriven.text
    );
    assert_eq!(
        (starts(dir, "good"), starts(dir, "flaky")),
        (2, 2),
        "tasks that had succeeded were not run again"
    );
    let tasks = redriven.json["tasks"].as_array().unwrap();
    let attempts: Vec<_> = tasks.iter().map(|task| task["attempts"].as_array().unwrap().len()).collect();
    assert_eq!(attempts, [0, 1, 1]);
    assert_eq!(redriven.json["redrive_of"], failed.json["plan_id"]);

    let again = named.post(&redrive, json!({"reason": "fixed"})).await;
    assert_eq!((again.status.as_u16(), &again.json["plan_id"]), (200, &redriven.json["plan_id"]));
    let other = rest.post(&redrive, json!({})).await;
    assert_eq!((other.status.as_u16(), other.str("code")), (409, "conflict"), "{}", other.text);
    assert_eq!(other.json["details"]["redriven_as"], redriven.json["plan_id"]);
    assert!(dead_letters(&rest, "").await.is_empty());
    let settled = dead_letters(&rest, "state=redriven").await[0]["settled"].clone();
    assert_eq!((&settled["redriven_as"], &settled["reason"]), (&redriven.json["plan_id"], &json!("fixed")));
    assert_eq!(settled["correlation_id"], redriven.header("x-correlation-id"));
    let old = rest.get(&format!("/api/v1/plans/{}", failed.str("plan_id"))).await;
    assert_eq!((old.str("status"), &old.json["redriven_as"]), ("failed", &redriven.json["plan_id"]));
}

#[tokio::test]
async fn bulk_redrive_survives_killed_planners_without_duplicates() {
    const CHATS: usize = 9;
    let builder = Stack::builder();
    let dir = builder.dir().to_owned();
    let broken = dir.join("broken");
    std::fs::write(&broken, "").unwrap();
    let stack = builder.config(&agent("flaky", &dir, &broken)).start().await;
    let rest = stack.rest();
    let count = async |name: &str| stack.metric(Role::Planner, name).await;
    for n in 0..CHATS {
        assert_eq!(rest.chat_with("flaky", &format!("hello {n}")).await.status, 502);
    }
    until("the gauge counts every dead letter", async || count("phoenix_dead_letters_open").await == 9.0)
        .await;
    until("the age of the oldest grows", async || count("phoenix_dead_letters_oldest_seconds").await > 0.0)
        .await;
    std::fs::remove_file(&broken).unwrap();
    let body =
        json!({"filter": {"agent": "flaky"}, "rate_per_second": 3, "limit": CHATS - 1, "reason": "fixed"});
    let begun = rest.post("/api/v1/dead-letters:redrive", body).await;
    assert_eq!((begun.status.as_u16(), &begun.json["selected"]), (202, &json!(CHATS - 1)), "{}", begun.text);
    let redriven = async || {
        let answer =
            rest.try_send("GET".parse().unwrap(), "/api/v1/dead-letters?state=redriven", None).await?;
        Some(answer.json["dead_letters"].as_array()?.clone())
    };
    for killed_after in [2, 4] {
        until("some are redriven", async || {
            redriven().await.is_some_and(|letters| letters.len() >= killed_after)
        })
        .await;
        let killed = stack.role_pid(Role::Planner).unwrap();
        stack.signal_role(Role::Planner, Signal::SIGKILL);
        until("another planner runs", async || {
            stack.role_pid(Role::Planner).is_some_and(|pid| pid != killed)
        })
        .await;
    }
    let letters = until_some("every selected dead letter is redriven", async || {
        redriven().await.filter(|letters| letters.len() == CHATS - 1)
    })
    .await;
    let new: BTreeSet<_> =
        letters.iter().map(|letter| letter["settled"]["redriven_as"].as_str().unwrap()).collect();
    assert_eq!(new.len(), CHATS - 1, "one new plan each");
    let made = format!("/api/v1/plans?correlation_id={}", begun.str("correlation_id"));
    until("the new plans have succeeded, and there are no others", async || {
        let plans = rest.get(&made).await.json["plans"].as_array().unwrap().clone();
        assert!(plans.len() < CHATS, "none was redriven twice: {plans:?}");
        plans.iter().filter(|plan| plan["status"] == "succeeded").count() == CHATS - 1
    })
    .await;
    until("one dead letter is left", async || count("phoenix_dead_letters_open").await == 1.0).await;

    let body = json!({"filter": {}, "reason": "not needed"});
    let discarded = rest.post("/api/v1/dead-letters:discard", body).await;
    assert_eq!(
        (discarded.status.as_u16(), &discarded.json["discarded"]),
        (200, &json!(1)),
        "{}",
        discarded.text
    );
    until("no dead letter is left", async || {
        count("phoenix_dead_letters_open").await == 0.0
            && count("phoenix_dead_letters_oldest_seconds").await == 0.0
    })
    .await;
    assert_eq!(count("phoenix_dead_letters_discarded_total").await, 1.0);
}
