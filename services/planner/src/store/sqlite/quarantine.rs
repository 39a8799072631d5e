//! Quarantine: records that the tables reject go into `quarantined_records`, are logged and counted, and the rest of the log
//! is applied.
//!
//! A record makes only its own plan unreadable. Later records of that plan depend on it and follow it into quarantine, until a
//! version that can read all of them opens the journal ([`readmit`]). A file that is damaged elsewhere, full or locked puts no
//! record into quarantine.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use phoenix_domain::PlanId;
use phoenix_platform::metrics::record_counter;
use sqlx::{Connection, SqliteConnection};

use crate::{
    metrics::RECORDS_QUARANTINED,
    store::{
        entry::Entry,
        error::JournalError,
        record::{self, unusable::Unusable},
        sqlite::rows::{Row, row},
        stored::value::{micros, parse},
    },
};

/// A record that goes into quarantine.
#[derive(Debug, Clone)]
pub(super) struct Quarantined {
    pub(super) plan_id: Option<PlanId>,
    reason: String,
    is_unknown: bool,
    planner: String,
    record: String,
}

/// Plans whose records go into quarantine, with the reasons.
pub(super) type Blocked = HashMap<PlanId, String>;

/// Splits a commit into entries for the tables and records for quarantine. Plans with unusable records are added to
/// `blocked`.
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
        record_counter(&RECORDS_QUARANTINED, 1);
    }

    pub(super) fn into_row(self) -> Row {
        let Self { plan_id, reason, is_unknown, planner, record } = self;
        row![plan_id, micros(Timestamp::now()), reason, i64::from(is_unknown), planner, record]
    }
}

/// Whether the tables reject a row for a reason that does not pass.
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

/// Appends the records of plans that this version can read completely to the log again. Returns the number of plans.
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
