//! Conformance suite of the journal's stores. A new store is one more line in [`stores`].
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests are tests too")]

mod applied;
mod approvals;
mod budgets;
mod bulk;
mod damage;
mod dead_letters;
mod migrations;
mod ownership;
mod pace;
mod plans;
mod postgres;
mod rejected;
mod reservations;
mod retention;
mod sqlite;
mod statistics;
mod takeover;
mod waits;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use jiff::Timestamp;
use phoenix_domain::{
    CorrelationId, FailureClass, OrchestratorError, OrchestratorErrorCode, PlanId, TaskId,
    action::ActionResult,
    budget::Limits,
    json::Json,
    plan::{
        AttemptOutcome, OnFailure, Plan, PlanKind, PlanStatus, StartConditions, Task, TaskSpec, TaskStatus,
    },
    usage::{ModelCall, Money, Tokens},
};
use phoenix_planner::store::{
    self, BatchId, Entries, Entry, Heartbeat, IdempotencyKey, JournalError, Store, TakeoverScope, TaskRef,
    Unfinished,
};
use phoenix_testkit_postgres::Server;
use serde_json::json;

/// An empty database with the planner `me` as an owner, deleted on drop.
struct Fresh {
    store: Arc<dyn Store>,
    url: String,
    /// Folder of a SQLite file.
    _folder: Option<tempfile::TempDir>,
}

/// One of every kind of store. PostgreSQL is left out where it is not installed, unless `CI` is set.
async fn stores() -> Vec<Fresh> {
    [sqlite().await].into_iter().chain(postgres().await).collect()
}

async fn postgres() -> Option<Fresh> {
    let url = Server::shared().await?.database().await;
    let store = store::open(&url).await.unwrap();
    store.register("me").await.unwrap();
    Some(Fresh { store, url, _folder: None })
}

async fn sqlite() -> Fresh {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("journal.db").display());
    let store = store::open(&url).await.unwrap();
    store.register("me").await.unwrap();
    Fresh { store, url, _folder: Some(folder) }
}

/// Takes over everything, regardless of agents.
async fn take_over(store: &dyn Store, planner: &str, dead: &[Heartbeat]) -> Unfinished {
    store.take_over(planner, dead, &TakeoverScope::default(), at(0)).await.unwrap()
}

fn plan_ids(taken: &Unfinished) -> Vec<PlanId> {
    taken.plans.iter().map(|plan| plan.plan_id).collect()
}

/// Plans of [`take_over`].
async fn taken_over(store: &dyn Store, planner: &str, dead: &[Heartbeat]) -> Vec<PlanId> {
    plan_ids(&take_over(store, planner, dead).await)
}

/// Appends groups as a batch of its own.
async fn append(store: &dyn Store, planner: &str, groups: &[Entries]) -> Result<Vec<usize>, JournalError> {
    static SEQUENCE: AtomicU64 = AtomicU64::new(1);
    let sequence = SEQUENCE.fetch_add(1, Ordering::Relaxed);
    store.append(&BatchId { planner: planner.into(), writer: 0, sequence }, groups).await
}

/// Writes entries whose reservations are free.
async fn write(store: &dyn Store, planner: &str, entries: &[Entry]) -> Result<(), JournalError> {
    let lost = append(store, planner, &[entries.into()]).await?;
    assert_eq!(lost, [0; 0]);
    Ok(())
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn task_of(plan: &Plan, ordinal: usize) -> TaskRef {
    TaskRef { plan_id: plan.plan_id, ordinal }
}

fn new_plan(agents: &[&str]) -> Plan {
    let tasks = agents.iter().enumerate().map(|(ordinal, agent)| Task {
        task_id: TaskId::generate(),
        spec: TaskSpec {
            key: format!("t{ordinal}"),
            agent: agent.parse().unwrap(),
            action: "do".into(),
            payload: Json::from(json!({"text": "ünïcode \" \\ \n", "n": [1, 2.5, null]})).try_into().unwrap(),
            depends_on: (0..ordinal).map(|before| format!("t{before}")).collect(),
            on_failure: OnFailure::Continue,
            start: StartConditions::default(),
        },
        status: TaskStatus::Queued,
        queued_at: at(0),
        dispatched_at: None,
        ended_at: None,
        output: None,
        error: None,
        approval: None,
        pause: None,
        attempts: Vec::new(),
    });
    Plan {
        plan_id: PlanId::generate(),
        correlation_id: CorrelationId::generate(),
        kind: PlanKind::Graph,
        status: PlanStatus::Pending,
        created_at: at(0),
        deadline_at: Some(at(100)),
        ended_at: None,
        context: "some context".into(),
        budget: Limits::NONE,
        output: None,
        error: None,
        redrive_of: None,
        redriven_as: None,
        tasks: tasks.collect(),
    }
}

fn accepted(plan: &Plan) -> Entry {
    Entry::PlanAccepted { trace: None, plan: Arc::new(plan.clone()) }
}

/// A plan that uses a key at `second`; uses before `not_before` have expired.
fn accepted_as(plan: &Plan, key: &str, digest: &str, second: i64, not_before: i64) -> Vec<Entry> {
    let key = IdempotencyKey { key: key.into(), digest: digest.into(), by: Some(plan.correlation_id) };
    let (subject, at, not_before) = (*plan.plan_id.as_uuid(), at(second), at(not_before));
    vec![accepted(plan), Entry::KeyUsed { key, subject, at, not_before }]
}

fn plan_ended(plan: &Plan, second: i64) -> Entry {
    let (plan_id, status) = (plan.plan_id, PlanStatus::Succeeded);
    Entry::PlanEnded { plan_id, status, at: at(second), result: Ok(()) }
}

/// A call of a model.
fn call() -> ModelCall {
    let tokens = Tokens { input: 1200, output: 30, cached_input: 1000, reasoning: 0 };
    ModelCall {
        provider: "anthropic".into(),
        model: "m".into(),
        tokens,
        cost: Some(Money::from_nanos(1_234_567)),
    }
}

/// A plan of two tasks: the first fails once and is retried, the second is dead-lettered, and the plan succeeds.
fn life(plan: &Plan) -> Vec<Entry> {
    let (first, second) = (task_of(plan, 0), task_of(plan, 1));
    let started = |task, number, second| Entry::AttemptStarted {
        task,
        number,
        at: at(second),
        worker: format!("pid {number}"),
    };
    let failed = |task, number, second, retried| Entry::AttemptEnded {
        task,
        number,
        at: at(second),
        outcome: AttemptOutcome::Failed {
            class: FailureClass::BackendFailure,
            message: "exited with code 3".into(),
            stderr_tail: "boom".into(),
            model_calls: vec![call()],
        },
        retried,
    };
    let error = OrchestratorError::new(OrchestratorErrorCode::ExecutionFailed, "no")
        .with_detail("agent", "b")
        .with_retry_after(std::time::Duration::from_millis(1500));
    vec![
        accepted(plan),
        Entry::TaskDispatched { task: first, at: at(1) },
        started(first, 1, 2),
        failed(first, 1, 3, true),
        started(first, 2, 4),
        Entry::AttemptEnded {
            task: first,
            number: 2,
            at: at(5),
            outcome: AttemptOutcome::Succeeded,
            retried: false,
        },
        Entry::TaskEnded {
            task: first,
            status: TaskStatus::Succeeded,
            at: at(5),
            result: Ok(ActionResult::text("yes")),
        },
        Entry::TaskDispatched { task: second, at: at(6) },
        started(second, 1, 7),
        failed(second, 1, 8, false),
        Entry::TaskEnded { task: second, status: TaskStatus::DeadLettered, at: at(8), result: Err(error) },
        plan_ended(plan, 9),
    ]
}

/// [`life`] of a plan that ends a second after it was accepted.
fn short_life(plan: &Plan) -> Vec<Entry> {
    let mut entries = life(plan);
    let at = plan.created_at + std::time::Duration::from_secs(1);
    if let Some(Entry::PlanEnded { at: ended_at, .. }) = entries.last_mut() {
        *ended_at = at;
    }
    entries
}

/// Creates `plans` plans, one accepted each second from `second`.
async fn fill(store: &dyn Store, second: i64, plans: i64) {
    let plans: Vec<_> = (second..second + plans).map(retention::plan_of).collect();
    for together in plans.chunks(64) {
        write(store, "me", &together.iter().flat_map(short_life).collect::<Vec<_>>()).await.unwrap();
    }
}
