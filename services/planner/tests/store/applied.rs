//! Application of entries to the tables: a plan reads the same, however its entries are divided.

use std::{sync::Arc, time::Duration};

use phoenix_domain::{
    OrchestratorError, OrchestratorErrorCode,
    action::ActionResult,
    json::Object,
    plan::{AttemptOutcome, Plan, PlanStatus, TaskStatus},
};
use phoenix_planner::store::{self, Entry, JournalError, PlanFilter, Store};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use crate::{
    Fresh, accepted, accepted_as, at, life, new_plan, plan_ended, sqlite, stores, taken_over, task_of, write,
};

/// A plan with one task, which fails once and then succeeds.
fn chat(plan: &Plan) -> Vec<Entry> {
    let mut entries = life(plan);
    let of_first = |entry: &Entry| match entry {
        Entry::TaskDispatched { task, .. }
        | Entry::AttemptStarted { task, .. }
        | Entry::AttemptEnded { task, .. }
        | Entry::TaskEnded { task, .. } => task.ordinal == 0,
        _ => true,
    };
    entries.retain(of_first);
    entries
}

async fn read_after_each(store: &dyn Store, plan: &Plan, batch: usize) {
    for entries in chat(plan).chunks(batch) {
        write(store, "me", entries).await.unwrap();
        store.plan(plan.plan_id).await.unwrap();
    }
}

impl Fresh {
    async fn count(&self, what: &str) -> i64 {
        let mut file = SqliteConnection::connect(&self.url).await.unwrap();
        let query = format!("SELECT count(*) FROM {what}");
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&mut file).await.unwrap()
    }
}

#[tokio::test]
async fn plan_reads_the_same_however_its_entries_are_divided() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let mut read = Vec::new();
        for batch in [100, 1, 2, 4] {
            let plan = new_plan(&["a"]);
            read_after_each(store, &plan, batch).await;
            let mut known = store.plan(plan.plan_id).await.unwrap().unwrap();
            assert_eq!(known.tasks[0].spec, plan.tasks[0].spec);
            assert_eq!((known.status, known.tasks[0].attempts.len()), (PlanStatus::Succeeded, 2));
            let events = store.events(plan.plan_id, 0, 100).await.unwrap();
            assert!(events.windows(2).all(|pair| pair[0].position < pair[1].position));
            assert_eq!(store.events(plan.plan_id, events[2].position, 3).await.unwrap(), events[3..6]);
            assert_eq!(store.events(plan.plan_id, events[7].position, 3).await.unwrap(), []);
            let facts: Vec<_> =
                events.iter().map(|event| (event.kind.clone(), event.at, event.task_key.clone())).collect();
            let nil = uuid::Uuid::nil();
            (known.plan_id, known.correlation_id, known.tasks[0].task_id) =
                (nil.into(), nil.into(), nil.into());
            read.push((known, facts, events[4].data.clone()));
        }
        for other in &read[1..] {
            assert_eq!(other, &read[0]);
        }
    }
}

#[tokio::test]
async fn plans_of_an_agent_are_listed_once_and_in_order() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let mut ids = Vec::new();
        for n in 0..12 {
            let plan = new_plan(match n % 5 {
                4 => &["b"],
                3 => &["a", "a"],
                _ => &["a"],
            });
            read_after_each(store, &plan, if n % 2 == 0 { 100 } else { 3 }).await;
            if n % 5 != 4 {
                ids.push(plan.plan_id);
            }
        }
        ids.reverse();
        let (mut listed, mut before) = (Vec::new(), None);
        loop {
            let status = Some(PlanStatus::Succeeded);
            let filter =
                PlanFilter { agent: "a".parse().ok(), status, before, limit: 3, ..PlanFilter::default() };
            let page = store.plans(&filter).await.unwrap();
            listed.extend(page.items.iter().map(|plan| plan.plan_id));
            before = page.last;
            if before.is_none() {
                break;
            }
        }
        assert_eq!(listed, ids);
    }
}

#[tokio::test]
async fn entries_after_a_plans_end_change_nothing() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let plan = new_plan(&["a"]);
        read_after_each(store, &plan, 100).await;
        let known = store.plan(plan.plan_id).await.unwrap();
        let task = task_of(&plan, 0);
        let late = [
            Entry::AttemptStarted { task, number: 3, at: at(20), worker: "pid 3".into() },
            chat(&plan)[4].clone(),
            plan_ended(&plan, 21),
        ];
        write(store, "me", &late).await.unwrap();
        assert_eq!(store.plan(plan.plan_id).await.unwrap(), known);
        let events = store.events(plan.plan_id, 0, 100).await.unwrap();
        assert!(events.windows(2).all(|pair| pair[0].position < pair[1].position));
        assert_eq!((events.len(), events[8].kind.as_str()), (11, "attempt_started"));
        assert_eq!(store.events(plan.plan_id, events[8].position, 100).await.unwrap(), events[9..]);
    }
}

#[tokio::test]
async fn batch_of_any_size_is_applied() {
    for fresh in stores().await {
        let store = &*fresh.store;
        // More rows than one statement takes, of unfinished plans and of some that have ended.
        let large: Vec<_> = (0..12).map(|_| new_plan(&["a"; 256])).collect();
        let small: Vec<_> = (0..100).map(|_| new_plan(&["a"])).collect();
        let mut groups: Vec<Arc<[Entry]>> = large.iter().map(|plan| [accepted(plan)].into()).collect();
        groups.extend(small.iter().map(|plan| chat(plan).into()));
        let mut steps = Vec::new();
        for plan in &large {
            steps.extend(
                (0..256).map(|ordinal| Entry::TaskDispatched { task: task_of(plan, ordinal), at: at(1) }),
            );
        }
        groups.push(steps.into());
        assert_eq!(crate::append(store, "me", &groups).await.unwrap(), [0; 0]);
        for plan in large {
            let known = store.plan(plan.plan_id).await.unwrap().unwrap();
            assert!(
                known.tasks.len() == 256 && known.tasks.iter().all(|task| task.dispatched_at == Some(at(1)))
            );
        }
        for plan in small {
            let known = store.plan(plan.plan_id).await.unwrap().unwrap();
            assert_eq!((known.status, known.tasks[0].attempts.len()), (PlanStatus::Succeeded, 2));
        }
    }
}

/// Waits until there are so many tasks, and nothing is left in the log.
async fn applied(fresh: &Fresh, tasks: i64) {
    let mut counts = [-1; 2];
    for _ in 0..1000 {
        counts = [fresh.count("tasks").await, fresh.count("log").await];
        if counts == [tasks, 0] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    panic!("tasks, commits in the log: {counts:?}");
}

/// A store that has applied entries, a plan that was applied early, and its end as the log held it.
async fn started() -> (Fresh, Plan, String) {
    for _ in 0..50 {
        let fresh = sqlite().await;
        write(&*fresh.store, "me", &chat(&new_plan(&["a"]))).await.unwrap();
        applied(&fresh, 1).await;
        let plan = new_plan(&["a"]);
        write(&*fresh.store, "me", &chat(&plan)[..3]).await.unwrap();
        tokio::time::sleep(APART).await;
        write(&*fresh.store, "me", &chat(&plan)[3..]).await.unwrap();
        let mut file = SqliteConnection::connect(&fresh.url).await.unwrap();
        let end = sqlite_end(&mut file).await;
        applied(&fresh, 2).await;
        // On a machine that stalled, the parts were applied one after the other or together.
        if let (Some(end), 1) = (end, fresh.count("plans WHERE applied_early").await) {
            return (fresh, plan, end);
        }
    }
    panic!("no plan was applied early");
}

async fn sqlite_end(file: &mut SqliteConnection) -> Option<String> {
    sqlx::query_scalar("SELECT entries FROM log ORDER BY seq DESC LIMIT 1")
        .fetch_optional(file)
        .await
        .unwrap()
}

async fn is_complete(store: &dyn Store, plan: &Plan) {
    let known = store.plan(plan.plan_id).await.unwrap().unwrap();
    assert_eq!((known.status, known.tasks[0].attempts.len()), (PlanStatus::Succeeded, 2));
    let events = store.events(plan.plan_id, 0, 100).await.unwrap();
    assert_eq!(events.len(), 8, "none appears twice: {events:?}");
    assert!(events.windows(2).all(|pair| pair[0].position < pair[1].position));
}

/// Time between the parts of a plan: the first part is due to be applied when its end is not. The store applies entries by their
/// age, so the time is the subject of these tests and no condition stands for it.
const APART: Duration = Duration::from_millis(225);

#[tokio::test]
async fn plan_that_ends_soon_is_applied_early_and_once() {
    let (fresh, plan, _) = started().await;
    assert_eq!(fresh.count("events").await, 2, "one row each");
    is_complete(&*fresh.store, &plan).await;
}

/// A commit with a reservation is not remembered, nor are the entries that share it.
#[tokio::test]
async fn plan_with_unseen_entries_is_not_completed_early() {
    let fresh = sqlite().await;
    let store = &*fresh.store;
    write(store, "me", &chat(&new_plan(&["a"]))).await.unwrap();
    applied(&fresh, 1).await;
    let (plan, keyed) = (new_plan(&["a"]), new_plan(&["a"]));
    let life = chat(&plan);
    write(store, "me", &life[..2]).await.unwrap();
    tokio::time::sleep(APART).await;
    let together = [life[2..4].into(), accepted_as(&keyed, "key", "digest", 0, 0).into()];
    assert_eq!(crate::append(store, "me", &together).await.unwrap(), [0; 0]);
    write(store, "me", &life[4..]).await.unwrap();
    while fresh.count("log").await > 0 {
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    is_complete(store, &plan).await;
}

#[tokio::test]
async fn early_entries_are_not_applied_again_after_restart() {
    let (fresh, plan, end) = started().await;
    // As after the death of a planner between the two applications.
    let mut file = SqliteConnection::connect(&fresh.url).await.unwrap();
    let left = sqlx::query("INSERT INTO log (planner, entries) VALUES ('me', ?)").bind(end);
    left.execute(&mut file).await.unwrap();
    let other = store::open(&fresh.url).await.unwrap();
    is_complete(&*other, &plan).await;
    assert_eq!((fresh.count("log").await, fresh.count("events").await), (0, 2));
    is_complete(&*fresh.store, &plan).await;
    let next = new_plan(&["a"]);
    write(&*fresh.store, "me", &chat(&next)).await.unwrap();
    is_complete(&*fresh.store, &next).await;
}

#[tokio::test]
async fn plan_applied_early_can_be_redriven() {
    let fresh = sqlite().await;
    let store = &*fresh.store;
    write(store, "me", &chat(&new_plan(&["a"]))).await.unwrap();
    applied(&fresh, 1).await;
    let (plan, next) = (new_plan(&["a"]), new_plan(&["a"]));
    write(store, "me", &chat(&plan)[..3]).await.unwrap();
    tokio::time::sleep(APART).await;
    let (plan_id, status, at_once) = (plan.plan_id, PlanStatus::Cancelled, at(9));
    let cancelled = OrchestratorError::new(OrchestratorErrorCode::Cancelled, "no more");
    let task_ended = Entry::TaskEnded {
        task: task_of(&plan, 0),
        status: TaskStatus::Cancelled,
        at: at_once,
        result: Err(cancelled.clone()),
    };
    let ended = Entry::PlanEnded { plan_id, status, at: at_once, result: Err(cancelled) };
    let redriven = Entry::PlanRedriven {
        plan_id,
        redriven_as: next.plan_id,
        at: at_once,
        by: next.correlation_id,
        reason: String::new(),
        bulk: None,
    };
    write(store, "me", &[task_ended, ended]).await.unwrap();
    let again = Plan { redrive_of: Some(plan_id), ..next.clone() };
    write(store, "me", &[accepted(&again), redriven]).await.unwrap();
    let known = store.plan(plan_id).await.unwrap().unwrap();
    assert_eq!((known.status, known.redriven_as), (status, Some(next.plan_id)));
    let events = store.events(plan_id, 0, 100).await.unwrap();
    let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
    let expected =
        ["plan_accepted", "task_dispatched", "attempt_started", "task_ended", "plan_ended", "plan_redriven"];
    assert_eq!(kinds, expected);
}

#[tokio::test]
async fn plan_is_applied_while_it_runs_and_when_it_has_ended() {
    let fresh = sqlite().await;
    let store = &*fresh.store;
    let long = new_plan(&["a"]);
    write(store, "me", &chat(&long)[..3]).await.unwrap();
    applied(&fresh, 1).await;
    write(store, "me", &chat(&long)[3..]).await.unwrap();
    applied(&fresh, 1).await;
    is_complete(store, &long).await;
}

#[tokio::test]
async fn young_entries_are_visible_and_taken_over() {
    let fresh = sqlite().await;
    let store = &*fresh.store;
    let (quick, open) = (new_plan(&["a"]), new_plan(&["a"]));
    write(store, "me", &[accepted(&open)]).await.unwrap();
    write(store, "me", &chat(&quick)).await.unwrap();
    let heir = store::open(&fresh.url).await.unwrap();
    heir.register("heir").await.unwrap();
    let dead: Vec<_> =
        heir.planners().await.unwrap().into_iter().filter(|other| other.planner == "me").collect();
    assert_eq!(taken_over(&*heir, "heir", &dead).await, [open.plan_id]);
    let late = write(store, "me", &[plan_ended(&open, 9)]).await.unwrap_err();
    assert!(matches!(late, JournalError::Fenced), "{late:?}");
    write(&*heir, "heir", &chat(&open)[1..]).await.unwrap();
    is_complete(store, &open).await;
}

/// A plan whose tasks succeed at their first attempts.
fn success(plan: &Plan) -> Vec<Entry> {
    let mut entries = vec![accepted(plan)];
    for ordinal in 0..plan.tasks.len() {
        let task = task_of(plan, ordinal);
        // Between two microseconds, as clocks are and tables are not.
        let now = at(ordinal as i64 + 1) + Duration::from_nanos(1234);
        entries.push(Entry::TaskDispatched { task, at: now });
        entries.push(Entry::AttemptStarted { task, number: 1, at: now, worker: "pid 1".into() });
        let outcome = AttemptOutcome::Succeeded;
        entries.push(Entry::AttemptEnded { task, number: 1, at: now, outcome, retried: false });
        let output = ActionResult { metadata: metadata(), ..ActionResult::text("grüß dich") };
        entries.push(Entry::TaskEnded { task, status: TaskStatus::Succeeded, at: now, result: Ok(output) });
    }
    entries.push(plan_ended(plan, 9));
    entries
}

fn metadata() -> Object {
    Object::parse(r#"{"usage": {"input_tokens": 12345678901234567890, "cost": 1.50}}"#).unwrap()
}

#[tokio::test]
async fn plan_that_has_just_ended_is_the_one_that_is_read() {
    for fresh in stores().await {
        let store = &*fresh.store;
        let (one, many, other) = (new_plan(&["a"]), new_plan(&["a", "b", "a"]), new_plan(&["a"]));
        for (plan, batch) in [(&one, 100), (&many, 3)] {
            for entries in success(plan).chunks(batch) {
                assert_eq!(store.just_ended(plan.plan_id), None, "it has not ended");
                write(store, "me", entries).await.unwrap();
            }
            let known = store.just_ended(plan.plan_id);
            let read = store.plan(plan.plan_id).await.unwrap();
            assert_eq!(read.as_ref().unwrap().status, PlanStatus::Succeeded);
            // A database without a log has nothing at hand.
            if fresh.url.starts_with("sqlite:") {
                assert_eq!(known, read);
            } else {
                assert!(known.is_none() || known == read);
            }
            assert_eq!(store.just_ended(plan.plan_id), None, "it was applied");
        }
        // It failed once, so it is read.
        write(store, "me", &chat(&other)).await.unwrap();
        assert_eq!(store.just_ended(other.plan_id), None);
    }
}
