//! A file with damage in it: what can be read is read, and goes on.

use phoenix_domain::{PlanId, plan::Plan};
use phoenix_planner::store::{self, Entry, JournalError, PlanFilter};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::{Fresh, accepted, at, claim, life, new_plan, plan_ended, plan_ids, sqlite, task_of, write};

impl Fresh {
    async fn alter(&self, sql: String) {
        let mut file = SqliteConnection::connect(&self.url).await.unwrap();
        let altered = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut file).await.unwrap();
        assert_ne!(altered.rows_affected(), 0);
    }

    async fn lives(&self, plans: usize) -> Vec<Plan> {
        let plans: Vec<_> = (0..plans).map(|_| new_plan(&["a", "b"])).collect();
        for plan in &plans {
            write(&*self.store, "me", &life(plan)).await.unwrap();
        }
        // What is altered below is in the tables by then.
        self.store.plan(plans[0].plan_id).await.unwrap();
        plans
    }
}

#[tokio::test]
async fn a_plan_with_a_damaged_row_says_which_column_it_is_and_shows_nothing_of_it() {
    for (table, column, value) in [
        ("plans", "status", "'?'"),
        ("plans", "correlation_id", "'?'"),
        ("plans", "error", "'?'"),
        ("plans", "created_at", "9223372036854775807"),
        ("plans", "context", "CAST(x'ff' AS TEXT)"),
        ("tasks", "payload", "'{\"a secret\": '"),
        ("tasks", "payload", "'[\"a secret\"]'"),
        ("tasks", "status", "'?'"),
        ("tasks", "agent", "'../?'"),
        ("attempts", "outcome", "'?'"),
        ("attempts", "ordinal", "ordinal + 9"),
        ("events", "events", "'?'"),
    ] {
        let fresh = sqlite().await;
        let plan_id = fresh.lives(1).await[0].plan_id;
        // The database itself is none that checks what belongs together.
        fresh.alter(format!("PRAGMA foreign_keys = OFF; UPDATE {table} SET {column} = {value}")).await;
        let error = match table {
            "events" => fresh.store.events(plan_id, 0, 10).await.unwrap_err(),
            _ => fresh.store.plan(plan_id).await.unwrap_err(),
        };
        assert!(matches!(error, JournalError::Damaged(_)), "{table}.{column}: {error:?}");
        let error = error.to_string();
        assert!(error.contains(column) || column == "created_at", "{table}.{column}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn a_damaged_row_does_not_keep_the_rest_from_being_listed_page_by_page() {
    let fresh = sqlite().await;
    let plans = fresh.lives(7).await;
    let damaged = [plans[4].plan_id, plans[2].plan_id];
    let [one, other] = damaged;
    fresh.alter(format!("UPDATE plans SET status = '?' WHERE plan_id IN ('{one}', '{other}')")).await;
    let (mut listed, mut unreadable, mut before) = (Vec::new(), Vec::new(), None);
    loop {
        let filter = PlanFilter { before, limit: 3, ..PlanFilter::default() };
        let page = fresh.store.plans(&filter).await.unwrap();
        assert_eq!(
            page.items.len() + page.unreadable.len(),
            if before == Some(plans[1].plan_id) { 1 } else { 3 }
        );
        listed.extend(page.items.into_iter().map(|plan| plan.plan_id));
        unreadable.extend(page.unreadable.into_iter().map(|record| record.id));
        before = page.last;
        if before.is_none() {
            break;
        }
    }
    let readable = [6, 5, 3, 1, 0].map(|n| plans[n].plan_id);
    assert_eq!(listed, readable);
    assert_eq!(unreadable, damaged.map(|id| id.to_string()));
}

#[tokio::test]
async fn what_cannot_even_be_named_does_not_keep_the_rest_from_being_taken_over() {
    let fresh = sqlite().await;
    let plans = [new_plan(&["a"]), new_plan(&["a"])];
    write(&*fresh.store, "me", &[accepted(&plans[0]), accepted(&plans[1])]).await.unwrap();
    fresh.store.plan(plans[0].plan_id).await.unwrap();
    fresh
        .alter(format!(
            "PRAGMA foreign_keys = OFF; UPDATE plans SET plan_id = '?' WHERE plan_id = '{}';
             INSERT INTO sweeps VALUES ('?', '?', NULL, '', '?', 0, 'gone', 0, NULL)",
            plans[0].plan_id
        ))
        .await;
    fresh.store.register("heir").await.unwrap();
    fresh.store.release("me").await.unwrap();
    let claimed = claim(&*fresh.store, "heir", &[]).await;
    assert_eq!((plan_ids(&claimed), claimed.sweeps), (vec![plans[1].plan_id], Vec::new()));
    assert_eq!(claimed.unreadable.iter().map(|record| &*record.id).collect::<Vec<_>>(), ["?", "?"]);
    assert!(claim(&*fresh.store, "heir", &[]).await.unreadable.is_empty(), "told once");
}

/// Puts `entries` into the log between two plans that are well, looks for those, and counts what was set aside.
async fn between_two_plans(entries: &[u8]) -> (Vec<Option<Plan>>, i64) {
    let fresh = sqlite().await;
    let plans = [new_plan(&["a"]), new_plan(&["a"])];
    write(&*fresh.store, "me", &[accepted(&plans[0])]).await.unwrap();
    let mut file = SqliteConnection::connect(&fresh.url).await.unwrap();
    sqlx::query("INSERT INTO log (planner, entries) VALUES ('me', CAST(? AS TEXT))")
        .bind(entries)
        .execute(&mut file)
        .await
        .unwrap();
    write(&*fresh.store, "me", &[accepted(&plans[1]), plan_ended(&plans[1], 1)]).await.unwrap();
    // As after a restart: nothing is remembered of what was written.
    let later = store::open(&fresh.url).await.unwrap();
    let mut found = Vec::new();
    for plan in &plans {
        found.push(later.plan(plan.plan_id).await.ok().flatten());
    }
    let kept = "SELECT count(*) FROM log_set_aside WHERE entries = CAST(? AS TEXT)";
    let kept = sqlx::query_scalar(kept).bind(entries).fetch_one(&mut file).await.unwrap();
    (found, kept)
}

#[tokio::test]
async fn a_damaged_commit_is_set_aside_and_kept_and_the_rest_goes_on() {
    let lost = new_plan(&["a"]);
    let missing_plan =
        Entry::AttemptStarted { task: task_of(&lost, 0), number: 1, at: at(1), worker: "w".into() };
    let missing_plan = serde_json::to_vec(&[missing_plan]).unwrap();
    let id = PlanId::generate().to_string();
    for damaged in [b"no JSON".as_slice(), b"[{", b"[\"\xff\"]", b"", missing_plan.as_slice(), id.as_bytes()]
    {
        let (found, kept) = between_two_plans(damaged).await;
        let shown = String::from_utf8_lossy(damaged);
        assert!(found.iter().all(Option::is_some), "{shown}: {found:?}");
        assert_eq!(kept, 1, "{shown}");
    }
}

#[tokio::test]
async fn a_commit_of_another_version_is_not_damaged_and_waits_for_that_version() {
    let (found, kept) = between_two_plans(br#"[{"from_the_future": {}}]"#).await;
    assert_eq!((found, kept), (vec![None, None], 0));
}
