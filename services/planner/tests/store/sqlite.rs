//! What only concerns the store in a file.

use sqlx::{Connection, SqliteConnection, migrate::Migrator};

use crate::{sqlite, write};
use phoenix_domain::PlanId;
use phoenix_planner::store;

static MIGRATIONS: Migrator = sqlx::migrate!();

#[tokio::test]
async fn a_journal_of_the_first_version_is_read_on() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("journal.db").display());
    let mut file = SqliteConnection::connect(&url).await.unwrap();
    MIGRATIONS.run_to(1, &mut file).await.unwrap();
    let plan_id = PlanId::generate();
    let insert = format!(
        r#"INSERT INTO plans VALUES ('{plan_id}', '{plan_id}', 'graph', 'pending', 'gone', 1, NULL, NULL, '', NULL, NULL);
         INSERT INTO planners VALUES ('gone', 1);
         INSERT INTO tasks VALUES ('{plan_id}', 0, '{plan_id}', 'k', 'a', 'do', '{{}}', '[]', 'continue', 'dead_lettered',
                                   1, 2, 3, NULL, '{{"code":"timeout","message":"late","details":{{"error_class":"io"}}}}');
         INSERT INTO tasks VALUES ('{plan_id}', 1, '{plan_id}', 'l', 'a', 'do', '{{}}', '[]', 'continue', 'succeeded',
                                   1, 2, 3, '{{"output_type":"text","data":"","metadata":{{}}}}', NULL);
         INSERT INTO events (plan_id, kind, at, data) VALUES ('{plan_id}', 'plan_accepted', 1, '{{}}');
         INSERT INTO events (plan_id, kind, at, data) VALUES ('{plan_id}', 'other', 2, '{{}}');"#
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(insert)).execute(&mut file).await.unwrap();
    file.close().await.unwrap();

    let store = store::open(&url).await.unwrap();
    let events = store.events(plan_id, 0, 10).await.unwrap();
    assert_eq!(events.iter().map(|event| event.position).collect::<Vec<_>>(), [1, 2]);
    store.register("me").await.unwrap();
    let seen = store
        .planners()
        .await
        .unwrap()
        .into_iter()
        .filter(|known| known.planner == "gone")
        .collect::<Vec<_>>();
    assert_eq!(store.claim("me", &seen).await.unwrap().plans, [plan_id]);
    assert_eq!(store.open_dead_letters().await.unwrap().count, 1, "what had failed for good before");
    let plan = crate::new_plan(&["a"]);
    write(&*store, "me", &[crate::accepted(&plan)]).await.unwrap();
    assert_eq!(store.events(plan.plan_id, 0, 10).await.unwrap()[0].position, 3, "positions go on");
}

#[tokio::test]
async fn dead_letters_go_with_their_plans() {
    let fresh = sqlite().await;
    let [gone, stays] = [(); 2].map(|()| crate::new_plan(&["a", "b"]));
    write(&*fresh.store, "me", &[crate::life(&gone), crate::life(&stays)].concat()).await.unwrap();
    assert_eq!(fresh.store.open_dead_letters().await.unwrap().count, 2);
    let mut file = SqliteConnection::connect(&fresh.url).await.unwrap();
    sqlx::query("DELETE FROM plans WHERE plan_id = ?")
        .bind(gone.plan_id.to_string())
        .execute(&mut file)
        .await
        .unwrap();
    assert_eq!(fresh.store.open_dead_letters().await.unwrap().count, 1);
}

#[tokio::test]
async fn what_was_written_is_there_when_the_file_is_opened_again() {
    let fresh = sqlite().await;
    let plan = crate::new_plan(&["a"]);
    write(&*fresh.store, "me", &[crate::accepted(&plan)]).await.unwrap();
    let again = store::open(&fresh.url).await.unwrap();
    assert_eq!(again.plan(plan.plan_id).await.unwrap(), Some(plan));
}
