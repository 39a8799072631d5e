//! Records that the tables do not take: they are moved into `quarantined_records`, logged and counted, and everything else of
//! the log goes into the tables.
//!
//! A record costs its own plan. The records of that plan that follow go the same way, since they build on it, and the plan
//! cannot be read until a version that knows all of them opens the journal ([`readmit`]). A file that is damaged elsewhere, or
//! full, or locked, is no fault of a record.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use phoenix_domain::PlanId;
use phoenix_platform::metrics::record_counter;
use sqlx::{Connection, SqliteConnection, SqlitePool};

use super::{
    super::record::{self, Unusable},
    Entry, JournalError,
    log::{Log, Oldest, StoredCommit},
    rows::{Row, Script, micros, row},
    stored::parse,
};
use crate::metrics::COMMITS_SET_ASIDE;

/// A record on its way into quarantine.
#[derive(Debug, Clone)]
pub(super) struct Quarantined {
    pub(super) plan_id: Option<PlanId>,
    reason: String,
    is_unknown: bool,
    planner: String,
    record: String,
}

/// Plans whose records go into quarantine, with the reason.
pub(super) type Blocked = HashMap<PlanId, String>;

/// What one commit holds for the tables, and what it holds for quarantine. A plan that turns out to be unusable is `blocked`
/// from then on.
pub(super) fn sift(planner: &str, text: &[u8], blocked: &mut Blocked) -> (Vec<Entry>, Vec<Quarantined>) {
    let (mut usable, mut quarantined) = (Vec::new(), Vec::new());
    for record::Stored { plan_id, entry, line } in record::read(text) {
        let known = plan_id.and_then(|plan_id| blocked.get(&plan_id));
        let (reason, is_unknown) = match (entry, known) {
            (Ok(entry), None) => {
                usable.push(entry);
                continue;
            }
            (Ok(_), Some(reason)) => (reason.clone(), false),
            (Err(problem), _) => (problem.to_string(), matches!(problem, Unusable::Unknown(_))),
        };
        if let Some(plan_id) = plan_id {
            blocked.entry(plan_id).or_insert_with(|| "it follows a record that is in quarantine".into());
        }
        quarantined.push(Quarantined {
            plan_id,
            reason,
            is_unknown,
            planner: planner.to_owned(),
            record: line,
        });
    }
    (usable, quarantined)
}

/// The plans that have records in quarantine.
pub(super) async fn blocked(connection: &mut SqliteConnection) -> Result<Blocked, JournalError> {
    let ids: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT plan_id FROM quarantined_records WHERE plan_id IS NOT NULL")
            .fetch_all(connection)
            .await?;
    let reason = || "it follows a record that is in quarantine".to_owned();
    Ok(ids.iter().filter_map(|id| Some((id.parse().ok()?, reason()))).collect())
}

/// Why a plan with records in quarantine cannot be read.
pub(super) fn unreadable(plan_id: PlanId) -> JournalError {
    JournalError::Damaged(format!("plan {plan_id} has records in the table quarantined_records"))
}

/// Whether a plan has records in quarantine.
pub(super) async fn is_blocked(
    connection: &mut SqliteConnection,
    plan_id: PlanId,
) -> Result<bool, JournalError> {
    let found = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM quarantined_records WHERE plan_id = ?)");
    Ok(found.bind(plan_id.to_string()).fetch_one(connection).await?)
}

impl Quarantined {
    pub(super) fn log(&self) {
        let Self { plan_id, reason, is_unknown, planner: _, record: _ } = self;
        let plan_id = plan_id.map(tracing::field::display);
        tracing::error!(
            plan_id,
            reason,
            is_unknown,
            "a record of the journal cannot be used; it is kept in quarantined_records"
        );
        record_counter(&COMMITS_SET_ASIDE, 1);
    }

    pub(super) fn into_row(self) -> Row {
        let Self { plan_id, reason, is_unknown, planner, record } = self;
        row![plan_id, micros(Timestamp::now()), reason, i64::from(is_unknown), planner, record]
    }
}

/// The tables refuse a row, and will refuse it the next time.
pub(super) fn is_constraint(error: &JournalError) -> bool {
    match error {
        JournalError::Database(sqlx::Error::Database(error)) => {
            error.is_foreign_key_violation()
                || error.is_unique_violation()
                || error.is_check_violation()
                || error.kind() == sqlx::error::ErrorKind::NotNullViolation
        }
        _ => false,
    }
}

impl Log {
    /// Moves the oldest commit alone, without the plans whose records the tables refuse: its number.
    pub(super) async fn move_one(&self, readers: &SqlitePool) -> Result<Option<i64>, JournalError> {
        self.forget_recent();
        let mut connection = readers.acquire().await?;
        let Some((row, position)) = StoredCommit::oldest(&mut connection).await? else { return Ok(None) };
        let mut blocked = blocked(&mut connection).await?;
        loop {
            let oldest =
                Oldest::of(&mut connection, vec![row.clone()], position, &mut blocked.clone()).await?;
            let plans = oldest.plans();
            match self.apply(oldest.into_move()).await {
                Err(error) if is_constraint(&error) => {
                    let reason = error.to_string();
                    let mut refused = HashSet::new();
                    for plan_id in &plans {
                        if !self.fits(&mut connection, &row, position, *plan_id, &plans, &blocked).await? {
                            refused.insert(*plan_id);
                        }
                    }
                    // Plans that fit alone and not together are all refused.
                    let refused = if refused.is_empty() { plans } else { refused };
                    if refused.is_empty() {
                        return Err(error);
                    }
                    blocked.extend(refused.into_iter().map(|plan_id| (plan_id, reason.clone())));
                }
                moved => return moved,
            }
        }
    }

    /// Whether the tables take what a commit holds of one plan, without the others.
    async fn fits(
        &self,
        connection: &mut SqliteConnection,
        row: &StoredCommit,
        position: i64,
        plan_id: PlanId,
        plans: &HashSet<PlanId>,
        blocked: &Blocked,
    ) -> Result<bool, JournalError> {
        let mut others = blocked.clone();
        others.extend(plans.iter().filter(|other| **other != plan_id).map(|other| (*other, String::new())));
        let alone = Oldest::of(connection, vec![row.clone()], position, &mut others).await?.into_move();
        // The connection of a script that failed is closed, which rolls it back.
        let tried = self.exclusively(async |connection| {
            let mut script = Script::new(connection, "BEGIN IMMEDIATE; ");
            alone.write_rows(&mut script).await?;
            script.end("ROLLBACK").await?;
            Ok(())
        });
        match tried.await {
            Ok(()) => Ok(true),
            Err(error) if is_constraint(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Puts the records of plans that this version can read as a whole back into the log, behind what is there: how many plans.
///
/// # Errors
/// When the database cannot be used.
pub(super) async fn readmit(connection: &mut SqliteConnection) -> Result<usize, JournalError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let rows: Vec<(i64, String, String, Vec<u8>)> = sqlx::query_as(
        "SELECT id, plan_id, planner, CAST(record AS BLOB) FROM quarantined_records
         WHERE plan_id IN (SELECT plan_id FROM quarantined_records WHERE is_unknown) ORDER BY id",
    )
    .fetch_all(&mut *transaction)
    .await?;
    let is_unusable = |record: &[u8]| record::read(record).iter().any(|stored| stored.entry.is_err());
    let unusable: HashSet<String> = rows
        .iter()
        .filter(|(.., record)| is_unusable(record))
        .map(|(_, plan_id, ..)| plan_id.clone())
        .collect();
    let mut plans = HashSet::new();
    for (id, plan_id, planner, record) in rows {
        if unusable.contains(&plan_id) {
            continue;
        }
        let append = sqlx::query("INSERT INTO log (planner, entries) VALUES (?, CAST(? AS TEXT))");
        append.bind(planner).bind(record).execute(&mut *transaction).await?;
        sqlx::query("DELETE FROM quarantined_records WHERE id = ?")
            .bind(id)
            .execute(&mut *transaction)
            .await?;
        plans.insert(parse::<PlanId>("quarantined_records.plan_id", &plan_id)?);
    }
    transaction.commit().await?;
    Ok(plans.len())
}
