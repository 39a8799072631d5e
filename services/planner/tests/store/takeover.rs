//! Takeovers in PostgreSQL that break between two pages, and two at once.

use std::collections::HashSet;

use phoenix_planner::store::{BulkAction, DeadLetterFilter, TakeoverScope};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{accepted, append, at, dead_letters::bulk, new_plan, plan_ids, postgres, take_over, write};

#[tokio::test]
async fn plans_of_a_takeover_that_broke_are_returned_once() {
    // More than a page.
    const PLANS: usize = 600;
    let Some(fresh) = postgres().await else { return };
    let store = &*fresh.store;
    let plans: Vec<_> = (0..PLANS).map(|_| new_plan(&["a"])).collect();
    let groups: Vec<_> = plans.iter().map(|plan| vec![accepted(plan)].into()).collect();
    append(store, "me", &groups).await.unwrap();
    store.register("heir").await.unwrap();
    store.release("me").await.unwrap();
    let last = plans.iter().map(|plan| plan.plan_id).max().unwrap();
    let mut database = PgConnection::connect(&fresh.url).await.unwrap();
    let broken = format!(
        "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'broken'; END $$;
         CREATE TRIGGER broken BEFORE UPDATE ON phoenix_planner.plans FOR EACH ROW WHEN (OLD.plan_id = '{last}')
         EXECUTE FUNCTION broken()"
    );
    sqlx::raw_sql(AssertSqlSafe(broken)).execute(&mut database).await.unwrap();
    let scope = TakeoverScope::default();
    let first = store.take_over("heir", &[], &scope, at(0)).await.unwrap();
    assert_eq!(first.plans.len(), 500, "the first page");
    assert!(store.take_over("heir", &[], &scope, at(0)).await.is_err(), "still broken, and nothing new");
    let repaired = "DROP TRIGGER broken ON phoenix_planner.plans";
    sqlx::raw_sql(repaired).execute(&mut database).await.unwrap();
    let rest = store.take_over("heir", &[], &scope, at(0)).await.unwrap();
    assert_eq!(rest.plans.len(), PLANS - 500);
    let all: HashSet<_> = plan_ids(&first).into_iter().chain(plan_ids(&rest)).collect();
    assert_eq!(all.len(), PLANS);
    assert_eq!(store.take_over("heir", &[], &scope, at(0)).await.unwrap().plans, []);
}

/// One planner takes everything over while the statement of another one, which has already read who is gone, is held up.
#[tokio::test]
async fn takeover_that_started_before_another_ended_takes_nothing() {
    let plans = (0..3).map(|_| accepted(&new_plan(&["a"]))).collect();
    let (_, operation) = bulk(BulkAction::Redrive { rate: 0.5 }, DeadLetterFilter::default(), 9);
    for entries in [plans, vec![operation]] {
        let Some(fresh) = postgres().await else { return };
        let store = &fresh.store;
        write(&**store, "me", &entries).await.unwrap();
        for heir in ["x", "y"] {
            store.register(heir).await.unwrap();
        }
        store.release("me").await.unwrap();
        let mut observer = PgConnection::connect(&fresh.url).await.unwrap();
        let mut holder = PgConnection::connect(&fresh.url).await.unwrap();
        let mut held = holder.begin().await.unwrap();
        let hold = "SELECT FROM phoenix_planner.writers WHERE planner = 'y' AND writer = -1 FOR UPDATE";
        sqlx::raw_sql(hold).execute(&mut *held).await.unwrap();
        let late_store = store.clone();
        let late = tokio::spawn(async move { take_over(&*late_store, "y", &[]).await });
        let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')";
        while !sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut observer).await.unwrap() {
            assert!(!late.is_finished(), "it is held up");
            tokio::task::yield_now().await;
        }
        let first = take_over(&**store, "x", &[]).await;
        assert_eq!(first.plans.len() + first.bulk.len(), entries.len());
        held.rollback().await.unwrap();
        let late = late.await.unwrap();
        assert_eq!((late.plans, late.bulk), (Vec::new(), Vec::new()));
    }
}
