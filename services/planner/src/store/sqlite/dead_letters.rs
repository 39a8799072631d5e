//! Dead letters and sweeps: read, and decided about. A dead letter's row is written with the task that failed, and settled
//! with the plan that takes it up again (`rows.rs`).

use jiff::Timestamp;
use phoenix_domain::{
    BulkRedriveId, CorrelationId, PlanId,
    dead_letter::{DeadLetter, DeadLetterState, Resolution},
};
use serde::Serialize;
use sqlx::{FromRow, QueryBuilder, Row, Sqlite, SqliteConnection, SqlitePool, sqlite::SqliteRow};

use super::{
    super::{
        DeadLetterFilter, DeadLetterPlace, DeadLetterQuery, OpenDeadLetters, Page, Sweep, SweepAction,
        TaskRef, Unreadable,
    },
    Entry, JournalError,
    read::page,
    rows::{json, micros},
    stored::{damaged, parse, stored_error, time},
};

const SWEEP_COLUMNS: &str = "sweep_id, action, rate, reason, by, at, selected";

/// Whether `entry` is for [`sweep_on`].
pub(super) const fn is_sweep(entry: &Entry) -> bool {
    matches!(entry, Entry::SweepBegun { .. } | Entry::SweepEnded { .. })
}

/// Begins or ends a sweep of `planner`. Part of a transaction in which the tables hold everything that is durable.
pub(super) async fn sweep_on(
    connection: &mut SqliteConnection,
    planner: &str,
    entry: &Entry,
) -> Result<(), JournalError> {
    match entry {
        Entry::SweepBegun { sweep, filter, limit } => {
            begin_sweep(connection, planner, sweep, filter, *limit).await
        }
        Entry::SweepEnded { sweep_id, at } => {
            sqlx::query("UPDATE sweeps SET ended_at = ? WHERE sweep_id = ? AND ended_at IS NULL")
                .bind(micros(*at))
                .bind(sweep_id.to_string())
                .execute(connection)
                .await?;
            Ok(())
        }
        _ => Ok(()),
    }
}

async fn begin_sweep(
    connection: &mut SqliteConnection,
    planner: &str,
    sweep: &Sweep,
    filter: &DeadLetterFilter,
    limit: u32,
) -> Result<(), JournalError> {
    let Sweep { sweep_id, action, at, by, reason } = sweep;
    let (rate, ended_at) = match action {
        SweepAction::Redrive { rate } => (Some(*rate), None),
        SweepAction::Discard => (None, Some(micros(*at))),
    };
    let selected = select(connection, sweep, filter, limit).await?;
    sqlx::query(
        "INSERT INTO sweeps (sweep_id, action, rate, reason, by, at, owner, selected, ended_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(sweep_id.to_string())
    .bind(action.as_str())
    .bind(rate)
    .bind(reason)
    .bind(by.to_string())
    .bind(micros(*at))
    .bind(planner.to_owned())
    .bind(selected)
    .bind(ended_at)
    .execute(&mut *connection)
    .await?;
    if *action == SweepAction::Discard {
        tell_of_discards(connection, sweep, selected).await?;
    }
    Ok(())
}

/// Marks the dead letters that a sweep is about: how many.
async fn select(
    connection: &mut SqliteConnection,
    sweep: &Sweep,
    filter: &DeadLetterFilter,
    limit: u32,
) -> Result<i64, JournalError> {
    let mut query = QueryBuilder::new("UPDATE dead_letters SET sweep_id = ");
    query.push_bind(sweep.sweep_id.to_string());
    if sweep.action == SweepAction::Discard {
        query.push(", state = 'discarded', settled_at = ").push_bind(micros(sweep.at));
        query.push(", settled_by = ").push_bind(sweep.by.to_string());
        query.push(", reason = ").push_bind(sweep.reason.clone());
    }
    query.push(" WHERE (plan_id, ordinal) IN (SELECT plan_id, ordinal FROM dead_letters WHERE ");
    push_conditions(&mut query, DeadLetterState::Open, filter);
    if let SweepAction::Redrive { .. } = sweep.action {
        // Few plans are in flight, and few sweeps, compared with what there may be of dead letters.
        query.push(
            " AND coalesce(sweep_id, '') NOT IN (SELECT sweep_id FROM sweeps WHERE ended_at IS NULL)
              AND plan_id NOT IN (SELECT plan_id FROM plans WHERE status IN ('pending', 'running'))",
        );
    }
    query.push(" ORDER BY at, plan_id, ordinal LIMIT ").push_bind(limit).push(")");
    let selected = query.build().execute(&mut *connection).await?.rows_affected();
    Ok(i64::try_from(selected).unwrap_or(i64::MAX))
}

/// The facts of a `dead_letter_discarded`, as readers of the journal find them.
#[derive(Serialize)]
struct Discarded<'a> {
    correlation_id: CorrelationId,
    reason: &'a str,
    sweep_id: BulkRedriveId,
}

/// One event for each dead letter that `sweep` has discarded.
async fn tell_of_discards(
    connection: &mut SqliteConnection,
    sweep: &Sweep,
    discarded: i64,
) -> Result<(), JournalError> {
    let Sweep { sweep_id, action: _, at, by, reason } = sweep;
    let facts = Discarded { correlation_id: *by, reason, sweep_id: *sweep_id };
    // As `merge.rs` writes them: the events of one plan are one row.
    sqlx::query(
        "INSERT INTO events (plan_id, position, events)
         SELECT plan_id, 1 + sum(count(*)) OVER (ORDER BY plan_id) - count(*) + (SELECT position FROM journal),
                json_group_array(json_array(ordinal, 'dead_letter_discarded', ?, json(?)) ORDER BY ordinal)
         FROM dead_letters WHERE sweep_id = ? GROUP BY plan_id",
    )
    .bind(micros(*at))
    .bind(json(&facts))
    .bind(sweep_id.to_string())
    .execute(&mut *connection)
    .await?;
    sqlx::query("UPDATE journal SET position = position + ?")
        .bind(discarded)
        .execute(&mut *connection)
        .await?;
    Ok(())
}

/// Gives the sweeps whose owner is gone to `planner`: those, and those that can't be read.
pub(super) async fn claim_sweeps(
    connection: &mut SqliteConnection,
    planner: &str,
) -> Result<(Vec<Sweep>, Vec<Unreadable>), JournalError> {
    let rows: Vec<SweepRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "UPDATE sweeps SET owner = ? WHERE ended_at IS NULL AND owner NOT IN (SELECT instance FROM planners)
         AND EXISTS (SELECT 1 FROM planners WHERE instance = ?) RETURNING {SWEEP_COLUMNS}"
    )))
    .bind(planner.to_owned())
    .bind(planner.to_owned())
    .fetch_all(connection)
    .await?;
    let (mut sweeps, mut unreadable) = (Vec::new(), Vec::new());
    for row in rows {
        let id = row.sweep_id.clone();
        match row.read() {
            Ok((sweep, _)) => sweeps.push(sweep),
            Err(error) => unreadable.push(Unreadable { id, what: error.to_string() }),
        }
    }
    Ok((sweeps, unreadable))
}

pub(super) async fn sweep(
    pool: &SqlitePool,
    sweep_id: BulkRedriveId,
) -> Result<Option<(Sweep, u64)>, JournalError> {
    let row: Option<SweepRow> =
        sqlx::query_as(sqlx::AssertSqlSafe(format!("SELECT {SWEEP_COLUMNS} FROM sweeps WHERE sweep_id = ?")))
            .bind(sweep_id.to_string())
            .fetch_optional(pool)
            .await?;
    row.map(SweepRow::read).transpose()
}

pub(super) async fn swept_plans(
    pool: &SqlitePool,
    sweep_id: BulkRedriveId,
) -> Result<Vec<PlanId>, JournalError> {
    let plans: Vec<String> = sqlx::query_scalar(
        "SELECT plan_id FROM dead_letters WHERE sweep_id = ? AND state = 'open'
         GROUP BY plan_id ORDER BY min(at), plan_id",
    )
    .bind(sweep_id.to_string())
    .fetch_all(pool)
    .await?;
    plans.iter().map(|id| parse("dead_letters.plan_id", id)).collect()
}

pub(super) async fn open(pool: &SqlitePool) -> Result<OpenDeadLetters, JournalError> {
    let (count, oldest): (i64, Option<i64>) = sqlx::query_as(
        "SELECT open_dead_letters, (SELECT min(at) FROM dead_letters WHERE state = 'open') FROM journal",
    )
    .fetch_one(pool)
    .await?;
    let count = u64::try_from(count).map_err(|_| damaged("journal.open_dead_letters", count))?;
    Ok(OpenDeadLetters { count, oldest: oldest.map(time).transpose()? })
}

pub(super) async fn list(
    pool: &SqlitePool,
    query: &DeadLetterQuery,
) -> Result<Page<DeadLetter, DeadLetterPlace>, JournalError> {
    let DeadLetterQuery { filter, state, before, limit } = query;
    // The page first, by the index alone; then what is to be told of the few that are on it.
    let mut query = QueryBuilder::new(
        "SELECT page.plan_id, page.ordinal, plans.correlation_id, tasks.task_id, tasks.key, tasks.agent, tasks.action,
                tasks.error, page.at, page.state, page.settled_at, page.settled_by, page.reason,
                (SELECT count(*) FROM attempts
                 WHERE attempts.plan_id = page.plan_id AND attempts.ordinal = page.ordinal) AS attempts,
                (SELECT later.plan_id FROM plans AS later WHERE later.redrive_of = page.plan_id) AS redriven_as
         FROM (SELECT * FROM dead_letters WHERE ",
    );
    push_conditions(&mut query, *state, filter);
    if let Some(DeadLetterPlace { at, task }) = before {
        query.push(" AND (at, plan_id, ordinal) < (").push_bind(micros(*at));
        query.push(", ").push_bind(task.plan_id.to_string());
        query.push(", ").push_bind(i64::try_from(task.ordinal).unwrap_or(i64::MAX)).push(")");
    }
    query.push(" ORDER BY at DESC, plan_id DESC, ordinal DESC LIMIT ").push_bind(i64::from(*limit) + 1);
    query.push(
        ") AS page
         JOIN plans ON plans.plan_id = page.plan_id
         JOIN tasks ON tasks.plan_id = page.plan_id AND tasks.ordinal = page.ordinal
         ORDER BY page.at DESC, page.plan_id DESC, page.ordinal DESC",
    );
    let place = |row: &SqliteRow| {
        let plan_id = row.try_get::<String, _>("plan_id").ok()?.parse().ok()?;
        let ordinal = usize::try_from(row.try_get::<i64, _>("ordinal").ok()?).ok()?;
        Some(DeadLetterPlace { at: time(row.try_get("at").ok()?).ok()?, task: TaskRef { plan_id, ordinal } })
    };
    page(query.build().fetch(pool), *limit, place, |row| DeadLetterRow::from_row(row)?.read()).await
}

/// Conditions are written only where they filter, so that each shape finds its index: the key where the plans are known
/// (the plus keeps the state from being looked up), else one in the order of listings.
fn push_conditions(query: &mut QueryBuilder<Sqlite>, state: DeadLetterState, filter: &DeadLetterFilter) {
    let DeadLetterFilter { agent, code, error_class, plan_id, correlation_id, since } = filter;
    let by_plan = plan_id.is_some() || correlation_id.is_some();
    query.push(if by_plan { "+state = " } else { "state = " }).push_bind(state.as_str());
    if let Some(agent) = agent {
        query.push(" AND agent = ").push_bind(agent.as_str().to_owned());
    }
    if let Some(code) = code {
        query.push(" AND code = ").push_bind(code.as_str());
    }
    if let Some(class) = error_class {
        query.push(" AND error_class = ").push_bind(class.as_str());
    }
    if let Some(plan_id) = plan_id {
        query.push(" AND plan_id = ").push_bind(plan_id.to_string());
    }
    if let Some(id) = correlation_id {
        query.push(" AND plan_id IN (SELECT plan_id FROM plans WHERE correlation_id = ");
        query.push_bind(id.to_string()).push(")");
    }
    if let Some(since) = since {
        query.push(" AND at >= ").push_bind(micros(*since));
    }
}

#[derive(FromRow)]
struct DeadLetterRow {
    plan_id: String,
    ordinal: i64,
    correlation_id: String,
    task_id: String,
    key: String,
    agent: String,
    action: String,
    error: Option<String>,
    at: i64,
    state: String,
    settled_at: Option<i64>,
    settled_by: Option<String>,
    reason: Option<String>,
    attempts: u32,
    redriven_as: Option<String>,
}

impl DeadLetterRow {
    fn read(self) -> Result<DeadLetter, JournalError> {
        let Self {
            plan_id,
            ordinal,
            correlation_id,
            task_id,
            key,
            agent,
            action,
            error,
            at,
            state,
            settled_at,
            settled_by,
            reason,
            attempts,
            redriven_as,
        } = self;
        let state =
            DeadLetterState::from_name(&state).ok_or_else(|| damaged("dead_letters.state", &state))?;
        let resolution = settled_at.map(|at| -> Result<_, JournalError> {
            let by: CorrelationId = parse("dead_letters.settled_by", &settled_by.unwrap_or_default())?;
            let redriven_as = redriven_as.filter(|_| state == DeadLetterState::Redriven);
            Ok(Resolution {
                at: time(at)?,
                by,
                reason: reason.unwrap_or_default(),
                redriven_as: redriven_as.map(|id| parse("plans.plan_id", &id)).transpose()?,
            })
        });
        Ok(DeadLetter {
            plan_id: parse("dead_letters.plan_id", &plan_id)?,
            ordinal: usize::try_from(ordinal).map_err(|_| damaged("dead_letters.ordinal", ordinal))?,
            correlation_id: parse("plans.correlation_id", &correlation_id)?,
            task_id: parse("tasks.task_id", &task_id)?,
            key,
            agent: parse("tasks.agent", &agent)?,
            action,
            error: stored_error(error.as_deref())?.ok_or_else(|| damaged("tasks.error", "nothing"))?,
            attempts,
            at: time(at)?,
            state,
            resolution: resolution.transpose()?,
        })
    }
}

#[derive(FromRow)]
struct SweepRow {
    sweep_id: String,
    action: String,
    rate: Option<f64>,
    reason: String,
    by: String,
    at: i64,
    selected: i64,
}

impl SweepRow {
    fn read(self) -> Result<(Sweep, u64), JournalError> {
        let Self { sweep_id, action, rate, reason, by, at, selected } = self;
        let action = match (action.as_str(), rate) {
            ("redrive", Some(rate)) => SweepAction::Redrive { rate },
            ("discard", _) => SweepAction::Discard,
            (other, _) => return Err(damaged("sweeps.action", other)),
        };
        let at: Timestamp = time(at)?;
        let (sweep_id, by) = (parse("sweeps.sweep_id", &sweep_id)?, parse("sweeps.by", &by)?);
        let selected = u64::try_from(selected).map_err(|_| damaged("sweeps.selected", selected))?;
        Ok((Sweep { sweep_id, action, at, by, reason }, selected))
    }
}
