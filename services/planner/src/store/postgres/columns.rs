//! Row changes as columns: one array for each column, in the order of the parameters of `append_batch`.

use std::{borrow::Cow, fmt::Write};

use phoenix_domain::{
    PlanId,
    plan::{Plan, Task},
    usage::ModelCall,
};
use sqlx::{Postgres, postgres::PgArguments, query::QueryScalar};
use uuid::Uuid;

use crate::store::{
    changes::{
        AttemptEnd, ChangedAttempt, ChangedPlan, ChangedTask, NewAttempt, NewPlan, NewTask, RowChanges,
    },
    entry::{BatchId, Entry},
    plan_events::Events,
    projection::Redrive,
    record::{budget_text, calls_text, error_text, output_text},
    stored::{
        text::escape,
        value::{json, micros},
    },
};

/// Code of a dead letter whose entry has no error.
const NO_CODE: &str = "internal";

/// The statement, without its arguments.
pub(super) type AppendQuery<'q> = QueryScalar<'q, Postgres, bool, PgArguments>;

/// Columns of one kind of change.
macro_rules! columns {
    ($name:ident { $($column:ident: $kind:ty),+ $(,)? }) => {
        #[derive(Debug, Default)]
        struct $name { $($column: Vec<$kind>),+ }

        impl $name {
            const COUNT: usize = [$(stringify!($column)),+].len();

            fn push(&mut self, ($($column),+,): ($($kind),+,)) {
                $(self.$column.push($column);)+
            }

            fn bind<'q>(&'q self, query: AppendQuery<'q>) -> AppendQuery<'q> {
                query$(.bind(&self.$column[..]))+
            }
        }
    };
}

type Text = String;

columns!(Keys { key: Text, digest: Text, subject: Uuid, created_at: i64, correlation_id: Option<Uuid> });

columns!(Plans {
    plan_id: Uuid,
    correlation_id: Uuid,
    kind: &'static str,
    status: &'static str,
    created_at: i64,
    deadline_at: Option<i64>,
    ended_at: Option<i64>,
    context: Text,
    error: Option<Text>,
    redrive_of: Option<Uuid>,
});

columns!(Tasks {
    plan_id: Uuid,
    ordinal: i32,
    task_id: Uuid,
    key: Text,
    agent: Text,
    action: Text,
    payload: Text,
    depends_on: Text,
    on_failure: &'static str,
    status: &'static str,
    queued_at: i64,
    dispatched_at: Option<i64>,
    ended_at: Option<i64>,
    output: Option<Text>,
    error: Option<Text>,
});

columns!(Failed {
    plan_id: Uuid,
    ordinal: i32,
    at: i64,
    agent: Text,
    code: &'static str,
    error_class: Option<Text>,
});

columns!(Attempts {
    plan_id: Uuid,
    ordinal: i32,
    number: i64,
    started_at: i64,
    worker: Text,
    ended_at: Option<i64>,
    outcome: Option<Text>,
    error_class: Option<Text>,
    message: Option<Text>,
    stderr_tail: Option<Text>,
});

columns!(Ends {
    plan_id: Uuid,
    ordinal: i32,
    number: i64,
    ended_at: Option<i64>,
    outcome: Option<Text>,
    error_class: Option<Text>,
    message: Option<Text>,
    stderr_tail: Option<Text>,
});

columns!(Calls { plan_id: Uuid, ordinal: i32, number: i64, model_calls: Text });

columns!(Budgets { plan_id: Uuid, budget: Text });

columns!(Steps {
    plan_id: Uuid,
    ordinal: i32,
    status: &'static str,
    dispatched_at: Option<i64>,
    ended_at: Option<i64>,
    output: Option<Text>,
    error: Option<Text>,
    code: &'static str,
    error_class: Option<Text>,
});

columns!(States { plan_id: Uuid, status: &'static str, ended_at: Option<i64>, error: Option<Text> });

columns!(Redrives { plan_id: Uuid, at: i64, by: Uuid, reason: Text, is_bulk: bool });

columns!(PlanEvents { plan_id: Uuid, events: Text });

/// Columns of a batch.
#[derive(Debug, Default)]
pub(super) struct Columns {
    keys: Keys,
    plans: Plans,
    tasks: Tasks,
    failed: Failed,
    attempts: Attempts,
    ends: Ends,
    steps: Steps,
    states: States,
    redrives: Redrives,
    events: PlanEvents,
    /// Few batches have any of these.
    calls: Calls,
    budgets: Budgets,
}

/// Text of the statement, with or without what few batches have.
pub(super) fn append_statement(has_more: bool) -> String {
    let columns = Keys::COUNT
        + Plans::COUNT
        + Tasks::COUNT
        + Failed::COUNT
        + Attempts::COUNT
        + Ends::COUNT
        + Steps::COUNT
        + States::COUNT
        + Redrives::COUNT
        + PlanEvents::COUNT
        + if has_more { Calls::COUNT + Budgets::COUNT } else { 0 };
    let function = if has_more { "append_more" } else { "append_batch" };
    let mut text = format!("SELECT phoenix_planner.{function}($1, $2, $3");
    for number in 4..4 + columns {
        // Writing to a string does not fail.
        let _ = write!(text, ", ${number}");
    }
    text + ")"
}

impl Columns {
    /// The columns of `changes`.
    pub(super) fn of(changes: RowChanges<'_>) -> Self {
        let RowChanges {
            plans,
            tasks,
            attempts,
            attempt_ends,
            task_updates,
            plan_updates,
            plan_budgets,
            // Written by statements of their own.
            approvals: _,
            dead_letters: _,
            redrives,
            events,
        } = changes;
        let mut columns = Self::default();
        plans.into_iter().for_each(|plan| columns.add_plan(plan));
        tasks.into_iter().for_each(|task| columns.add_task(task));
        attempts.into_iter().for_each(|attempt| columns.add_attempt(attempt));
        attempt_ends.into_iter().for_each(|end| columns.add_attempt_end(end));
        task_updates.into_iter().for_each(|task| columns.add_step(task));
        for (plan_id, limits) in plan_budgets {
            if let Some(budget) = budget_text(&limits) {
                columns.budgets.push((id(plan_id), budget));
            }
        }
        for ChangedPlan { plan_id, status, ended_at, error } in plan_updates {
            columns.states.push((id(plan_id), status, ended_at, error.map(error_text).map(text)));
        }
        for Redrive { plan_id, at, by, reason, is_bulk } in redrives {
            columns.redrives.push((id(plan_id), micros(at), *by.as_uuid(), plain(reason), is_bulk));
        }
        events.into_iter().for_each(|(plan_id, events)| columns.add_events(plan_id, events));
        columns
    }

    /// Adds the first use of a key.
    pub(super) fn add_key(&mut self, entry: &Entry) {
        if let Entry::KeyUsed { key, subject, at, not_before: _ } = entry {
            let by = key.by.map(|by| *by.as_uuid());
            self.keys.push((plain(&key.key), plain(&key.digest), *subject, micros(*at), by));
        }
    }

    fn add_plan(
        &mut self,
        NewPlan { planner: _, plan, status, ended_at, error, is_applied_early: _ }: NewPlan<'_>,
    ) {
        let Plan { plan_id, correlation_id, kind, created_at, deadline_at, context, redrive_of, .. } = plan;
        if let Some(budget) = budget_text(&plan.budget) {
            self.budgets.push((id(*plan_id), budget));
        }
        self.plans.push((
            id(*plan_id),
            *correlation_id.as_uuid(),
            kind.as_str(),
            status,
            micros(*created_at),
            deadline_at.map(micros),
            ended_at,
            plain(context),
            error.map(error_text).map(text),
            redrive_of.map(id),
        ));
    }

    fn add_task(&mut self, NewTask { plan_id, ordinal, task, state }: NewTask<'_>) {
        let Task { task_id, spec, queued_at, .. } = task;
        if state.status == phoenix_domain::plan::TaskStatus::DeadLettered {
            let (code, class) = state.failure();
            self.failed.push((
                id(plan_id),
                number(ordinal),
                state.ended_at.unwrap_or_default(),
                spec.agent.as_str().to_owned(),
                code.unwrap_or(NO_CODE),
                class.map(plain),
            ));
        }
        self.tasks.push((
            id(plan_id),
            number(ordinal),
            *task_id.as_uuid(),
            plain(&spec.key),
            spec.agent.as_str().to_owned(),
            plain(&spec.action),
            text(json(&spec.payload)),
            text(json(&spec.depends_on)),
            spec.on_failure.as_str(),
            state.status.as_str(),
            micros(*queued_at),
            state.dispatched_at,
            state.ended_at,
            state.output.map(output_text).map(text),
            state.error.map(error_text).map(text),
        ));
    }

    fn add_step(&mut self, ChangedTask { plan_id, ordinal, state }: ChangedTask<'_>) {
        let (code, class) = state.failure();
        self.steps.push((
            id(plan_id),
            number(ordinal),
            state.status.as_str(),
            state.dispatched_at,
            state.ended_at,
            state.output.map(output_text).map(text),
            state.error.map(error_text).map(text),
            code.unwrap_or(NO_CODE),
            class.map(plain),
        ));
    }

    fn add_attempt(&mut self, attempt: NewAttempt<'_>) {
        let NewAttempt { plan_id, ordinal, number: own, started_at, worker, end, is_of_new_plan: _ } =
            attempt;
        let AttemptEnd { ended_at, outcome, error_class, message, stderr_tail, model_calls } = end;
        self.add_calls(plan_id, ordinal, own, model_calls);
        self.attempts.push((
            id(plan_id),
            number(ordinal),
            own.into(),
            started_at,
            plain(worker),
            ended_at,
            outcome.map(plain),
            error_class.map(plain),
            message.map(plain),
            stderr_tail.map(plain),
        ));
    }

    fn add_attempt_end(&mut self, ended: ChangedAttempt<'_>) {
        let ChangedAttempt { plan_id, ordinal, number: own, end } = ended;
        let AttemptEnd { ended_at, outcome, error_class, message, stderr_tail, model_calls } = end;
        self.add_calls(plan_id, ordinal, own, model_calls);
        self.ends.push((
            id(plan_id),
            number(ordinal),
            own.into(),
            ended_at,
            outcome.map(plain),
            error_class.map(plain),
            message.map(plain),
            stderr_tail.map(plain),
        ));
    }

    fn add_calls(&mut self, plan_id: PlanId, ordinal: usize, own: u32, calls: &[ModelCall]) {
        if !calls.is_empty() {
            self.calls.push((id(plan_id), number(ordinal), own.into(), text(calls_text(calls))));
        }
    }

    fn add_events(&mut self, plan_id: PlanId, events: Events) {
        for block in events.into_blocks() {
            self.events.push((id(plan_id), text(block)));
        }
    }

    /// Whether there is something that few batches have.
    pub(super) const fn has_more(&self) -> bool {
        !self.calls.plan_id.is_empty() || !self.budgets.plan_id.is_empty()
    }

    /// Binds the identity of the batch and every column.
    pub(super) fn bind<'q>(&'q self, batch: &'q BatchId, query: AppendQuery<'q>) -> AppendQuery<'q> {
        let writer = i32::try_from(batch.writer).unwrap_or(i32::MAX);
        let sequence = i64::try_from(batch.sequence).unwrap_or(i64::MAX);
        let query = query.bind(&*batch.planner).bind(writer).bind(sequence);
        let query = self.tasks.bind(self.plans.bind(self.keys.bind(query)));
        let query = self.ends.bind(self.attempts.bind(self.failed.bind(query)));
        let query = self.redrives.bind(self.states.bind(self.steps.bind(query)));
        let query = self.events.bind(query);
        if self.has_more() { self.budgets.bind(self.calls.bind(query)) } else { query }
    }
}

fn id(plan_id: PlanId) -> Uuid {
    *plan_id.as_uuid()
}

fn number(ordinal: usize) -> i32 {
    i32::try_from(ordinal).unwrap_or(i32::MAX)
}

/// Free text as it is stored.
fn plain(text: &str) -> String {
    escape(text).into_owned()
}

/// Text that is usually stored as it is.
fn text(plain: String) -> String {
    match escape(&plain) {
        Cow::Borrowed(_) => plain,
        Cow::Owned(escaped) => escaped,
    }
}
