//! Watchers of plans: what notifies them, and that they write nothing.

use futures_util::FutureExt;
use jiff::Timestamp;
use phoenix_domain::PlanId;
use phoenix_planner::{
    journal::Journal,
    store::{Entry, TaskRef},
};
use phoenix_platform::readiness::Readiness;
use phoenix_proto::planner::WatchPlanRequest;
use sqlx::{Connection, SqliteConnection};
use tokio_stream::StreamExt;

use crate::support::{PATIENCE, Script, TestPlanner, eventually, graph, new_plan, task};

async fn patiently<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait).await.expect("it comes in time")
}

async fn accept(journal: &Journal) -> PlanId {
    let plan = new_plan(Timestamp::now(), &["model"]);
    let plan_id = plan.plan_id;
    journal.create(vec![Entry::PlanAccepted { trace: None, plan: plan.into() }]).await.unwrap();
    plan_id
}

#[tokio::test]
async fn commit_wakes_only_watchers_of_its_own_plans() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("planner.db").display());
    let journal = Journal::open(&url, Readiness::needing(&[])).await.unwrap();
    let (changing, idle) = (accept(&journal).await, accept(&journal).await);
    assert_eq!(journal.events(idle, 0, 10).await.unwrap().len(), 1);
    let mut watchers: Vec<_> = (0..3).map(|_| journal.watch(changing)).collect();
    let mut others: Vec<_> = (0..3).map(|_| journal.watch(idle)).collect();
    // Earlier commits may notify them once, until the next poll.
    let other_planners = PlanId::generate();
    let mut marker = journal.watch(other_planners);
    let mut file = SqliteConnection::connect(&url).await.unwrap();
    let written = format!(
        "BEGIN IMMEDIATE; UPDATE journal SET position = position + 1;
         INSERT INTO events SELECT '{other_planners}', position, '[]' FROM journal; COMMIT"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(written)).execute(&mut file).await.unwrap();
    patiently(marker.changed()).await;
    for watcher in watchers.iter_mut().chain(&mut others) {
        let _ = watcher.changed().now_or_never();
    }
    for step in 1..=5 {
        let task = TaskRef { plan_id: changing, ordinal: 0 };
        journal.append(Entry::TaskDispatched { task, at: Timestamp::now() }).await.unwrap();
        for watcher in &mut watchers {
            patiently(watcher.changed()).await;
        }
        let events = journal.applied_events(changing, 0, 100).await.unwrap();
        assert_eq!(events.len(), 1 + step, "the event of the notification can be read");
    }
    for watcher in &mut others {
        assert!(watcher.changed().now_or_never().is_none(), "its plan has not changed");
    }
}

/// Commits of another planner are found without applying the log.
#[tokio::test]
async fn watchers_of_idle_plan_write_nothing() {
    let planner = TestPlanner::new().await;
    planner.script("model", Script::Hangs);
    let request = graph(vec![task("a", "model", "{}", &[])]);
    let plan_id = planner.client.clone().submit_plan(request).await.unwrap().into_inner().plan_id;
    let mut streams = Vec::new();
    for _ in 0..20 {
        let request = WatchPlanRequest { plan_id: plan_id.clone(), ..Default::default() };
        let mut events = planner.client.clone().watch_plan(request).await.unwrap().into_inner();
        while patiently(events.next()).await.unwrap().unwrap().kind != "attempt_started" {}
        streams.push(events);
    }
    let mut file = SqliteConnection::connect(&planner.database_url).await.unwrap();
    let in_log = "SELECT count(*) FROM log";
    eventually(async || {
        let mut file = SqliteConnection::connect(&planner.database_url).await.unwrap();
        sqlx::query_scalar::<_, i64>(in_log).fetch_one(&mut file).await.unwrap() == 0
    })
    .await;
    // As another planner leaves it: a commit that is not applied yet, and an event that is.
    let foreign = "
        BEGIN IMMEDIATE;
        INSERT INTO log (planner, entries) SELECT instance, '[]' FROM planners LIMIT 1;
        UPDATE journal SET position = position + 1;
        INSERT INTO events (plan_id, position, events)
        SELECT plan_id, (SELECT position FROM journal), json_array(json_array(NULL, 'plan_noted', 1, json('{}'))) FROM plans;
        COMMIT";
    // The planner itself may still apply its own earlier commits, once.
    for _ in 0..3 {
        sqlx::raw_sql(foreign).execute(&mut file).await.unwrap();
        for events in &mut streams {
            assert_eq!(patiently(events.next()).await.unwrap().unwrap().kind, "plan_noted");
        }
        let left: i64 = sqlx::query_scalar(in_log).fetch_one(&mut file).await.unwrap();
        if left > 0 {
            return;
        }
    }
    panic!("watchers apply the log");
}
