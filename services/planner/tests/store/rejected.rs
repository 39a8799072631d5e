//! Entries that the database rejects for their content.

use phoenix_domain::{
    OrchestratorError,
    action::ActionResult,
    json::Json,
    plan::{Plan, PlanStatus, TaskStatus},
};
use phoenix_planner::{
    journal::Journal,
    store::{Entry, JournalError},
};
use phoenix_platform::{postgres::is_postgres_url, readiness::Readiness};
use serde_json::json;
use sqlx::{Connection, PgConnection, SqliteConnection};

use crate::{Fresh, accepted, at, new_plan, stores, task_of};

/// Makes the database of `fresh` reject everything that contains the word `poison`.
async fn reject_poison(fresh: &Fresh) {
    if is_postgres_url(&fresh.url) {
        let sql = "ALTER TABLE phoenix_planner.tasks
                   ADD CHECK (payload NOT LIKE '%poison%' AND coalesce(output, '') NOT LIKE '%poison%')";
        sqlx::raw_sql(sql).execute(&mut PgConnection::connect(&fresh.url).await.unwrap()).await.unwrap();
    } else {
        let sql = "CREATE TRIGGER poison BEFORE INSERT ON log WHEN CAST(NEW.entries AS TEXT) LIKE '%poison%'
                   BEGIN SELECT RAISE(ABORT, 'poison is not allowed'); END";
        sqlx::raw_sql(sql).execute(&mut SqliteConnection::connect(&fresh.url).await.unwrap()).await.unwrap();
    }
}

fn plan_of(text: &str) -> Plan {
    let mut plan = new_plan(&["a"]);
    plan.tasks[0].spec.payload = Json::from(json!({"text": text})).try_into().unwrap();
    plan
}

fn task_ended(plan: &Plan, text: &str) -> Entry {
    let (task, status) = (task_of(plan, 0), TaskStatus::Succeeded);
    Entry::TaskEnded { task, status, at: at(1), result: Ok(ActionResult::text(text)) }
}

fn plan_failed(plan: &Plan) -> Entry {
    let (plan_id, status) = (plan.plan_id, PlanStatus::Failed);
    let result = Err(OrchestratorError::internal("rejected"));
    Entry::PlanEnded { plan_id, status, at: at(2), result }
}

/// One in seven.
fn text(number: usize) -> &'static str {
    if number % 7 == 3 { "poison" } else { "fine" }
}

fn is_rejected<T: std::fmt::Debug>(result: &Result<T, JournalError>) -> bool {
    matches!(result, Err(JournalError::Rejected(_)))
}

#[tokio::test]
async fn rejected_entry_fails_its_plan_and_not_its_neighbours() {
    for fresh in stores().await {
        reject_poison(&fresh).await;
        let journal = Journal::open(&fresh.url, Readiness::needing(&[])).await.unwrap();
        // Together, so that they share batches.
        let plans: Vec<_> = (0..40).map(|_| plan_of("fine")).collect();
        let created = plans.iter().map(|plan| journal.create(vec![accepted(plan)]));
        assert!(futures_util::future::join_all(created).await.iter().all(Result::is_ok));
        let ended = plans.iter().enumerate().map(|(number, plan)| {
            let entries = vec![task_ended(plan, text(number))];
            journal.append_durable(entries)
        });
        for (number, result) in futures_util::future::join_all(ended).await.iter().enumerate() {
            assert_eq!(is_rejected(result), text(number) == "poison", "{number}: {result:?}");
        }
        let rejected = &plans[3];
        let later = journal.append_durable(vec![plan_failed(rejected)]).await;
        assert!(is_rejected(&later), "it would follow a gap: {later:?}");
        let status = async |plan: &Plan| journal.plan(plan.plan_id).await.unwrap().unwrap().tasks[0].status;
        assert_eq!(status(rejected).await, TaskStatus::Queued);
        assert_eq!(status(&plans[4]).await, TaskStatus::Succeeded);
        journal.append_end_of_rejected(vec![plan_failed(rejected)]).await.unwrap();
        let read = journal.plan(rejected.plan_id).await.unwrap().unwrap();
        assert_eq!(read.status, PlanStatus::Failed, "{read:?}");
        journal.close().await;
    }
}

#[tokio::test]
async fn plan_with_rejected_content_is_not_accepted_alone() {
    for fresh in stores().await {
        reject_poison(&fresh).await;
        let journal = Journal::open(&fresh.url, Readiness::needing(&[])).await.unwrap();
        let plans: Vec<_> = (0..40).map(|number| plan_of(text(number))).collect();
        let created = plans.iter().map(|plan| journal.create(vec![accepted(plan)]));
        for (number, result) in futures_util::future::join_all(created).await.iter().enumerate() {
            assert_eq!(is_rejected(result), text(number) == "poison", "{number}: {result:?}");
            let found = journal.plan(plans[number].plan_id).await.unwrap();
            assert_eq!(found.is_some(), text(number) == "fine", "{number}");
        }
        journal.close().await;
    }
}

/// A condition that an operator ends: the entries wait.
#[tokio::test]
async fn missing_table_rejects_no_entry() {
    let Some(fresh) = crate::postgres().await else { return };
    let journal = Journal::open(&fresh.url, Readiness::needing(&[])).await.unwrap();
    let plan = plan_of("fine");
    journal.create(vec![accepted(&plan)]).await.unwrap();
    let mut database = PgConnection::connect(&fresh.url).await.unwrap();
    let away = "ALTER TABLE phoenix_planner.tasks RENAME TO tasks_away";
    sqlx::raw_sql(away).execute(&mut database).await.unwrap();
    let appended = journal.append_durable(vec![task_ended(&plan, "fine")]);
    let restored = async {
        let refused = async || journal.create(vec![accepted(&plan_of("fine"))]).await;
        while !matches!(refused().await, Err(JournalError::Behind)) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let back = "ALTER TABLE phoenix_planner.tasks_away RENAME TO tasks";
        sqlx::raw_sql(back).execute(&mut database).await.unwrap();
    };
    let (appended, ()) = tokio::join!(appended, restored);
    appended.unwrap();
    assert_eq!(journal.plan(plan.plan_id).await.unwrap().unwrap().tasks[0].status, TaskStatus::Succeeded);
    journal.close().await;
}
