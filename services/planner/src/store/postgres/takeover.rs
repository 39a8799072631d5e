//! Takeover of unfinished work whose owner is gone.
//!
//! The takeover of a page of plans is one statement, which numbers itself in the row of the planner's writer -1, as a batch
//! does. When it is not answered, the next takeover first takes the next number: that waits for the statement if it still runs,
//! and makes it void if it arrives later. Then the plans that it has taken over are found by its time.

use std::collections::HashMap;

use jiff::Timestamp;
use parking_lot::Mutex;
use phoenix_domain::PlanId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::store::{
    error::JournalError,
    postgres::{
        budgets,
        ownership::{self, TAKEOVER_WRITER},
        tables::Tables,
    },
    stored::{
        bulk::{BulkRow, read_all},
        value::micros,
    },
    takeover::{Heartbeat, SUSPECT_WINDOW, SkippedPlan, TakeoverScope, Unfinished, UnfinishedPlan},
};

/// Plans that are examined and taken over at once.
const PAGE: i64 = 500;

/// Owners of unfinished plans that are gone: one look-up in the index for each owner, however many plans it has.
const GONE: &str = "
    WITH RECURSIVE owners (owner) AS (
        (SELECT owner FROM phoenix_planner.plans WHERE status IN ('pending', 'running') ORDER BY owner LIMIT 1)
        UNION ALL
        SELECT (SELECT plans.owner FROM phoenix_planner.plans
                WHERE status IN ('pending', 'running') AND plans.owner > owners.owner ORDER BY plans.owner LIMIT 1)
        FROM owners WHERE owners.owner IS NOT NULL
    )
    SELECT owner FROM owners WHERE owner NOT IN (SELECT instance FROM phoenix_planner.planners)";

/// A page of the unfinished plans of an owner, each with an agent of an open task that the planner does not know, if any.
const ORPHANS: &str = "
    SELECT plans.plan_id,
        (SELECT tasks.agent FROM phoenix_planner.tasks
         WHERE tasks.plan_id = plans.plan_id AND tasks.status NOT IN ('succeeded', 'dead_lettered', 'cancelled')
            AND NOT (tasks.agent = ANY ($3)) AND $4
         ORDER BY tasks.ordinal LIMIT 1)
    FROM phoenix_planner.plans
    WHERE plans.status IN ('pending', 'running') AND plans.owner = $1 AND plans.plan_id > $2
    ORDER BY plans.plan_id LIMIT $5";

/// Makes a planner the owner of orphaned plans. The suspicion of a crash is that of the SQLite store: a running plan whose owner
/// died, which had started or been taken over within the last stretch of that planner's life and, since a takeover, no task of
/// which had ended. Plans that another planner is taking over are left to it, also when it commits while this statement runs:
/// PostgreSQL then checks the conditions on the row itself against the new row, so `owner` is one of them. It does not look
/// into `planners` again.
const TAKE_OVER: &str = "
    WITH claim AS (
        UPDATE phoenix_planner.writers SET sequence = $6 WHERE planner = $1 AND writer = $5 AND sequence < $6 RETURNING 1
    ), orphans AS (
        SELECT plan_id FROM phoenix_planner.plans
        WHERE plan_id = ANY ($2) AND owner = $7 AND status IN ('pending', 'running')
            AND NOT EXISTS (SELECT FROM phoenix_planner.planners WHERE instance = plans.owner)
            AND EXISTS (SELECT FROM claim)
        ORDER BY plan_id FOR UPDATE SKIP LOCKED
    )
    UPDATE phoenix_planner.plans SET owner = $1, takeovers = takeovers + 1, taken_over_at = $3,
        crashes = CASE
            WHEN status <> 'running' OR NOT EXISTS (SELECT FROM phoenix_planner.dead_planners WHERE instance = plans.owner)
                THEN crashes
            WHEN EXISTS (SELECT FROM phoenix_planner.tasks
                         WHERE tasks.plan_id = plans.plan_id AND tasks.status IN ('awaiting_approval', 'awaiting_time', 'awaiting_budget'))
                AND NOT EXISTS (SELECT FROM phoenix_planner.tasks
                                WHERE tasks.plan_id = plans.plan_id AND tasks.status IN ('dispatched', 'in_progress', 'retried'))
                THEN crashes
            WHEN (SELECT seen_at FROM phoenix_planner.dead_planners WHERE instance = plans.owner) - coalesce(
                     taken_over_at,
                     (SELECT min(tasks.dispatched_at) FROM phoenix_planner.tasks WHERE tasks.plan_id = plans.plan_id),
                     created_at) > $4
                THEN 0
            WHEN EXISTS (SELECT FROM phoenix_planner.tasks
                         WHERE tasks.plan_id = plans.plan_id AND tasks.ended_at > plans.taken_over_at)
                THEN 0
            ELSE crashes + 1
        END
    FROM orphans WHERE plans.plan_id = orphans.plan_id
    RETURNING plans.plan_id, plans.takeovers, plans.crashes";

/// Makes a planner the owner of orphaned bulk operations. The condition on the owner is as in [`TAKE_OVER`].
const TAKE_OVER_BULK: &str = "
    WITH claim AS (
        UPDATE phoenix_planner.writers SET sequence = $4 WHERE planner = $1 AND writer = $3 AND sequence < $4 RETURNING 1
    )
    UPDATE phoenix_planner.sweeps SET owner = $1, taken_over_at = $2
    WHERE ended_at IS NULL AND owner = ANY ($5)
        AND NOT EXISTS (SELECT FROM phoenix_planner.planners WHERE instance = sweeps.owner)
        AND EXISTS (SELECT FROM claim)
    RETURNING sweep_id::text, action, rate, reason, by::text, at, selected";

/// Takeovers of this process.
#[derive(Debug, Default)]
pub(super) struct Takeovers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Number of the last takeover, by planner.
    sequences: HashMap<String, i64>,
    /// Takeovers that were not answered, by planner.
    in_doubt: HashMap<String, InDoubt>,
}

/// A statement that was not answered.
#[derive(Debug, Clone)]
struct InDoubt {
    at: i64,
    /// The plans that it was to take over; earlier pages of the same takeover were returned.
    plans: Vec<Uuid>,
}

impl Takeovers {
    pub(super) async fn take_over(
        &self,
        tables: &Tables,
        planner: &str,
        dead: &[Heartbeat],
        scope: &TakeoverScope,
        at: Timestamp,
    ) -> Result<Unfinished, JournalError> {
        if !dead.is_empty() {
            // First: whatever they wrote is visible below, and nothing follows.
            ownership::fence(tables, planner, dead).await?;
        }
        let mut unfinished = self.settle(tables, planner).await?;
        let Gone { of_plans, of_bulk } = gone(tables).await?;
        if !dead.is_empty() || !of_plans.is_empty() {
            budgets::settle_orphans(tables).await?;
        }
        for owner in &of_plans {
            let taken = self.take_over_from(tables, planner, owner, scope, at, &mut unfinished).await;
            if let Err(error) = taken {
                return self.partly(unfinished, error);
            }
        }
        if !of_bulk.is_empty() {
            match self.take_over_bulk(tables, planner, &of_bulk, at).await {
                Ok(rows) => {
                    let (bulk, unreadable) = read_all(rows);
                    unfinished.bulk.extend(bulk);
                    unfinished.unreadable.extend(unreadable);
                }
                Err(error) => return self.partly(unfinished, error),
            }
        }
        if !of_plans.is_empty() {
            forget_dead(tables).await?;
        }
        Ok(unfinished)
    }

    /// What is taken over is returned, also when the rest failed: the next takeover continues.
    fn partly(&self, unfinished: Unfinished, error: JournalError) -> Result<Unfinished, JournalError> {
        if unfinished.plans.is_empty() && unfinished.bulk.is_empty() {
            return Err(error);
        }
        tracing::warn!(%error, "a takeover stopped half-way; it continues");
        Ok(unfinished)
    }

    /// Finds out what a takeover that was not answered has taken over.
    async fn settle(&self, tables: &Tables, planner: &str) -> Result<Unfinished, JournalError> {
        let in_doubt = self.0.lock().in_doubt.get(planner).cloned();
        let Some(InDoubt { at, plans: wanted }) = in_doubt else { return Ok(Unfinished::default()) };
        let (sequence, statements) = (self.next(planner), tables.statements());
        let void = async |connection: &mut _| {
            let void = statements
                .query("UPDATE phoenix_planner.writers SET sequence = $3 WHERE planner = $1 AND writer = $2");
            void.bind(planner).bind(TAKEOVER_WRITER).bind(sequence).execute(connection).await?;
            Ok(())
        };
        tables.write(void).await?;
        let found = async |connection: &mut PgConnection| {
            let plans = statements.rows(
                "SELECT plan_id, takeovers, crashes FROM phoenix_planner.plans
                 WHERE owner = $1 AND taken_over_at = $2 AND plan_id = ANY ($3) AND status IN ('pending', 'running')",
            );
            let plans: Vec<(Uuid, i32, i32)> =
                plans.bind(planner).bind(at).bind(&wanted[..]).fetch_all(&mut *connection).await?;
            let bulk = statements.rows(
                "SELECT sweep_id::text, action, rate, reason, by::text, at, selected FROM phoenix_planner.sweeps
                 WHERE owner = $1 AND taken_over_at = $2 AND ended_at IS NULL",
            );
            let bulk: Vec<BulkRow> = bulk.bind(planner).bind(at).fetch_all(connection).await?;
            Ok((plans, bulk))
        };
        let (plans, bulk) = tables.read(found).await?;
        self.0.lock().in_doubt.remove(planner);
        let (bulk, unreadable) = read_all(bulk);
        Ok(Unfinished {
            plans: plans.into_iter().map(unfinished_plan).collect(),
            skipped: Vec::new(),
            bulk,
            unreadable,
        })
    }

    /// Takes over the unfinished plans of one owner that is gone, page by page.
    async fn take_over_from(
        &self,
        tables: &Tables,
        planner: &str,
        owner: &str,
        scope: &TakeoverScope,
        at: Timestamp,
        unfinished: &mut Unfinished,
    ) -> Result<(), JournalError> {
        let mut after = Uuid::nil();
        loop {
            let page = orphans(tables, owner, after, scope).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = *last;
            let is_last = i64::try_from(page.len()).is_ok_and(|count| count < PAGE);
            let mut wanted = Vec::new();
            for (id, unknown) in page {
                let plan_id = PlanId::from(id);
                match unknown {
                    Some(agent) if !scope.regardless.contains(&plan_id) => {
                        unfinished.skipped.push(SkippedPlan { plan_id, agent });
                    }
                    _ => wanted.push(id),
                }
            }
            if !wanted.is_empty() {
                let taken = self.take_over_plans(tables, planner, owner, &wanted, at).await?;
                unfinished.plans.extend(taken.into_iter().map(unfinished_plan));
            }
            if is_last {
                return Ok(());
            }
        }
    }

    async fn take_over_plans(
        &self,
        tables: &Tables,
        planner: &str,
        owner: &str,
        plans: &[Uuid],
        at: Timestamp,
    ) -> Result<Vec<(Uuid, i32, i32)>, JournalError> {
        let (statements, sequence) = (tables.statements(), self.next(planner));
        let window = i64::try_from(SUSPECT_WINDOW.as_micros()).unwrap_or(i64::MAX);
        let take_over = async |connection: &mut _| {
            let take_over = statements.rows(TAKE_OVER).bind(planner).bind(plans).bind(micros(at));
            let take_over = take_over.bind(window).bind(TAKEOVER_WRITER).bind(sequence).bind(owner);
            Ok(take_over.fetch_all(connection).await?)
        };
        self.unless_in_doubt(planner, at, plans, tables.write(take_over).await)
    }

    async fn take_over_bulk(
        &self,
        tables: &Tables,
        planner: &str,
        owners: &[String],
        at: Timestamp,
    ) -> Result<Vec<BulkRow>, JournalError> {
        let (statements, sequence) = (tables.statements(), self.next(planner));
        let take_over = async |connection: &mut _| {
            let take_over = statements.rows(TAKE_OVER_BULK).bind(planner).bind(micros(at));
            Ok(take_over.bind(TAKEOVER_WRITER).bind(sequence).bind(owners).fetch_all(connection).await?)
        };
        self.unless_in_doubt(planner, at, &[], tables.write(take_over).await)
    }

    /// Remembers a takeover that failed: it may have been executed.
    fn unless_in_doubt<T>(
        &self,
        planner: &str,
        at: Timestamp,
        plans: &[Uuid],
        result: Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        if result.is_err() {
            let in_doubt = InDoubt { at: micros(at), plans: plans.to_vec() };
            self.0.lock().in_doubt.insert(planner.to_owned(), in_doubt);
        }
        result
    }

    fn next(&self, planner: &str) -> i64 {
        let mut state = self.0.lock();
        let sequence = state.sequences.entry(planner.to_owned()).or_default();
        *sequence += 1;
        *sequence
    }
}

fn unfinished_plan((id, takeovers, crashes): (Uuid, i32, i32)) -> UnfinishedPlan {
    let count = |count| u32::try_from(count).unwrap_or_default();
    UnfinishedPlan { plan_id: id.into(), takeovers: count(takeovers), crashes: count(crashes) }
}

/// Planners that are gone and own unfinished work.
struct Gone {
    /// Of plans.
    of_plans: Vec<String>,
    /// Of bulk operations.
    of_bulk: Vec<String>,
}

async fn gone(tables: &Tables) -> Result<Gone, JournalError> {
    let statements = tables.statements();
    let gone = async |connection: &mut PgConnection| {
        let of_plans = statements.values(GONE).fetch_all(&mut *connection).await?;
        let of_bulk = statements.values(
            "SELECT DISTINCT owner FROM phoenix_planner.sweeps WHERE ended_at IS NULL
                AND NOT EXISTS (SELECT FROM phoenix_planner.planners WHERE instance = sweeps.owner)",
        );
        Ok(Gone { of_plans, of_bulk: of_bulk.fetch_all(connection).await? })
    };
    tables.read(gone).await
}

async fn orphans(
    tables: &Tables,
    owner: &str,
    after: Uuid,
    scope: &TakeoverScope,
) -> Result<Vec<(Uuid, Option<String>)>, JournalError> {
    let statements = tables.statements();
    let known = scope.agents.iter().flatten().map(|agent| agent.as_str().to_owned());
    let known: Vec<String> = known.collect();
    let orphans = async |connection: &mut _| {
        let orphans = statements.rows(ORPHANS).bind(owner).bind(after).bind(&known[..]);
        Ok(orphans.bind(scope.agents.is_some()).bind(PAGE).fetch_all(connection).await?)
    };
    tables.read(orphans).await
}

/// Deletes the records of dead planners that own nothing any more.
async fn forget_dead(tables: &Tables) -> Result<(), JournalError> {
    let statements = tables.statements();
    let forget = async |connection: &mut _| {
        let forget = statements.query(
            "DELETE FROM phoenix_planner.dead_planners WHERE NOT EXISTS (
                 SELECT FROM phoenix_planner.plans WHERE owner = instance AND status IN ('pending', 'running'))",
        );
        forget.execute(connection).await?;
        Ok(())
    };
    tables.write(forget).await
}
