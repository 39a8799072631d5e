//! Two planners on one database, of which each may take the other for dead.

use std::path::Path;

use nix::sys::signal::Signal;
use phoenix_platform::config::Role;
use phoenix_testkit::{
    services::{SecondPlanner, Services},
    wait::until,
};
use phoenix_testkit_postgres::{PgBouncer, Proxy, Server};
use serde_json::json;

use crate::{Fixture, SCRIPTED, faults, load::Load, log_of};

const RECOVERED: &str = "phoenix_plans_recovered_total";

/// Settings of an agent that answers when the file `held` is gone.
fn held_agent(folder: &Path) -> String {
    let held = folder.join("held");
    std::fs::write(&held, "").unwrap();
    let command = json!([SCRIPTED, "gate", "", held]);
    format!("[agents.held]\ncommand = {command}\nmode = \"oneshot\"\ntimeout_secs = 600\n")
}

#[tokio::test]
async fn outage_with_two_planners_costs_neither() {
    let Some(fixture) = Fixture::start("outage-of-two", &[]).await else { return };
    let mut second = fixture.services.start_second_planner().await;
    let mut other = Load::start(&second.rest());
    other.until_more().await;
    fixture.server.stop().await;
    tokio::time::sleep(faults::SHORT_OUTAGE).await;
    fixture.server.start_again().await;
    fixture.recovered("stopped under two planners").await;
    other.until_more().await;
    fixture.proxy.cut();
    tokio::time::sleep(faults::SHORT_OUTAGE).await;
    fixture.proxy.restore();
    fixture.recovered("two planners cut off").await;
    other.until_more().await;
    assert!(second.is_running(), "an outage of the database silences both, and kills neither");
    other.check(&fixture.services.rest()).await;
    fixture.check().await;
}

/// Waits until `survivor` has taken plans over, and checks that the planner of `cut` ends when its link is back.
async fn taken_over(recovered: impl AsyncFn() -> f64, cut: &Proxy) {
    let before = recovered().await;
    cut.cut();
    until("the plans of the planner that is cut off are taken over", async || recovered().await > before)
        .await;
    cut.restore();
}

#[tokio::test]
async fn planners_that_take_each_other_for_dead_lose_no_plan() {
    let Some(server) = Server::start().await else { return };
    let database = server.database().await;
    let (one, other) = (Proxy::start(server.port()).await, Proxy::start(server.port()).await);
    let folder = tempfile::tempdir().unwrap();
    let log = log_of("each-other");
    let mut services = Services::start_in(
        &[("DATABASE_URL", &one.url(&database))],
        &held_agent(folder.path()),
        "MARK",
        &log,
    )
    .await;
    let own_link = other.url(&database);
    let mut second = services.start_second_planner_in(&[("DATABASE_URL", &own_link)]).await;
    // Each has a plan that does not end before it is taken over.
    let mut plans = Vec::new();
    for rest in [services.rest(), second.rest()] {
        let body = json!({"message": "held", "agent": "held"});
        let plan_id = rest.submit("/api/v1/chat", body).await;
        until("the agent runs", async || rest.plan(&plan_id).await["tasks"][0]["status"] == "in_progress")
            .await;
        plans.push(plan_id);
    }
    let (mut first_load, mut second_load) = (Load::start(&services.rest()), Load::start(&second.rest()));
    first_load.until_more().await;
    second_load.until_more().await;

    taken_over(async || second.metric(RECOVERED).await, &one).await;
    assert_eq!(services.ended(Role::Planner).await.code(), Some(1), "so that a supervisor restarts it");
    services.start_one(Role::Planner);
    services.until_ready().await;
    first_load.until_more().await;
    taken_over(async || services.metric(Role::Planner, RECOVERED).await, &other).await;
    assert_eq!(second.wait().await.code(), Some(1), "so that a supervisor restarts it");
    first_load.until_more().await;
    let text = std::fs::read_to_string(&log).unwrap();
    assert_eq!(text.matches("another planner took this one for dead").count(), 2, "one line for each");

    std::fs::remove_file(folder.path().join("held")).unwrap();
    for plan_id in plans {
        let plan = services.rest().wait_for_end(&plan_id).await;
        assert_eq!(plan["output"], "held", "{plan}");
        let attempts = plan["tasks"][0]["attempts"].as_array().unwrap();
        let numbers: Vec<_> = attempts.iter().map(|attempt| attempt["number"].as_u64()).collect();
        assert!(numbers.len() > 1 && numbers.is_sorted_by(|one, other| one < other), "{plan}");
    }
    second_load.check(&services.rest()).await;
    first_load.check(&services.rest()).await;
    services.stop().await;
}

#[tokio::test]
async fn transaction_pooler_serves_chats_cancels_and_takeovers() {
    let Some(server) = Server::start().await else { return };
    let Some(pooler) = PgBouncer::start(&server).await else { return };
    let url = pooler.url(&server.database().await);
    let folder = tempfile::tempdir().unwrap();
    let environment = [("DATABASE_URL", &*url), ("DATABASE_POOLER", "transaction")];
    let config = held_agent(folder.path());
    // All of them share two connections to the server.
    let mut services = Services::start_in(&environment, &config, "MARK", &log_of("pooler")).await;
    let second: SecondPlanner = services.start_second_planner().await;
    let (mut first_load, mut second_load) = (Load::start(&services.rest()), Load::start(&second.rest()));
    first_load.until_more().await;
    second_load.until_more().await;

    let held = async || {
        let body = json!({"message": "held", "agent": "held"});
        let plan_id = second.rest().submit("/api/v1/chat", body).await;
        until("the agent runs", async || {
            services.rest().plan(&plan_id).await["tasks"][0]["status"] == "in_progress"
        })
        .await;
        plan_id
    };
    let (cancelled, continued) = (held().await, held().await);
    let cancel = format!("/api/v1/plans/{cancelled}:cancel");
    let answer = services.rest().post(&cancel, json!({"reason": "enough"})).await;
    assert_eq!((answer.status.as_u16(), answer.str("status")), (200, "cancelled"), "{}", answer.text);

    second.signal(Signal::SIGKILL);
    until("its plans are taken over", async || services.metric(Role::Planner, RECOVERED).await > 0.0).await;
    std::fs::remove_file(folder.path().join("held")).unwrap();
    let plan = services.rest().wait_for_end(&continued).await;
    assert_eq!(plan["output"], "held", "{plan}");
    first_load.until_more().await;
    second_load.check(&services.rest()).await;
    first_load.check(&services.rest()).await;
    services.stop().await;
}

#[tokio::test]
async fn stream_of_a_response_continues_with_the_next_planner() {
    let Some(server) = Server::start().await else { return };
    let url = server.database().await;
    let folder = tempfile::tempdir().unwrap();
    let held = folder.path().join("held");
    std::fs::write(&held, "").unwrap();
    let command = json!([SCRIPTED, "talk", "", held]);
    let config = format!("[agents.talk]\ncommand = {command}\ntimeout_secs = 600\n");
    let environment = [("DATABASE_URL", &*url)];
    let mut services = Services::start_in(&environment, &config, "MARK", &log_of("response")).await;
    let second: SecondPlanner = services.start_second_planner().await;
    let body = json!({"model": "talk", "input": "one two three", "background": true, "stream": true});
    let mut stream =
        second.rest().try_events("POST".parse().unwrap(), "/v1/responses", Some(body)).await.unwrap();
    let (mut id, mut last) = (String::new(), 0);
    while id.is_empty() || last < 4 {
        let event = stream.next().await.unwrap();
        last = event.data["sequence_number"].as_u64().unwrap();
        if event.event == "response.created" {
            id = event.data["response"]["id"].as_str().unwrap().to_owned();
        }
    }
    second.signal(Signal::SIGKILL);
    let path = format!("/v1/responses/{id}?stream=true&starting_after={last}");
    let mut stream = services.rest().try_events("GET".parse().unwrap(), &path, None).await.unwrap();
    let mut ended = Vec::new();
    while let Some(event) = stream.next().await {
        last += 1;
        assert_eq!(event.data["sequence_number"], last, "{event:?}");
        match event.event.as_str() {
            "response.output_text.delta" if held.exists() => std::fs::remove_file(&held).unwrap(),
            "response.output_item.done" => {
                let item = &event.data["item"];
                ended.push((item["status"].clone(), item["content"][0]["text"].clone()));
            }
            _ => {}
        }
    }
    let expected = [("incomplete", "one"), ("completed", "one two three")];
    assert_eq!(ended, expected.map(|(status, text)| (json!(status), json!(text))));
    services.stop().await;
}

#[tokio::test]
async fn newer_schema_refuses_a_start_and_ends_no_running_planner() {
    let Some(fixture) = Fixture::start("newer", &[]).await else { return };
    let migrated = "INSERT INTO phoenix_planner._sqlx_migrations
        (version, description, success, checksum, execution_time) VALUES (9999, 'from the future', TRUE, '', 0)";
    fixture.server.execute(&fixture.database, migrated).await;
    let (_, mut refused) = fixture.services.start_further(Role::Planner, &[]);
    let _stdin = refused.stdin.take();
    let ended = tokio::time::timeout(phoenix_testkit::wait::TIMEOUT, refused.wait()).await.unwrap().unwrap();
    assert!(!ended.success(), "{ended}");
    let text = std::fs::read_to_string(log_of("newer")).unwrap();
    let message = "was written by a newer version (its schema is 9999); start that version or a newer one";
    assert!(text.contains(message), "{text}");
    fixture.recovered("migrated by a newer version").await;

    // What a newer planner wrote about one plan affects no other plan.
    let rest = fixture.services.rest();
    let strange = rest.submit("/api/v1/chat", json!({"message": "strange", "agent": "echo_agent"})).await;
    rest.wait_for_end(&strange).await;
    let written = format!("UPDATE phoenix_planner.plans SET status = 'paused' WHERE plan_id = '{strange}'");
    fixture.server.execute(&fixture.database, &written).await;
    let answer = rest.get(&format!("/api/v1/plans/{strange}")).await;
    assert_eq!(answer.status.as_u16(), 500, "{}", answer.text);
    assert!(answer.text.contains("plans.status holds `paused`"), "{}", answer.text);
    fixture.recovered("written by a newer version").await;
    fixture.check().await;
}
