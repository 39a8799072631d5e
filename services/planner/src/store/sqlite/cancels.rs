//! Cancel requests, written by any planner and applied by the owner of the plan.

use jiff::Timestamp;
use phoenix_domain::{PlanId, plan::PlanStatus};
use sqlx::{SqliteConnection, SqlitePool};

use crate::store::{
    error::JournalError,
    stored::value::{damaged, micros, parse},
};

/// A request to cancel a plan.
pub(super) struct Request<'a> {
    /// Identity of the requesting planner.
    pub(super) planner: &'a str,
    pub(super) plan_id: PlanId,
    pub(super) reason: &'a str,
    pub(super) at: Timestamp,
}

pub(super) async fn request(
    connection: &mut SqliteConnection,
    request: &Request<'_>,
) -> Result<(), JournalError> {
    let Request { planner, plan_id, reason, at } = request;
    let written = sqlx::query(
        "INSERT INTO cancel_requests (plan_id, reason, at) SELECT ?1, ?2, ?3
         WHERE EXISTS (SELECT 1 FROM planners WHERE instance = ?4)
         ON CONFLICT (plan_id) DO UPDATE SET at = cancel_requests.at",
    );
    let written = written.bind(plan_id.to_string()).bind((*reason).to_owned()).bind(micros(*at));
    match written.bind((*planner).to_owned()).execute(connection).await?.rows_affected() {
        0 => Err(JournalError::Fenced),
        _ => Ok(()),
    }
}

pub(super) async fn requests(pool: &SqlitePool) -> Result<Vec<(PlanId, String)>, JournalError> {
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT plan_id, reason FROM cancel_requests").fetch_all(pool).await?;
    rows.into_iter().map(|(id, reason)| Ok((parse("cancel_requests.plan_id", &id)?, reason))).collect()
}

/// Deletes the requests for plans that have ended.
pub(super) async fn delete_finished(connection: &mut SqliteConnection) -> Result<(), JournalError> {
    sqlx::query(
        "DELETE FROM cancel_requests WHERE plan_id NOT IN (SELECT plan_id FROM plans WHERE status IN ('pending', 'running'))",
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn status(pool: &SqlitePool, plan_id: PlanId) -> Result<Option<PlanStatus>, JournalError> {
    let status: Option<String> = sqlx::query_scalar("SELECT status FROM plans WHERE plan_id = ?")
        .bind(plan_id.to_string())
        .fetch_optional(pool)
        .await?;
    let known = |name: String| PlanStatus::from_name(&name).ok_or_else(|| damaged("plans.status", name));
    status.map(known).transpose()
}
