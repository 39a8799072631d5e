//! Reading the journal.

use jiff::Timestamp;
use phoenix_domain::{
    FailureClass, OrchestratorError, PlanId,
    plan::{Attempt, AttemptOutcome, OnFailure, Plan, PlanKind, PlanStatus, Task, TaskSpec, TaskStatus},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use sqlx::{FromRow, Row, SqlitePool, sqlite::SqliteRow};
use uuid::Uuid;

use super::{
    super::Unreadable,
    Event, JournalError, Page, PlanFilter,
    rows::{self, micros},
};

const PLAN_COLUMNS: &str =
    "plan_id, correlation_id, kind, status, created_at, deadline_at, ended_at, context, output, error, redrive_of,
     (SELECT later.plan_id FROM plans AS later WHERE later.redrive_of = plans.plan_id) AS redriven_as";

/// Whole plans, in the order of their ids, all of the same moment; those that are there. One that can't be read does not
/// spoil the others.
pub(super) async fn whole_plans(
    pool: &SqlitePool,
    plan_ids: &[PlanId],
) -> Result<Vec<(PlanId, Result<Plan, JournalError>)>, JournalError> {
    let plan_ids = rows::json(&plan_ids);
    let those = "WHERE plan_id IN (SELECT value FROM json_each(?)) ORDER BY plan_id";
    // One snapshot: a plan is never shown with tasks of another moment.
    let mut snapshot = pool.begin().await?;
    let select = |what: &str, then: &str| sql(format!("SELECT {what} {those}{then}"));
    let plans: Vec<PlanRow> = sqlx::query_as(select(&format!("{PLAN_COLUMNS} FROM plans"), ""))
        .bind(&plan_ids)
        .fetch_all(&mut *snapshot)
        .await?;
    let tasks: Vec<TaskRow> =
        sqlx::query_as(select("* FROM tasks", ", ordinal")).bind(&plan_ids).fetch_all(&mut *snapshot).await?;
    let attempts: Vec<AttemptRow> = sqlx::query_as(select("* FROM attempts", ", ordinal, number"))
        .bind(&plan_ids)
        .fetch_all(&mut *snapshot)
        .await?;
    drop(snapshot);
    let (mut tasks, mut attempts) = (tasks.into_iter().peekable(), attempts.into_iter().peekable());
    let mut whole = Vec::with_capacity(plans.len());
    for plan in plans {
        let own_tasks = std::iter::from_fn(|| tasks.next_if(|task| task.plan_id == plan.plan_id)).collect();
        let own_attempts = std::iter::from_fn(|| attempts.next_if(|attempt| attempt.plan_id == plan.plan_id));
        let own_attempts = own_attempts.collect();
        whole.push((parse("plans.plan_id", &plan.plan_id)?, plan.with(own_tasks, own_attempts)));
    }
    Ok(whole)
}

pub(super) async fn plans(
    pool: &SqlitePool,
    filter: &PlanFilter,
) -> Result<Page<Plan, PlanId>, JournalError> {
    let PlanFilter { correlation_id, status, agent, since, before, limit } = filter;
    // Conditions are written only where they filter, so that each shape finds its index.
    let mut query = sqlx::QueryBuilder::new(format!("SELECT {PLAN_COLUMNS} FROM plans WHERE TRUE"));
    if let Some(id) = correlation_id {
        query.push(" AND correlation_id = ").push_bind(id.to_string());
    }
    if let Some(status) = status {
        query.push(" AND status = ").push_bind(status.as_str());
    }
    if let Some(agent) = agent {
        query
            .push(" AND plan_id IN (SELECT plan_id FROM tasks WHERE agent = ")
            .push_bind(agent.as_str().to_owned());
        query.push(")");
    }
    if let Some(since) = since {
        query.push(" AND created_at >= ").push_bind(micros(*since));
    }
    if let Some(before) = before {
        query.push(" AND plan_id < ").push_bind(before.to_string());
    }
    query.push(" ORDER BY plan_id DESC LIMIT ").push_bind(*limit);
    let rows = query.build().fetch_all(pool).await?;
    let place = |row: &SqliteRow| row.try_get::<String, _>("plan_id").ok()?.parse().ok();
    Ok(page(rows, *limit, place, |row| PlanRow::from_row(row)?.read()))
}

/// A page of a listing. What can't be read does not keep the rest from being listed.
pub(super) fn page<T, P>(
    rows: Vec<SqliteRow>,
    limit: u32,
    place: impl Fn(&SqliteRow) -> Option<P>,
    read: impl Fn(&SqliteRow) -> Result<T, JournalError>,
) -> Page<T, P> {
    let full = u32::try_from(rows.len()) == Ok(limit);
    let last = rows.iter().rev().find_map(place).filter(|_| full);
    let mut page = Page { items: Vec::with_capacity(rows.len()), unreadable: Vec::new(), last };
    for row in &rows {
        match read(row) {
            Ok(item) => page.items.push(item),
            Err(error) => {
                let id = row.try_get("plan_id").unwrap_or_default();
                page.unreadable.push(Unreadable { id, what: error.to_string() });
            }
        }
    }
    page
}

/// What `key` was first used for, and with what digest, unless that was before `not_before`.
pub(super) async fn subject_of_key(
    pool: &SqlitePool,
    key: &str,
    not_before: Timestamp,
) -> Result<Option<(Uuid, String)>, JournalError> {
    let row: Option<(String, String)> =
        sqlx::query_as("SELECT subject, digest FROM idempotency_keys WHERE key = ? AND created_at >= ?")
            .bind(key)
            .bind(micros(not_before))
            .fetch_optional(pool)
            .await?;
    row.map(|(subject, digest)| Ok((parse("idempotency_keys.subject", &subject)?, digest))).transpose()
}

/// Events of one plan after `position`, oldest first.
pub(super) async fn events(
    pool: &SqlitePool,
    plan_id: PlanId,
    position: u64,
    limit: u32,
) -> Result<Vec<Event>, JournalError> {
    let after = i64::try_from(position).unwrap_or(i64::MAX);
    let mut snapshot = pool.begin().await?;
    // From the row in which `after` lies.
    let rows: Vec<(i64, String)> = sqlx::query_as(
        "SELECT position, events FROM events WHERE plan_id = ?1 AND position >= coalesce(
             (SELECT max(position) FROM events WHERE plan_id = ?1 AND position <= ?2), 0)
         ORDER BY position LIMIT ?3",
    )
    .bind(plan_id.to_string())
    .bind(after)
    .bind(limit)
    .fetch_all(&mut *snapshot)
    .await?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<String> = sqlx::query_scalar("SELECT key FROM tasks WHERE plan_id = ? ORDER BY ordinal")
        .bind(plan_id.to_string())
        .fetch_all(&mut *snapshot)
        .await?;
    let mut found = Vec::new();
    for (first, text) in rows {
        let events: Vec<StoredEvent> = from_json("events.events", &text)?;
        for (position, StoredEvent(ordinal, kind, at, data)) in (first..).zip(events) {
            if position > after {
                let task_key = ordinal.and_then(|ordinal| keys.get(ordinal)).cloned().unwrap_or_default();
                let position = u64::try_from(position).map_err(|_| damaged("events.position", position))?;
                found.push(Event { position, kind, at: time(at)?, task_key, data: data.get().to_owned() });
            }
        }
    }
    found.truncate(limit as usize);
    Ok(found)
}

/// The task's ordinal, the kind, the time, the facts.
#[derive(Deserialize)]
struct StoredEvent(Option<usize>, String, i64, Box<RawValue>);

#[derive(FromRow)]
struct PlanRow {
    plan_id: String,
    correlation_id: String,
    kind: String,
    status: String,
    created_at: i64,
    deadline_at: Option<i64>,
    ended_at: Option<i64>,
    context: String,
    output: Option<String>,
    error: Option<String>,
    redrive_of: Option<String>,
    redriven_as: Option<String>,
}

impl PlanRow {
    fn with(self, tasks: Vec<TaskRow>, attempts: Vec<AttemptRow>) -> Result<Plan, JournalError> {
        let mut plan = self.read()?;
        plan.tasks = tasks.into_iter().map(TaskRow::read).collect::<Result<_, _>>()?;
        for row in attempts {
            let ordinal = usize::try_from(row.ordinal).unwrap_or(usize::MAX);
            let task = plan.tasks.get_mut(ordinal).ok_or_else(|| damaged("attempts.ordinal", row.ordinal))?;
            task.attempts.push(row.read()?);
        }
        Ok(plan)
    }

    fn read(self) -> Result<Plan, JournalError> {
        let Self {
            plan_id,
            correlation_id,
            kind,
            status,
            created_at,
            deadline_at,
            ended_at,
            context,
            output,
            error,
            redrive_of,
            redriven_as,
        } = self;
        Ok(Plan {
            plan_id: parse("plans.plan_id", &plan_id)?,
            correlation_id: parse("plans.correlation_id", &correlation_id)?,
            kind: PlanKind::from_name(&kind).ok_or_else(|| damaged("plans.kind", &kind))?,
            status: PlanStatus::from_name(&status).ok_or_else(|| damaged("plans.status", &status))?,
            created_at: time(created_at)?,
            deadline_at: deadline_at.map(time).transpose()?,
            ended_at: ended_at.map(time).transpose()?,
            context,
            output,
            error: stored_error(error.as_deref())?,
            redrive_of: redrive_of.map(|id| parse("plans.redrive_of", &id)).transpose()?,
            redriven_as: redriven_as.map(|id| parse("plans.plan_id", &id)).transpose()?,
            tasks: Vec::new(),
        })
    }
}

#[derive(FromRow)]
struct TaskRow {
    plan_id: String,
    task_id: String,
    key: String,
    agent: String,
    action: String,
    payload: String,
    depends_on: String,
    on_failure: String,
    status: String,
    queued_at: i64,
    dispatched_at: Option<i64>,
    ended_at: Option<i64>,
    output: Option<String>,
    error: Option<String>,
}

impl TaskRow {
    fn read(self) -> Result<Task, JournalError> {
        let Self {
            plan_id: _,
            task_id,
            key,
            agent,
            action,
            payload,
            depends_on,
            on_failure,
            status,
            queued_at,
            dispatched_at,
            ended_at,
            output,
            error,
        } = self;
        Ok(Task {
            task_id: parse("tasks.task_id", &task_id)?,
            spec: TaskSpec {
                key,
                agent: parse("tasks.agent", &agent)?,
                action,
                payload: from_json("tasks.payload", &payload)?,
                depends_on: from_json("tasks.depends_on", &depends_on)?,
                on_failure: match on_failure.as_str() {
                    "fail" => OnFailure::Fail,
                    "continue" => OnFailure::Continue,
                    other => return Err(damaged("tasks.on_failure", other)),
                },
            },
            status: TaskStatus::from_name(&status).ok_or_else(|| damaged("tasks.status", &status))?,
            queued_at: time(queued_at)?,
            dispatched_at: dispatched_at.map(time).transpose()?,
            ended_at: ended_at.map(time).transpose()?,
            output: output.map(|text| from_json("tasks.output", &text)).transpose()?,
            error: stored_error(error.as_deref())?,
            attempts: Vec::new(),
        })
    }
}

#[derive(FromRow)]
struct AttemptRow {
    plan_id: String,
    ordinal: i64,
    number: u32,
    started_at: i64,
    ended_at: Option<i64>,
    outcome: Option<String>,
    error_class: Option<String>,
    message: Option<String>,
    stderr_tail: Option<String>,
    worker: String,
}

impl AttemptRow {
    fn read(self) -> Result<Attempt, JournalError> {
        let Self {
            plan_id: _,
            ordinal: _,
            number,
            started_at,
            ended_at,
            outcome,
            error_class,
            message,
            stderr_tail,
            worker,
        } = self;
        let outcome = match outcome.as_deref() {
            None => None,
            Some("succeeded") => Some(AttemptOutcome::Succeeded),
            Some("cancelled") => Some(AttemptOutcome::Cancelled),
            Some("failed") => {
                let class = error_class.unwrap_or_default();
                Some(AttemptOutcome::Failed {
                    class: FailureClass::from_name(&class)
                        .ok_or_else(|| damaged("attempts.error_class", &class))?,
                    message: message.unwrap_or_default(),
                    stderr_tail: stderr_tail.unwrap_or_default(),
                })
            }
            Some(other) => return Err(damaged("attempts.outcome", other)),
        };
        Ok(Attempt {
            number,
            started_at: time(started_at)?,
            ended_at: ended_at.map(time).transpose()?,
            outcome,
            worker,
        })
    }
}

/// Text that is put together here from constants only.
fn sql(text: String) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(text)
}

pub(super) fn damaged(column: &str, value: impl std::fmt::Display) -> JournalError {
    JournalError::Damaged(format!("{column} holds `{value}`"))
}

pub(super) fn parse<T: std::str::FromStr>(column: &str, text: &str) -> Result<T, JournalError> {
    text.parse().map_err(|_| damaged(column, text))
}

/// What is wrong is told without the text itself, which is somebody's.
fn from_json<T: DeserializeOwned>(column: &str, text: &str) -> Result<T, JournalError> {
    let wrong = |error: serde_json::Error| {
        JournalError::Damaged(format!(
            "{column} holds other JSON than is expected from character {} on",
            error.column()
        ))
    };
    serde_json::from_str(text).map_err(wrong)
}

pub(super) fn stored_error(text: Option<&str>) -> Result<Option<OrchestratorError>, JournalError> {
    text.map(|text| from_json("error", text)).transpose()
}

pub(super) fn time(micros: i64) -> Result<Timestamp, JournalError> {
    Timestamp::from_microsecond(micros).map_err(|_| damaged("time", micros))
}
