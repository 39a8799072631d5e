//! Rows of the tables, all in one script: every trip to SQLite's own thread and back costs more than a row does, and on a
//! busy machine each waits for its turn while nobody else can commit.

use jiff::Timestamp;
use phoenix_domain::{CorrelationId, PlanId, TaskId};
use serde::Serialize;
use sqlx::{QueryBuilder, Sqlite, query_builder::Separated};

/// The columns of one row, in the order of its statement.
pub(super) type Row = Vec<Cell>;

/// What a column may hold.
#[derive(Debug, Clone)]
pub(super) enum Cell {
    Null,
    Integer(i64),
    Text(String),
}

/// A row of the values that are listed.
macro_rules! row {
    ($($value:expr),+ $(,)?) => { vec![$($crate::store::sqlite::rows::Cell::from($value)),+] };
}
pub(super) use row;

/// What a batch comes to, by table and kind of change.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) plans: Vec<Row>,
    pub(super) tasks: Vec<Row>,
    pub(super) attempts: Vec<Row>,
    /// Of attempts that began in an earlier batch.
    pub(super) attempt_ends: Vec<Row>,
    /// Of tasks and plans that were accepted in an earlier batch.
    pub(super) task_changes: Vec<Row>,
    pub(super) plan_changes: Vec<Row>,
    /// Of tasks that are said to have failed for good.
    pub(super) dead_letters: Vec<Row>,
    /// Of plans that were taken up again.
    pub(super) redrives: Vec<Row>,
    pub(super) events: Vec<Row>,
    /// How many events these rows hold.
    pub(super) event_count: i64,
}

/// A statement around `VALUES (…), (…)`.
struct Statement(&'static str, &'static str);

const PLANS: Statement = Statement(
    "INSERT INTO plans
     (plan_id, correlation_id, kind, status, owner, created_at, deadline_at, context, ended_at, output, error,
      redrive_of) ",
    "",
);

const TASKS: Statement = Statement(
    "INSERT INTO tasks
     (plan_id, ordinal, task_id, key, agent, action, payload, depends_on, on_failure, status, queued_at, dispatched_at,
      ended_at, output, error) ",
    "",
);

/// An executor that counts wrong must not stop the journal.
const ATTEMPTS: Statement = Statement(
    "INSERT INTO attempts
     (plan_id, ordinal, number, started_at, worker, ended_at, outcome, error_class, message, stderr_tail) ",
    " ON CONFLICT (plan_id, ordinal, number) DO NOTHING",
);

const ATTEMPT_ENDS: Statement = Statement(
    "WITH ended (plan_id, ordinal, number, at, outcome, error_class, message, stderr_tail) AS (",
    ")
     UPDATE attempts
     SET ended_at = ended.at, outcome = ended.outcome, error_class = ended.error_class, message = ended.message,
         stderr_tail = ended.stderr_tail
     FROM ended
     WHERE attempts.plan_id = ended.plan_id AND attempts.ordinal = ended.ordinal AND attempts.number = ended.number
       AND attempts.outcome IS NULL",
);

/// A terminal state never changes.
const TASK_CHANGES: Statement = Statement(
    "WITH change (plan_id, ordinal, status, dispatched_at, ended_at, output, error) AS (",
    ")
     UPDATE tasks
     SET status = change.status, dispatched_at = coalesce(tasks.dispatched_at, change.dispatched_at),
         ended_at = change.ended_at, output = change.output, error = change.error
     FROM change
     WHERE tasks.plan_id = change.plan_id AND tasks.ordinal = change.ordinal
       AND tasks.status NOT IN ('succeeded', 'dead_lettered', 'cancelled')",
);

const PLAN_CHANGES: Statement = Statement(
    "WITH change (plan_id, status, ended_at, output, error) AS (",
    ")
     UPDATE plans
     SET status = change.status, ended_at = change.ended_at, output = change.output, error = change.error
     FROM change
     WHERE plans.plan_id = change.plan_id AND plans.status NOT IN ('succeeded', 'failed', 'cancelled')
       AND plans.status <> change.status",
);

/// A task that had ended otherwise before has not failed, whatever was said later.
const DEAD_LETTERS: Statement = Statement(
    "WITH failed (plan_id, ordinal) AS (",
    ")
     INSERT INTO dead_letters (plan_id, ordinal, at, agent, code, error_class)
     SELECT tasks.plan_id, tasks.ordinal, tasks.ended_at, tasks.agent, tasks.error ->> '$.code',
            tasks.error ->> '$.details.error_class'
     FROM failed CROSS JOIN tasks ON tasks.plan_id = failed.plan_id AND tasks.ordinal = failed.ordinal
     WHERE tasks.status = 'dead_lettered' ON CONFLICT (plan_id, ordinal) DO NOTHING",
);

const REDRIVES: Statement = Statement(
    "WITH redriven (plan_id, at, by, reason) AS (",
    ")
     UPDATE dead_letters
     SET state = 'redriven', settled_at = redriven.at, settled_by = redriven.by, reason = redriven.reason
     FROM redriven WHERE dead_letters.plan_id = redriven.plan_id AND +dead_letters.state = 'open'",
);

const EVENTS: Statement = Statement("INSERT INTO events (plan_id, position, events) ", "");

impl Rows {
    /// Adds the statements that write them all to `script`.
    pub(super) fn write(self, script: &mut QueryBuilder<Sqlite>) {
        let Self {
            plans,
            tasks,
            attempts,
            attempt_ends,
            task_changes,
            plan_changes,
            dead_letters,
            redrives,
            events,
            event_count: _,
        } = self;
        // Inserts come before changes of what they insert.
        for (Statement(head, tail), rows) in [
            (PLANS, plans),
            (TASKS, tasks),
            (ATTEMPTS, attempts),
            (ATTEMPT_ENDS, attempt_ends),
            (TASK_CHANGES, task_changes),
            (PLAN_CHANGES, plan_changes),
            (DEAD_LETTERS, dead_letters),
            (REDRIVES, redrives),
            (EVENTS, events),
        ] {
            if !rows.is_empty() {
                script.push(head).push_values(rows, push_row).push(tail).push(";");
            }
        }
    }
}

fn push_row(mut columns: Separated<'_, Sqlite, &'static str>, row: Row) {
    for cell in row {
        match cell {
            Cell::Null => columns.push_bind(None::<i64>),
            Cell::Integer(number) => columns.push_bind(number),
            Cell::Text(text) => columns.push_bind(text),
        };
    }
}

pub(super) fn micros(time: Timestamp) -> i64 {
    time.as_microsecond()
}

/// What is written has string keys and no number that JSON lacks, so it can always be written.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

impl From<i64> for Cell {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<u32> for Cell {
    fn from(number: u32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<usize> for Cell {
    fn from(number: usize) -> Self {
        Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl<T: Into<Self>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

macro_rules! ids {
    ($($id:ty),+) => { $(
        impl From<$id> for Cell {
            fn from(id: $id) -> Self {
                Self::Text(id.to_string())
            }
        }
    )+ };
}

ids!(PlanId, TaskId, CorrelationId);
