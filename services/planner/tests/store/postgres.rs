//! Properties of the PostgreSQL store.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use phoenix_domain::{
    OrchestratorError, OrchestratorErrorCode, PlanId,
    action::ActionResult,
    json::Json,
    plan::{AttemptOutcome, Plan, PlanStatus, TaskStatus},
};
use phoenix_planner::store::{
    self, BatchId, DeadLetterFilter, DeadLetterQuery, Entry, JournalError, PlanFilter, Store, TakeoverScope,
};
use phoenix_testkit_postgres::{Proxy, Server};
use serde_json::json;

use crate::{
    accepted, accepted_as, append, at, dead_letters, life, new_plan, plan_ended, plan_ids, postgres,
    short_life, task_of, write,
};

/// Upper bound of every wait.
const PATIENCE: Duration = Duration::from_secs(20);

async fn eventually(condition: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < PATIENCE, "the condition is not met");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn free_text_with_nul_is_read_as_it_was_written() {
    let Some(fresh) = postgres().await else { return };
    let store = &*fresh.store;
    let odd = "a\0b ␀ ␀0 \\u0000 \u{ffff} ünïcode";
    let mut plan = new_plan(&["a", "b"]);
    plan.context = odd.into();
    plan.tasks[0].spec.key = odd.into();
    plan.tasks[0].spec.action = odd.into();
    plan.tasks[1].spec.depends_on = vec![odd.into()];
    let nested = format!("{{\"x\":{}\"\\u0000 ␀\"{}}}", "[".repeat(120), "]".repeat(120));
    plan.tasks[0].spec.payload = Json::parse_stored(&nested).unwrap().try_into().unwrap();
    let big = json!({ "n": odd.repeat(100_000) });
    plan.tasks[1].spec.payload = Json::from(big).try_into().unwrap();
    let (first, second) = (task_of(&plan, 0), task_of(&plan, 1));
    let failed = AttemptOutcome::Failed {
        model_calls: Vec::new(),
        class: phoenix_domain::FailureClass::Io,
        message: odd.into(),
        stderr_tail: odd.into(),
    };
    let error = OrchestratorError::new(OrchestratorErrorCode::ExecutionFailed, odd).with_detail(odd, odd);
    let entries = [
        Entry::AttemptStarted { task: second, number: u32::MAX, at: at(1), worker: odd.into() },
        Entry::AttemptEnded {
            task: second,
            number: u32::MAX,
            at: at(2),
            outcome: failed.clone(),
            retried: false,
        },
        Entry::TaskEnded {
            task: first,
            status: TaskStatus::Succeeded,
            at: at(2),
            result: Ok(ActionResult::text(odd)),
        },
        Entry::TaskEnded {
            task: second,
            status: TaskStatus::DeadLettered,
            at: at(3),
            result: Err(error.clone()),
        },
    ];
    write(store, "me", &accepted_as(&plan, odd, odd, 0, -9)).await.unwrap();
    write(store, "me", &entries).await.unwrap();
    let read = store.plan(plan.plan_id).await.unwrap().unwrap();
    assert_eq!(read.context, odd);
    assert_eq!(read.tasks[0].spec, plan.tasks[0].spec);
    assert_eq!(read.tasks[1].spec, plan.tasks[1].spec);
    assert_eq!(read.tasks[0].output, Some(ActionResult::text(odd)));
    assert_eq!(read.tasks[1].error.as_ref(), Some(&error));
    let attempt = &read.tasks[1].attempts[0];
    assert_eq!((attempt.number, attempt.worker.as_str()), (u32::MAX, odd));
    assert_eq!(attempt.outcome.as_ref(), Some(&failed));
    assert_eq!(store.events(plan.plan_id, 0, 9).await.unwrap()[3].task_key, odd);
    assert_eq!(store.used_key(odd, at(0)).await.unwrap().unwrap().digest, odd);
    let letters = dead_letters::listed(
        store,
        DeadLetterFilter::default(),
        phoenix_domain::dead_letter::DeadLetterState::Open,
    );
    assert_eq!(letters.await[0].error, error);
    store.request_cancel("me", plan.plan_id, odd, at(4)).await.unwrap();
    assert_eq!(store.cancel_requests().await.unwrap(), [(plan.plan_id, odd.to_owned())]);
}

#[tokio::test]
async fn repeated_batch_is_written_once() {
    let Some(fresh) = postgres().await else { return };
    let store = &*fresh.store;
    let [winner, late, other] = [(); 3].map(|()| new_plan(&["a", "b"]));
    write(store, "me", &accepted_as(&winner, "k", "d", 0, -9)).await.unwrap();
    let batch = BatchId { planner: "me".into(), writer: 3, sequence: 1 };
    let groups = [accepted_as(&late, "k", "d", 1, -9).into(), life(&other).into()];
    for _ in 0..3 {
        assert_eq!(store.append(&batch, &groups).await.unwrap(), [0], "with the same answer");
    }
    assert_eq!(store.events(other.plan_id, 0, 100).await.unwrap().len(), 12);
    assert_eq!(store.plan(late.plan_id).await.unwrap(), None);
    store.release("me").await.unwrap();
    let fenced = store.append(&batch, &groups).await;
    assert!(matches!(fenced, Err(JournalError::Fenced)), "{fenced:?}");
}

/// The server executes the batch after the client lost the connection.
#[tokio::test]
async fn batch_without_an_answer_is_written_once() {
    let Some(server) = Server::shared().await else { return };
    let database = server.database().await;
    let proxy = Proxy::start(server.port()).await;
    let store = store::open(&proxy.url(&database)).await.unwrap();
    store.register("me").await.unwrap();
    let plan = new_plan(&["a", "b"]);
    // The connection of the writer exists, and its statement is prepared.
    write(&*store, "me", &[accepted(&new_plan(&["a"]))]).await.unwrap();
    let mut blocker = <sqlx::PgConnection as sqlx::Connection>::connect(&database).await.unwrap();
    let lock = "BEGIN; LOCK TABLE phoenix_planner.events IN EXCLUSIVE MODE";
    sqlx::raw_sql(lock).execute(&mut blocker).await.unwrap();
    let batch = BatchId { planner: "me".into(), writer: 0, sequence: 1_000_000 };
    let groups = [life(&plan).into()];
    let write = async {
        let lost = store.append(&batch, &groups).await;
        assert!(matches!(lost, Err(JournalError::InDoubt(_))), "{lost:?}");
    };
    let disturb = async {
        let waits = "EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'phoenix_planner.events'::regclass)";
        eventually(async || server.text(&database, waits).await == "true").await;
        proxy.refuse();
    };
    tokio::join!(write, disturb);
    proxy.restore();
    // The first attempt still runs, so the second one waits for it.
    let again = async { store.append(&batch, &groups).await };
    let release = async {
        let waits = "(SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                      AND datname = current_database())";
        eventually(async || server.text(&database, waits).await == "2").await;
        sqlx::raw_sql("COMMIT").execute(&mut blocker).await.unwrap();
    };
    let (again, ()) = tokio::join!(again, release);
    assert_eq!(again.unwrap(), [0; 0]);
    let events = store.events(plan.plan_id, 0, 100).await.unwrap();
    assert_eq!(events.len(), 12, "{events:?}");
    assert_eq!(store.plan(plan.plan_id).await.unwrap().unwrap().tasks[0].attempts.len(), 2);
}

#[tokio::test]
async fn connection_that_broke_while_idle_fails_no_batch() {
    let Some(fresh) = postgres().await else { return };
    let store = &*fresh.store;
    write(store, "me", &[accepted(&new_plan(&["a"]))]).await.unwrap();
    let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&fresh.url).await.unwrap();
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE datname = current_database() AND pid <> pg_backend_pid()";
    sqlx::raw_sql(terminate).execute(&mut connection).await.unwrap();
    let plan = new_plan(&["a", "b"]);
    write(store, "me", &life(&plan)).await.unwrap();
    assert_eq!(store.events(plan.plan_id, 0, 100).await.unwrap().len(), 12);
}

/// Writes plans one after the other, each in steps of its own batch, until the planner is fenced. Returns those whose end was
/// acknowledged.
async fn write_until_fenced(store: Arc<dyn Store>, planner: &'static str, writer: u32) -> Vec<PlanId> {
    let (mut sequence, mut acknowledged) = (0, Vec::new());
    loop {
        let plan = new_plan(&["a", "b"]);
        for entries in life(&plan).chunks(5) {
            sequence += 1;
            let batch = BatchId { planner: planner.into(), writer, sequence };
            match store.append(&batch, &[entries.into()]).await {
                Ok(rejected) => assert_eq!(rejected, [0; 0]),
                Err(JournalError::Fenced) => return acknowledged,
                Err(error) => panic!("{error}"),
            }
        }
        acknowledged.push(plan.plan_id);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planner_fenced_amid_parallel_writes_loses_nothing() {
    let Some(fresh) = postgres().await else { return };
    let heir = store::open(&fresh.url).await.unwrap();
    heir.register("heir").await.unwrap();
    let writers = fresh.store.writers();
    assert!(writers > 1);
    let spawn = |store: &Arc<dyn Store>, planner, writer| {
        tokio::spawn(write_until_fenced(Arc::clone(store), planner, writer))
    };
    let mine: Vec<_> = (0..writers).map(|writer| spawn(&fresh.store, "me", writer)).collect();
    let others: Vec<_> = (0..writers).map(|writer| spawn(&heir, "heir", writer)).collect();
    let ended = PlanFilter { status: Some(PlanStatus::Succeeded), limit: 500, ..PlanFilter::default() };
    eventually(async || heir.plans(&ended).await.unwrap().items.len() >= 40).await;
    let dead: Vec<_> =
        heir.planners().await.unwrap().into_iter().filter(|known| known.planner == "me").collect();
    let taken = heir.take_over("heir", &dead, &TakeoverScope::default(), at(0)).await.unwrap();
    let events_then: Vec<_> = events_of(&*heir, &plan_ids(&taken)).await;
    let mut acknowledged = HashSet::new();
    for writer in mine {
        acknowledged.extend(writer.await.unwrap());
    }
    heir.release("heir").await.unwrap();
    for writer in others {
        acknowledged.extend(writer.await.unwrap());
    }
    // At most one plan of each writer was unfinished, and the fenced planner has written nothing since.
    assert!(taken.plans.len() <= writers as usize, "{taken:?}");
    assert_eq!(events_of(&*heir, &plan_ids(&taken)).await, events_then);
    for plan_id in acknowledged {
        let plan = heir.plan(plan_id).await.unwrap().unwrap();
        assert_eq!(plan.status, PlanStatus::Succeeded);
        assert_eq!(heir.events(plan_id, 0, 100).await.unwrap().len(), 12);
        for task in &plan.tasks {
            let numbers: Vec<_> = task.attempts.iter().map(|attempt| attempt.number).collect();
            assert_eq!(numbers, (1..=numbers.len() as u32).collect::<Vec<_>>());
        }
    }
}

async fn events_of(store: &dyn Store, plans: &[PlanId]) -> Vec<usize> {
    let mut counts = Vec::new();
    for plan_id in plans {
        counts.push(store.events(*plan_id, 0, 100).await.unwrap().len());
    }
    counts
}

#[tokio::test]
async fn concurrent_uses_of_a_key_have_one_winner() {
    let Some(fresh) = postgres().await else { return };
    let other = store::open(&fresh.url).await.unwrap();
    other.register("other").await.unwrap();
    let old = dead_letters::failed(&*fresh.store, "a", 1).await;
    let stores = [(&fresh.store, "me"), (&other, "other")];
    for round in 0..20 {
        let key = format!("k{round}");
        let race = async |index: usize| {
            let (store, planner) = stores[index % 2];
            let plan = new_plan(&["a"]);
            let mut entries = accepted_as(&plan, &key, "d", 0, -9);
            if round == 0 {
                entries = dead_letters::redrive(&old, None).1;
            }
            let writer = index as u32 / 2;
            let batch = BatchId { planner: planner.into(), writer, sequence: 100 + round };
            store.append(&batch, &[entries.into(), vec![accepted(&new_plan(&["a"]))].into()]).await.unwrap()
        };
        let results = futures_util::future::join_all((0..8).map(race)).await;
        assert_eq!(results.iter().filter(|rejected| rejected.is_empty()).count(), 1, "{results:?}");
        assert!(results.iter().all(|rejected| rejected.is_empty() || *rejected == [0]), "{results:?}");
    }
}

#[tokio::test]
async fn change_that_becomes_visible_late_is_not_missed() {
    let Some(fresh) = postgres().await else { return };
    let store = &*fresh.store;
    let [early, late] = [(); 2].map(|()| new_plan(&["a"]));
    let mut slow = <sqlx::PgConnection as sqlx::Connection>::connect(&fresh.url).await.unwrap();
    let id = early.plan_id;
    let insert = format!(
        "BEGIN; INSERT INTO phoenix_planner.events (plan_id, position, events) VALUES ('{id}', 1, '[]')"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(insert)).execute(&mut slow).await.unwrap();
    let watched = [early.plan_id, late.plan_id];
    let before = store.position().await.unwrap();
    write(store, "me", &[accepted(&late)]).await.unwrap();
    let first = store.changes(&watched, before).await.unwrap();
    assert_eq!(first.plans, [late.plan_id]);
    sqlx::raw_sql("COMMIT").execute(&mut slow).await.unwrap();
    let second = store.changes(&watched, first.position).await.unwrap();
    assert!(second.plans.contains(&early.plan_id), "{second:?}");
    // Transactions of other tests keep the horizon back for a moment.
    let horizon = std::cell::Cell::new(second.position);
    eventually(async || {
        let changes = store.changes(&watched, horizon.get()).await.unwrap();
        horizon.set(changes.position);
        changes.plans.is_empty()
    })
    .await;
}

#[tokio::test]
async fn damaged_row_affects_only_its_plan() {
    let Some(fresh) = postgres().await else { return };
    let store = &*fresh.store;
    let plans: [Plan; 3] = [(); 3].map(|()| new_plan(&["a", "b"]));
    for plan in &plans {
        write(store, "me", &life(plan)).await.unwrap();
    }
    let bad = plans[1].plan_id;
    let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&fresh.url).await.unwrap();
    for (table, column, value, restore) in [
        ("plans", "status", "'?'", "'succeeded'"),
        ("plans", "created_at", "9223372036854775807", "0"),
        ("tasks", "payload", "'{'", "'{}'"),
        ("attempts", "outcome", "'?'", "'succeeded'"),
        ("events", "events", "'?'", "'[]'"),
    ] {
        let mut set = async |value: &str| {
            let sql =
                format!("UPDATE phoenix_planner.{table} SET {column} = {value} WHERE plan_id = '{bad}'");
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        };
        set(value).await;
        let read = store.plan(bad).await;
        let events = store.events(bad, 0, 9).await;
        let of_damage = |error: &JournalError| error.to_string().contains(column) || column == "created_at";
        match (read.err(), events.err()) {
            (Some(error), _) | (None, Some(error)) => {
                assert!(matches!(error, JournalError::Damaged(_)) && of_damage(&error), "{error}");
            }
            (None, None) => panic!("{table}.{column}"),
        }
        let listed = store.plans(&PlanFilter { limit: 9, ..PlanFilter::default() }).await.unwrap();
        assert_eq!(listed.items.len() + listed.unreadable.len(), 3);
        for plan in [&plans[0], &plans[2]] {
            assert!(store.plan(plan.plan_id).await.unwrap().is_some());
        }
        set(restore).await;
    }
}

#[tokio::test]
async fn open_dead_letters_are_counted_in_every_state() {
    let Some(fresh) = postgres().await else { return };
    let store = &*fresh.store;
    let plan = new_plan(&["a", "b"]);
    write(store, "me", &short_life(&plan)).await.unwrap();
    write(store, "me", &short_life(&new_plan(&["a", "b"]))[..11]).await.unwrap();
    assert_eq!(store.open_dead_letters().await.unwrap().count, 2);
    let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&fresh.url).await.unwrap();
    let delete = "DELETE FROM phoenix_planner.dead_letters WHERE plan_id IN (SELECT plan_id FROM phoenix_planner.plans LIMIT 1)";
    sqlx::raw_sql(delete).execute(&mut connection).await.unwrap();
    assert_eq!(store.open_dead_letters().await.unwrap().count, 1);
    let query = DeadLetterQuery {
        filter: DeadLetterFilter::default(),
        state: phoenix_domain::dead_letter::DeadLetterState::Open,
        before: None,
        limit: 9,
    };
    assert_eq!(store.dead_letters(&query).await.unwrap().items.len(), 1);
}

/// A takeover larger than a page, during which another planner takes over as well.
#[tokio::test]
async fn plans_are_taken_over_once_by_concurrent_heirs() {
    const PLANS: usize = 1200;
    let Some(fresh) = postgres().await else { return };
    let store = &*fresh.store;
    let groups: Vec<_> = (0..PLANS).map(|_| vec![accepted(&new_plan(&["a"]))].into()).collect();
    append(store, "me", &groups).await.unwrap();
    let ended = new_plan(&["a"]);
    write(store, "me", &[accepted(&ended), plan_ended(&ended, 1)]).await.unwrap();
    for heir in ["x", "y"] {
        store.register(heir).await.unwrap();
    }
    store.release("me").await.unwrap();
    let scope = TakeoverScope::default();
    let heirs = ["x", "y"].map(|heir| store.take_over(heir, &[], &scope, at(0)));
    let taken = futures_util::future::join_all(heirs).await;
    let mut all: Vec<_> = taken.iter().flat_map(|taken| plan_ids(taken.as_ref().unwrap())).collect();
    for heir in ["x", "y"] {
        all.extend(plan_ids(&store.take_over(heir, &[], &scope, at(0)).await.unwrap()));
    }
    let distinct: HashSet<_> = all.iter().collect();
    assert_eq!((all.len(), distinct.len()), (PLANS, PLANS));
}
