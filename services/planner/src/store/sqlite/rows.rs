//! Rows of the tables, written with as few statements as possible: each round trip to SQLite's thread costs more than a row,
//! and no other commit can run meanwhile.

use std::sync::LazyLock;

use phoenix_domain::{CorrelationId, PlanId, TaskId};
use sqlx::{
    QueryBuilder, Sqlite, SqliteConnection, query::Query, query_builder::Separated, sqlite::SqliteArguments,
};

/// Cells of a row, in the order of the statement's columns.
pub(super) type Row = Vec<Cell>;

/// Value of a column.
#[derive(Debug, Clone)]
pub(super) enum Cell {
    Null,
    Integer(i64),
    Text(String),
}

/// A row of these values.
macro_rules! row {
    ($($value:expr),+ $(,)?) => { vec![$($crate::store::sqlite::rows::Cell::from($value)),+] };
}
pub(super) use row;

/// Rows of a batch, by table and kind of change.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub(super) plans: Vec<Row>,
    /// Budgets of new plans that have one.
    pub(super) plan_budgets: Vec<Row>,
    pub(super) tasks: Vec<Row>,
    pub(super) attempts: Vec<Row>,
    /// Ends of attempts that started in an earlier batch.
    pub(super) attempt_ends: Vec<Row>,
    /// Calls of models of failed attempts.
    pub(super) attempt_calls: Vec<Row>,
    /// Updates of tasks and plans that were accepted in an earlier batch.
    pub(super) task_updates: Vec<Row>,
    pub(super) plan_updates: Vec<Row>,
    /// Tasks that entries dead-letter.
    pub(super) dead_letters: Vec<Row>,
    /// Conditions of new tasks that have any.
    pub(super) task_conditions: Vec<Row>,
    /// Approvals that tasks begin to wait for.
    pub(super) approvals: Vec<Row>,
    pub(super) pauses: Vec<Row>,
    /// Plans that were redriven.
    pub(super) redrives: Vec<Row>,
    pub(super) events: Vec<Row>,
    /// Records that the tables reject.
    pub(super) quarantined: Vec<Row>,
    /// Advance of the journal's position: one for each event and for each record in quarantine.
    pub(super) event_count: i64,
}

/// A statement around `VALUES (…), (…)`.
struct Statement(&'static str, &'static str);

/// `OR ROLLBACK`, because any failure ends the whole transaction; a statement that can be undone on its own copies each page
/// before it writes it.
const PLANS: Statement = Statement(
    "INSERT OR ROLLBACK INTO plans
     (plan_id, correlation_id, kind, status, owner, created_at, deadline_at, context, ended_at, error,
      redrive_of, applied_early) ",
    "",
);

const PLAN_BUDGETS: Statement = Statement(
    "WITH new (plan_id, budget) AS (",
    ")
     UPDATE plans SET budget = new.budget FROM new WHERE plans.plan_id = new.plan_id",
);

const TASKS: Statement = Statement(
    "INSERT INTO tasks
     (plan_id, ordinal, task_id, key, agent, action, payload, depends_on, on_failure, status, queued_at, dispatched_at,
      ended_at, output, error) ",
    "",
);

/// An executor that repeats a number must not stop the journal, nor one that reports on a plan that ended before.
const ATTEMPTS: Statement = Statement(
    "WITH new (is_of_new_plan, plan_id, ordinal, number, started_at, worker, ended_at, outcome, error_class, message,
           stderr_tail) AS (",
    ")
     INSERT INTO attempts
     (plan_id, ordinal, number, started_at, worker, ended_at, outcome, error_class, message, stderr_tail)
     SELECT plan_id, ordinal, number, started_at, worker, ended_at, outcome, error_class, message, stderr_tail FROM new
     WHERE is_of_new_plan OR NOT EXISTS (
         SELECT 1 FROM plans WHERE plans.plan_id = new.plan_id AND status IN ('succeeded', 'failed', 'cancelled'))
     ON CONFLICT (plan_id, ordinal, number) DO NOTHING",
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

/// The first end counts.
const ATTEMPT_CALLS: Statement = Statement(
    "WITH used (plan_id, ordinal, number, model_calls) AS (",
    ")
     UPDATE attempts SET model_calls = used.model_calls
     FROM used
     WHERE attempts.plan_id = used.plan_id AND attempts.ordinal = used.ordinal AND attempts.number = used.number
       AND attempts.outcome = 'failed' AND attempts.model_calls IS NULL",
);

/// A terminal state never changes.
const TASK_UPDATES: Statement = Statement(
    "WITH change (plan_id, ordinal, status, dispatched_at, ended_at, output, error) AS (",
    ")
     UPDATE tasks
     SET status = change.status, dispatched_at = coalesce(tasks.dispatched_at, change.dispatched_at),
         ended_at = change.ended_at, output = change.output, error = change.error
     FROM change
     WHERE tasks.plan_id = change.plan_id AND tasks.ordinal = change.ordinal
       AND tasks.status NOT IN ('succeeded', 'dead_lettered', 'cancelled')",
);

const PLAN_UPDATES: Statement = Statement(
    "WITH change (plan_id, status, ended_at, error) AS (",
    ")
     UPDATE plans
     SET status = change.status, ended_at = change.ended_at, error = change.error
     FROM change
     WHERE plans.plan_id = change.plan_id AND plans.status NOT IN ('succeeded', 'failed', 'cancelled')
       AND plans.status <> change.status",
);

/// A task that ended otherwise before is no dead letter, whatever later entries say.
const DEAD_LETTERS: Statement = Statement(
    "WITH failed (plan_id, ordinal) AS (",
    ")
     INSERT INTO dead_letters (plan_id, ordinal, at, agent, code, error_class)
     SELECT tasks.plan_id, tasks.ordinal, tasks.ended_at, tasks.agent, tasks.error ->> '$.code',
            tasks.error ->> '$.details.error_class'
     FROM failed CROSS JOIN tasks ON tasks.plan_id = failed.plan_id AND tasks.ordinal = failed.ordinal
     WHERE tasks.status = 'dead_lettered' ON CONFLICT (plan_id, ordinal) DO NOTHING",
);

const TASK_CONDITIONS: Statement = Statement(
    "WITH new (plan_id, ordinal, conditions) AS (",
    ")
     UPDATE tasks SET conditions = new.conditions
     FROM new WHERE tasks.plan_id = new.plan_id AND tasks.ordinal = new.ordinal",
);

/// A task that has ended by now waits for nothing. A later request counts once the earlier one is decided.
const APPROVALS: Statement = Statement(
    "WITH new (plan_id, ordinal, requested_at, expires_at, reason, approver, on_expiry, input, input_hash) AS (",
    ")
     INSERT INTO approvals
     (plan_id, ordinal, requested_at, expires_at, reason, approver, on_expiry, input, input_hash, state, is_open)
     SELECT new.*, CASE WHEN tasks.status = 'awaiting_approval' THEN 'waiting' ELSE 'withdrawn' END,
            tasks.status = 'awaiting_approval'
     FROM new CROSS JOIN tasks ON tasks.plan_id = new.plan_id AND tasks.ordinal = new.ordinal
     WHERE TRUE ON CONFLICT (plan_id, ordinal) DO UPDATE
     SET requested_at = excluded.requested_at, expires_at = excluded.expires_at, reason = excluded.reason,
         approver = excluded.approver, on_expiry = excluded.on_expiry, input = excluded.input, input_hash = excluded.input_hash,
         state = excluded.state, is_open = excluded.is_open, decided_at = NULL, actor = NULL, decision_reason = NULL,
         decided_by = NULL, new_input = NULL
     WHERE approvals.state <> 'waiting' AND approvals.requested_at < excluded.requested_at",
);

/// The last pause of a task counts.
const PAUSES: Statement = Statement(
    "WITH new (plan_id, ordinal, requested_at, expires_at, reason, approver, on_expiry, input, input_hash) AS (",
    ")
     INSERT OR REPLACE INTO pauses
     (plan_id, ordinal, requested_at, expires_at, reason, approver, on_expiry, input, input_hash, state, is_open)
     SELECT new.*, CASE WHEN tasks.status = 'awaiting_budget' THEN 'waiting' ELSE 'withdrawn' END,
            tasks.status = 'awaiting_budget'
     FROM new CROSS JOIN tasks ON tasks.plan_id = new.plan_id AND tasks.ordinal = new.ordinal",
);

const REDRIVES: Statement = Statement(
    "WITH redriven (plan_id, at, by, reason) AS (",
    ")
     UPDATE dead_letters
     SET state = 'redriven', settled_at = redriven.at, settled_by = redriven.by, reason = redriven.reason
     FROM redriven WHERE dead_letters.plan_id = redriven.plan_id AND +dead_letters.state = 'open'",
);

const EVENTS: Statement = Statement("INSERT INTO events (plan_id, position, events) ", "");

const QUARANTINED: Statement =
    Statement("INSERT INTO quarantined_records (plan_id, at, reason, is_unknown, planner, record) ", "");

/// A statement in a few sizes that stay prepared: preparing one costs as much as running it.
struct Prepared([(usize, String); 3]);

impl Prepared {
    fn of(statement: &Statement, columns: usize) -> Self {
        Self([64, 16, 4].map(|rows| (rows, statement.of_rows(rows, columns))))
    }
}

static PREPARED_PLANS: LazyLock<Prepared> = LazyLock::new(|| Prepared::of(&PLANS, 12));
static PREPARED_TASKS: LazyLock<Prepared> = LazyLock::new(|| Prepared::of(&TASKS, 15));
static PREPARED_ATTEMPTS: LazyLock<Prepared> = LazyLock::new(|| Prepared::of(&ATTEMPTS, 11));
static PREPARED_EVENTS: LazyLock<Prepared> = LazyLock::new(|| Prepared::of(&EVENTS, 3));

/// Maximum number of rows in one round trip: a statement has at most 32 766 values (<https://sqlite.org/limits.html>).
const MAX_ROWS: usize = 1000;

impl Statement {
    /// Text of the statement for a number of rows and columns.
    fn of_rows(&self, rows: usize, columns: usize) -> String {
        let row = format!("({})", vec!["?"; columns].join(", "));
        format!("{}VALUES {}{}", self.0, vec![row; rows].join(", "), self.1)
    }
}

impl Rows {
    /// Writes all rows at the end of `script`.
    pub(super) async fn write(self, script: &mut Script<'_>) -> Result<(), sqlx::Error> {
        let Self {
            mut plans,
            plan_budgets,
            mut tasks,
            mut attempts,
            attempt_ends,
            attempt_calls,
            task_updates,
            plan_updates,
            dead_letters,
            task_conditions,
            approvals,
            pauses,
            redrives,
            mut events,
            quarantined,
            event_count: _,
        } = self;
        // Inserts precede the updates of their rows, and plans precede their tasks.
        script.prepared(&PREPARED_PLANS, &mut plans).await?;
        script.rows(&PLANS, plans).await?;
        script.prepared(&PREPARED_TASKS, &mut tasks).await?;
        script.rows(&TASKS, tasks).await?;
        script.prepared(&PREPARED_ATTEMPTS, &mut attempts).await?;
        script.rows(&ATTEMPTS, attempts).await?;
        script.prepared(&PREPARED_EVENTS, &mut events).await?;
        for (statement, rows) in [
            (PLAN_BUDGETS, plan_budgets),
            (ATTEMPT_ENDS, attempt_ends),
            (ATTEMPT_CALLS, attempt_calls),
            (TASK_UPDATES, task_updates),
            (PLAN_UPDATES, plan_updates),
            (DEAD_LETTERS, dead_letters),
            (TASK_CONDITIONS, task_conditions),
            (APPROVALS, approvals),
            (PAUSES, pauses),
            (REDRIVES, redrives),
            (EVENTS, events),
            (QUARANTINED, quarantined),
        ] {
            script.rows(&statement, rows).await?;
        }
        Ok(())
    }
}

/// A sequence of statements, sent to SQLite in as few round trips as possible.
pub(super) struct Script<'c> {
    connection: &'c mut SqliteConnection,
    text: QueryBuilder<Sqlite>,
    rows: usize,
}

impl<'c> Script<'c> {
    /// A script that begins with `statements`, each terminated by a semicolon.
    pub(super) fn new(connection: &'c mut SqliteConnection, statements: &'static str) -> Self {
        Self { connection, text: QueryBuilder::new(statements), rows: 0 }
    }

    async fn rows(
        &mut self,
        Statement(head, tail): &Statement,
        mut rows: Vec<Row>,
    ) -> Result<(), sqlx::Error> {
        while !rows.is_empty() {
            if self.rows >= MAX_ROWS {
                self.send().await?;
            }
            let later = rows.split_off(rows.len().min(MAX_ROWS - self.rows));
            self.rows += rows.len();
            self.text.push(*head).push_values(rows, push_row).push(*tail).push(";");
            rows = later;
        }
        Ok(())
    }

    /// Writes as many of `rows` as fill a size of the statement, and leaves the others.
    async fn prepared(
        &mut self,
        Prepared(sizes): &'static Prepared,
        rows: &mut Vec<Row>,
    ) -> Result<(), sqlx::Error> {
        let mut left = std::mem::take(rows).into_iter();
        for (size, statement) in sizes {
            while left.len() >= *size {
                let cells = left.by_ref().take(*size).flatten();
                let query = cells.fold(sqlx::query(statement.as_str()), |query, cell| match cell {
                    Cell::Null => query.bind(None::<i64>),
                    Cell::Integer(number) => query.bind(number),
                    Cell::Text(text) => query.bind(text),
                });
                self.run(query).await?;
            }
        }
        *rows = left.collect();
        Ok(())
    }

    /// Runs a statement that stays prepared, after everything before it.
    pub(super) async fn run(&mut self, query: Query<'_, Sqlite, SqliteArguments>) -> Result<(), sqlx::Error> {
        self.send().await?;
        query.execute(&mut *self.connection).await?;
        Ok(())
    }

    async fn send(&mut self) -> Result<(), sqlx::Error> {
        let mut text = std::mem::replace(&mut self.text, QueryBuilder::new(""));
        self.rows = 0;
        if text.sql().as_str().is_empty() {
            return Ok(());
        }
        // Each script has a text of its own.
        text.build().persistent(false).execute(&mut *self.connection).await?;
        Ok(())
    }

    /// Sends the rest, followed by `statements`.
    pub(super) async fn end(mut self, statements: &'static str) -> Result<(), sqlx::Error> {
        self.text.push(statements);
        self.send().await
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
