//! Properties of the SQLite store.

use std::time::Duration;

use phoenix_domain::PlanId;
use phoenix_planner::store::{self, OldPlans, PlanFilter, Store};
use sqlx::{Connection, SqliteConnection, migrate::Migrator};

use crate::{at, fill, sqlite, write};

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

#[tokio::test]
async fn journal_of_first_version_is_migrated() {
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
    assert_eq!(crate::taken_over(&*store, "me", &seen).await, [plan_id]);
    assert_eq!(store.open_dead_letters().await.unwrap().count, 1, "earlier dead letters");
    let plan = crate::new_plan(&["a"]);
    write(&*store, "me", &[crate::accepted(&plan)]).await.unwrap();
    assert_eq!(store.events(plan.plan_id, 0, 10).await.unwrap()[0].position, 3, "positions grow");
}

/// Journals of before migration 19 hold most chats as documents.
#[tokio::test]
async fn stored_documents_become_rows() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("journal.db").display());
    let mut file = SqliteConnection::connect(&url).await.unwrap();
    MIGRATIONS.run_to(17, &mut file).await.unwrap();
    let [whole, no_json, incomplete] = [(); 3].map(|()| PlanId::generate());
    let task = r#"{"task_id":"ID","key":"k","agent":"a","action":"do","payload":{"n":12345678901234567890123,"t":"ä\u0041"},
                   "depends_on":[],"on_failure":"fail","status":"succeeded","queued_at":1,"dispatched_at":2,"ended_at":3,
                   "output":{"output_type":"text","data":"done","metadata":{}}}"#;
    let attempts = r#"[{"number":1,"started_at":2,"worker":"pid 1","ended_at":3,"outcome":"failed","error_class":"timeout",
                        "message":"late","stderr_tail":"stderr"},
                       {"number":2,"started_at":4,"worker":"pid 2","ended_at":5,"outcome":"succeeded"}]"#;
    let document = format!(r#"{{"task":{task},"attempts":{attempts}}}"#).replace("ID", &whole.to_string());
    let events = r#"[[null,"plan_accepted",1,{}],[0,"task_dispatched",2,{}]]"#;
    for (plan_id, position, document) in
        [(whole, 1, &*document), (no_json, 3, "{\"task"), (incomplete, 5, "{}")]
    {
        sqlx::query("INSERT INTO documents (position, document, events) VALUES (?, ?, ?)")
            .bind(position)
            .bind(document)
            .bind(events)
            .execute(&mut file)
            .await
            .unwrap();
        sqlx::query(
            "INSERT INTO plans (plan_id, correlation_id, kind, status, owner, created_at, ended_at, context, document, agent)
             VALUES (?1, ?1, 'chat', 'succeeded', 'gone', 1, 3, '', ?2, 'a')",
        )
        .bind(plan_id.to_string())
        .bind(position)
        .execute(&mut file)
        .await
        .unwrap();
    }
    sqlx::raw_sql("UPDATE journal SET position = 6").execute(&mut file).await.unwrap();
    file.close().await.unwrap();

    let store = store::open(&url).await.unwrap();
    let plan = store.plan(whole).await.unwrap().unwrap();
    let [task] = &plan.tasks[..] else { panic!("{plan:?}") };
    assert_eq!(task.spec.payload.to_string(), r#"{"n":12345678901234567890123,"t":"äA"}"#);
    assert_eq!((plan.output.as_deref(), task.attempts.len()), (Some("done"), 2));
    assert_eq!(store.events(whole, 0, 10).await.unwrap().len(), 2);
    let of_agent = PlanFilter { agent: "a".parse().ok(), limit: 10, ..PlanFilter::default() };
    assert_eq!(store.plans(&of_agent).await.unwrap().items.len(), 1);
    for damaged in [no_json, incomplete] {
        let error = store.plan(damaged).await.unwrap_err();
        assert!(error.to_string().contains("quarantine"), "{error}");
    }
    let next = crate::new_plan(&["a"]);
    store.register("me").await.unwrap();
    write(&*store, "me", &[crate::accepted(&next)]).await.unwrap();
    assert_eq!(store.events(next.plan_id, 0, 10).await.unwrap()[0].position, 7);
}

/// A migration may remove what the older version uses, so it needs the older planners stopped.
#[tokio::test]
async fn file_is_migrated_when_its_older_planner_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}?mode=rwc", folder.path().join("journal.db").display());
    let mut file = SqliteConnection::connect(&url).await.unwrap();
    MIGRATIONS.run_to(18, &mut file).await.unwrap();
    let plan_id = PlanId::generate();
    let insert = format!(
        "INSERT INTO planners (instance, beat, seen_at) VALUES ('older', 1, 1);
         INSERT INTO plans (plan_id, correlation_id, kind, status, owner, created_at, context)
         VALUES ('{plan_id}', '{plan_id}', 'graph', 'pending', 'older', 1, '')"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(insert)).execute(&mut file).await.unwrap();
    let beating = tokio::spawn(async move {
        loop {
            let beat = "UPDATE planners SET beat = beat + 1 WHERE instance = 'older'";
            sqlx::raw_sql(beat).execute(&mut file).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let error = store::open(&url).await.unwrap_err().to_string();
    assert!(error.contains("in use by a planner of an older version"), "{error}");
    let mut file = SqliteConnection::connect(&url).await.unwrap();
    let schema = "SELECT max(version) FROM _sqlx_migrations";
    assert_eq!(sqlx::query_scalar::<_, i64>(schema).fetch_one(&mut file).await.unwrap(), 18, "unchanged");

    beating.abort();
    let store = store::open(&url).await.unwrap();
    let late = sqlx::raw_sql("UPDATE planners SET beat = beat + 1 WHERE instance = 'older'");
    assert_eq!(late.execute(&mut file).await.unwrap().rows_affected(), 0, "it is fenced");
    store.register("me").await.unwrap();
    assert_eq!(crate::taken_over(&*store, "me", &[]).await, [plan_id]);
}

#[tokio::test]
async fn entries_survive_reopening_the_file() {
    let fresh = sqlite().await;
    let plan = crate::new_plan(&["a"]);
    write(&*fresh.store, "me", &[crate::accepted(&plan)]).await.unwrap();
    let again = store::open(&fresh.url).await.unwrap();
    assert_eq!(again.plan(plan.plan_id).await.unwrap(), Some(plan));
}

/// Commits copy it themselves only from 64 MiB.
#[tokio::test]
async fn write_ahead_log_is_copied_beside_commits() {
    let fresh = sqlite().await;
    let mut file = SqliteConnection::connect(&fresh.url).await.unwrap();
    let mut pages_to_copy = async || {
        let (_busy, pages, copied): (i64, i64, i64) =
            sqlx::query_as("PRAGMA wal_checkpoint(NOOP)").fetch_one(&mut file).await.unwrap();
        pages - copied
    };
    fill(&*fresh.store, 0, 1000).await;
    let written = pages_to_copy().await;
    assert!(written > 100, "{written}");
    let copied = async {
        for plan in 1000.. {
            fill(&*fresh.store, plan, 1).await;
            if pages_to_copy().await < 50 {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), copied).await.unwrap();
}

/// With any number of open connections.
#[tokio::test]
async fn closed_journal_is_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("journal.db").display());
    let files = || {
        let mut names: Vec<_> =
            folder.path().read_dir().unwrap().map(|file| file.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let mut plans = Vec::new();
    for round in 0..8 {
        let store = store::open(&url).await.unwrap();
        let me = format!("me{round}");
        store.register(&me).await.unwrap();
        let plan = crate::new_plan(&["a"]);
        write(&*store, &me, &[crate::accepted(&plan)]).await.unwrap();
        plans.push(plan.plan_id);
        let (ids, reads) = (&plans[..1], &*store);
        let read = async || reads.plans_by_id(ids).await.unwrap().len();
        assert_eq!(tokio::join!(read(), read()), (1, 1), "both readers are open");
        store.release(&me).await.unwrap();
        store.close().await;
        assert_eq!(files(), ["journal.db"], "after {round} rounds");
    }
    assert_eq!(store::open(&url).await.unwrap().plans_by_id(&plans).await.unwrap().len(), plans.len());
}

/// Concurrent applications by two processes: every entry is applied once.
#[tokio::test]
async fn two_processes_on_one_file_write_everything_once() {
    let fresh = sqlite().await;
    let other = store::open(&fresh.url).await.unwrap();
    other.register("you").await.unwrap();
    let stores = [(&*fresh.store, "me"), (&*other, "you")];
    let mut plans = Vec::new();
    for round in 0..60_usize {
        for (turn, (store, planner)) in stores.iter().enumerate() {
            let plan = crate::new_plan(&["a", "b"]);
            for entries in crate::life(&plan).chunks(1 + (round + turn) % 5) {
                write(*store, planner, entries).await.unwrap();
                // Sometimes the writer reads, sometimes the other process, mostly neither.
                match (round * 7 + entries.len() * 3 + turn) % 8 {
                    0 => drop(stores[0].0.plan(plan.plan_id).await.unwrap().unwrap()),
                    1 => drop(stores[1].0.plan(plan.plan_id).await.unwrap().unwrap()),
                    _ => {}
                }
            }
            plans.push(plan.plan_id);
        }
    }
    for plan_id in plans {
        let plan = fresh.store.plan(plan_id).await.unwrap().unwrap();
        assert_eq!(plan.status, phoenix_domain::plan::PlanStatus::Succeeded);
        assert_eq!(plan.tasks.iter().map(|task| task.attempts.len()).collect::<Vec<_>>(), [2, 1]);
        let events = other.events(plan_id, 0, 100).await.unwrap();
        assert_eq!(events.len(), 12, "{events:?}");
        assert!(events.windows(2).all(|pair| pair[0].position < pair[1].position));
    }
}

async fn forget_all(store: &dyn Store, limit: u32) -> u64 {
    let (mut after, mut plans) = (None, 0);
    loop {
        let old = OldPlans { ended_before: at(1_000_000_000), after, limit };
        let batch = store.purge_plans("me", &old).await.unwrap();
        plans += batch.plans;
        match batch.last {
            Some(_) => after = batch.last,
            None => return plans,
        }
    }
}

#[tokio::test]
async fn file_stops_growing_when_deletes_match_writes() {
    const PLANS: i64 = 500;
    let fresh = sqlite().await;
    let store = &*fresh.store;
    let mut file = SqliteConnection::connect(&fresh.url).await.unwrap();
    // Without the write-ahead log, whose length depends on the time since a checkpoint. A listing applies what is durable first.
    let mut bytes = async || {
        store.plans(&PlanFilter { limit: 1, ..PlanFilter::default() }).await.unwrap();
        let mut is_busy = true;
        while is_busy {
            is_busy =
                sqlx::query_scalar("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut file).await.unwrap();
        }
        store.stats().await.unwrap().bytes
    };
    let mut peaks = Vec::new();
    for _ in 0..8 {
        fill(store, 0, PLANS).await;
        peaks.push(bytes().await);
        assert_eq!(forget_all(store, 100).await, PLANS as u64);
        peaks.push(bytes().await);
    }
    // What held the first four generations holds every later one. Pages that are not quite full differ from generation to
    // generation.
    let (first, later) = peaks.split_at(8);
    let [first, later] = [first, later].map(|peaks| *peaks.iter().max().unwrap());
    assert!(first > 1_000_000, "a generation is worth measuring: {peaks:?}");
    assert!(later < first + first / 20, "{peaks:?}");

    for table in ["plans", "tasks", "attempts", "events"] {
        let count = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
        let rows: i64 = sqlx::query_scalar(count).fetch_one(&mut file).await.unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}
