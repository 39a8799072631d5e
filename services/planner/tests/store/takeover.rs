//! Takeovers in PostgreSQL that break between two pages.

use std::collections::HashSet;

use phoenix_planner::store::TakeoverScope;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{accepted, append, at, new_plan, plan_ids, postgres};

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
