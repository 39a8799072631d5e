//! Approvals: their rows, decisions and listings. A trigger closes them with the task.

use futures_util::TryStreamExt;
use phoenix_domain::{
    PlanId,
    approval::{ApprovalKind, ApprovalState, WaitingApproval},
};
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use crate::store::{
    approval::{ApprovalCursor, ApprovalQuery, NewDecision, PREVIEW_CHARS, WaitingApprovals},
    changes::{NewApproval, NewTask, RowChanges},
    error::JournalError,
    listing::page,
    postgres::tables::{Statements, Tables},
    query::Page,
    record::conditions_text,
    stored::{
        approval::listed,
        text::escape,
        value::{damaged, json, micros, time},
    },
    task_ref::TaskRef,
};

/// Rows of a batch that only tasks with conditions have.
#[derive(Debug, Default)]
pub(super) struct ConditionRows {
    conditions: Vec<(Uuid, i32, String)>,
    approvals: Vec<ApprovalColumns>,
}

#[derive(Debug)]
struct ApprovalColumns {
    plan_id: Uuid,
    ordinal: i32,
    kind: ApprovalKind,
    requested_at: i64,
    expires_at: i64,
    reason: String,
    approver: String,
    on_expiry: &'static str,
    input: String,
    input_hash: String,
}

impl ConditionRows {
    /// The rows of `changes`.
    pub(super) fn of(changes: &RowChanges<'_>) -> Self {
        let conditions = |NewTask { plan_id, ordinal, task, .. }: &NewTask<'_>| {
            let text = conditions_text(&task.spec.start)?;
            Some((*plan_id.as_uuid(), number(*ordinal), escape(&text).into_owned()))
        };
        Self {
            conditions: changes.tasks.iter().filter_map(conditions).collect(),
            approvals: changes.approvals.iter().map(ApprovalColumns::of).collect(),
        }
    }

    /// Whether the batch has any.
    pub(super) const fn is_empty(&self) -> bool {
        self.conditions.is_empty() && self.approvals.is_empty()
    }

    /// Writes the rows, after those of the tasks, in the transaction of the batch.
    pub(super) async fn write(
        &self,
        statements: Statements,
        connection: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        for (plan_id, ordinal, text) in &self.conditions {
            let update = statements.query(
                "UPDATE phoenix_planner.tasks SET conditions = $3 WHERE plan_id = $1 AND ordinal = $2",
            );
            update.bind(plan_id).bind(ordinal).bind(text).execute(&mut *connection).await?;
        }
        for approval in &self.approvals {
            let ApprovalColumns {
                plan_id,
                ordinal,
                kind,
                requested_at,
                expires_at,
                reason,
                approver,
                on_expiry,
                input,
                input_hash,
            } = approval;
            // A task that has ended by now waits for nothing. The last pause of a task counts, and a later request for an approval
            // once the earlier one is decided.
            let insert = statements.query(match kind {
                ApprovalKind::Input => {
                    "INSERT INTO phoenix_planner.approvals (plan_id, ordinal, requested_at, expires_at, reason, approver, on_expiry,
                                                            input, input_hash, state, is_open)
                     SELECT plan_id, ordinal, $3, $4, $5, $6, $7, $8, $9,
                            CASE WHEN status = 'awaiting_approval' THEN 'waiting' ELSE 'withdrawn' END, status = 'awaiting_approval'
                     FROM phoenix_planner.tasks WHERE plan_id = $1 AND ordinal = $2
                     ON CONFLICT (plan_id, ordinal) DO UPDATE
                     SET requested_at = EXCLUDED.requested_at, expires_at = EXCLUDED.expires_at, reason = EXCLUDED.reason,
                         approver = EXCLUDED.approver, on_expiry = EXCLUDED.on_expiry, input = EXCLUDED.input,
                         input_hash = EXCLUDED.input_hash, state = EXCLUDED.state, is_open = EXCLUDED.is_open,
                         decided_at = NULL, actor = NULL, decision_reason = NULL, decided_by = NULL, new_input = NULL
                     WHERE approvals.state <> 'waiting' AND approvals.requested_at < EXCLUDED.requested_at"
                }
                ApprovalKind::Budget => {
                    "INSERT INTO phoenix_planner.pauses (plan_id, ordinal, requested_at, expires_at, reason, approver, on_expiry,
                                                         input, input_hash, state, is_open)
                     SELECT plan_id, ordinal, $3, $4, $5, $6, $7, $8, $9,
                            CASE WHEN status = 'awaiting_budget' THEN 'waiting' ELSE 'withdrawn' END, status = 'awaiting_budget'
                     FROM phoenix_planner.tasks WHERE plan_id = $1 AND ordinal = $2
                     ON CONFLICT (plan_id, ordinal) DO UPDATE
                     SET requested_at = EXCLUDED.requested_at, expires_at = EXCLUDED.expires_at, reason = EXCLUDED.reason,
                         input = EXCLUDED.input, input_hash = EXCLUDED.input_hash, state = EXCLUDED.state,
                         is_open = EXCLUDED.is_open, decided_at = NULL, actor = NULL, decision_reason = NULL,
                         decided_by = NULL, new_input = NULL"
                }
            });
            let insert = insert.bind(plan_id).bind(ordinal).bind(requested_at).bind(expires_at).bind(reason);
            let insert = insert.bind(approver).bind(on_expiry).bind(input).bind(input_hash);
            insert.execute(&mut *connection).await?;
        }
        Ok(())
    }
}

impl ApprovalColumns {
    fn of(NewApproval { plan_id, ordinal, approval }: &NewApproval<'_>) -> Self {
        Self {
            plan_id: *plan_id.as_uuid(),
            ordinal: number(*ordinal),
            kind: approval.kind,
            requested_at: micros(approval.requested_at),
            expires_at: micros(approval.expires_at),
            reason: escape(&approval.reason).into_owned(),
            approver: escape(&approval.approver).into_owned(),
            on_expiry: approval.on_expiry.as_str(),
            input: escape(&json(&approval.input)).into_owned(),
            input_hash: approval.input_hash.clone(),
        }
    }
}

/// Writes a decision, unless there is one. Returns whether it was written.
pub(super) async fn decide(
    tables: &Tables,
    planner: &str,
    task: TaskRef,
    decision: &NewDecision,
) -> Result<bool, JournalError> {
    let statements = tables.statements();
    let NewDecision { state, about, at, actor, reason, by, input } = decision;
    let decide = async |connection: &mut _| {
        let update = statements.rows(
            "WITH owner AS (
                 SELECT FROM phoenix_planner.planners WHERE instance = $10 FOR KEY SHARE
             ), decided AS (
                 UPDATE phoenix_planner.approvals
                 SET state = $1, decided_at = $2, actor = $3, decision_reason = $4, decided_by = $5, new_input = $6
                 WHERE plan_id = $7 AND ordinal = $8 AND state = 'waiting' AND is_open AND (expires_at <= $2) = $9
                     AND requested_at = coalesce($11, requested_at) AND EXISTS (SELECT FROM owner)
                 RETURNING 1
             ), about_budget AS (
                 UPDATE phoenix_planner.pauses
                 SET state = $1, decided_at = $2, actor = $3, decision_reason = $4, decided_by = $5, new_input = $6
                 WHERE plan_id = $7 AND ordinal = $8 AND state = 'waiting' AND is_open AND (expires_at <= $2) = $9
                     AND requested_at = coalesce($11, requested_at) AND EXISTS (SELECT FROM owner)
                 RETURNING 1
             )
             SELECT EXISTS (SELECT FROM decided) OR EXISTS (SELECT FROM about_budget), EXISTS (SELECT FROM owner)",
        );
        let update = update.bind(state.as_str()).bind(micros(*at)).bind(escape(actor)).bind(escape(reason));
        let new_input = input.as_ref().map(|input| escape(&json(input)).into_owned());
        let update = update.bind(by.map(|by| *by.as_uuid())).bind(new_input);
        let update = update.bind(task.plan_id.as_uuid()).bind(number(task.ordinal));
        let update = update.bind(*state == ApprovalState::Expired).bind(planner).bind(about.map(micros));
        Ok(update.fetch_one(connection).await?)
    };
    match tables.write(decide).await? {
        (_, false) => Err(JournalError::Fenced),
        (is_written, true) => Ok(is_written),
    }
}

/// Plans with a decision of which they have not taken notice.
pub(super) async fn decided(tables: &Tables) -> Result<Vec<PlanId>, JournalError> {
    let statements = tables.statements();
    let decided = async |connection: &mut _| {
        let decided = statements.values(
            "SELECT DISTINCT plan_id FROM phoenix_planner.decisions
             WHERE is_open AND state IN ('approved', 'rejected', 'expired')",
        );
        Ok(decided.fetch_all(connection).await?)
    };
    let plans: Vec<Uuid> = tables.read(decided).await?;
    Ok(plans.into_iter().map(Into::into).collect())
}

pub(super) async fn waiting(tables: &Tables) -> Result<WaitingApprovals, JournalError> {
    let statements = tables.statements();
    let waiting = async |connection: &mut _| {
        let waiting = statements.rows(
            "SELECT count(*), min(requested_at) FROM phoenix_planner.decisions WHERE is_open AND state = 'waiting'",
        );
        Ok(waiting.fetch_one(connection).await?)
    };
    let (count, oldest): (i64, Option<i64>) = tables.read(waiting).await?;
    let count = u64::try_from(count).map_err(|_| damaged("approvals", count))?;
    Ok(WaitingApprovals { count, oldest: oldest.map(time).transpose()? })
}

pub(super) async fn list(
    tables: &Tables,
    query: &ApprovalQuery,
) -> Result<Page<WaitingApproval, ApprovalCursor>, JournalError> {
    let persistent = tables.database.persistent();
    let approvals = async |connection: &mut PgConnection| {
        let mut statement = listing(query);
        let rows = statement.build().persistent(persistent).fetch(connection);
        page(rows.map_ok(|row| listed(&row)), query.limit).await
    };
    tables.read(approvals).await
}

fn listing(ApprovalQuery { after, limit }: &ApprovalQuery) -> QueryBuilder<Postgres> {
    // The page first, by the index alone; then the details of its few items.
    let mut query = QueryBuilder::new(
        "SELECT page.plan_id::text, page.ordinal::bigint, plans.correlation_id::text, tasks.key, tasks.agent, tasks.action,
                page.requested_at, page.expires_at, page.on_expiry, page.reason, page.approver, page.input_hash,
                page.kind, left(page.input, ",
    );
    query.push_bind(PREVIEW_CHARS).push(
        ") AS input_preview
         FROM (SELECT * FROM phoenix_planner.decisions WHERE is_open AND state = 'waiting'",
    );
    if let Some(ApprovalCursor { at, task }) = after {
        query.push(" AND (requested_at, plan_id, ordinal) > (").push_bind(micros(*at));
        query.push(", ").push_bind(*task.plan_id.as_uuid());
        query.push(", ").push_bind(i64::try_from(task.ordinal).unwrap_or(i64::MAX)).push(")");
    }
    query.push(" ORDER BY requested_at, plan_id, ordinal LIMIT ").push_bind(i64::from(*limit) + 1);
    query.push(
        ") AS page
         JOIN phoenix_planner.plans ON plans.plan_id = page.plan_id
         JOIN phoenix_planner.tasks ON tasks.plan_id = page.plan_id AND tasks.ordinal = page.ordinal
         ORDER BY page.requested_at, page.plan_id, page.ordinal",
    );
    query
}

fn number(ordinal: usize) -> i32 {
    i32::try_from(ordinal).unwrap_or(i32::MAX)
}
