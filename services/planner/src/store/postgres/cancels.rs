//! Cancel requests, written by any planner and applied by the owner of the plan.

use jiff::Timestamp;
use phoenix_domain::{PlanId, plan::PlanStatus};
use uuid::Uuid;

use crate::store::{
    error::JournalError,
    postgres::tables::Tables,
    stored::{
        text::{Text, escape},
        value::{damaged, micros},
    },
};

/// The row of the planner is locked, so that it is fenced before or after.
pub(super) async fn request(
    tables: &Tables,
    planner: &str,
    plan_id: PlanId,
    reason: &str,
    at: Timestamp,
) -> Result<(), JournalError> {
    let (statements, reason) = (tables.statements(), escape(reason));
    let request = async |connection: &mut _| {
        let request = statements.query(
            "WITH owner AS (SELECT instance FROM phoenix_planner.planners WHERE instance = $4 FOR KEY SHARE)
             INSERT INTO phoenix_planner.cancel_requests (plan_id, reason, at) SELECT $1, $2, $3 FROM owner
             ON CONFLICT (plan_id) DO UPDATE SET at = cancel_requests.at",
        );
        let request = request.bind(plan_id.as_uuid()).bind(&*reason).bind(micros(at)).bind(planner);
        match request.execute(connection).await?.rows_affected() {
            0 => Err(JournalError::Fenced),
            _ => Ok(()),
        }
    };
    tables.write(request).await
}

pub(super) async fn requests(tables: &Tables) -> Result<Vec<(PlanId, String)>, JournalError> {
    let statements = tables.statements();
    let requests = async |connection: &mut _| {
        let requests = statements.rows("SELECT plan_id, reason FROM phoenix_planner.cancel_requests");
        Ok(requests.fetch_all(connection).await?)
    };
    let rows: Vec<(Uuid, Text)> = tables.read(requests).await?;
    Ok(rows.into_iter().map(|(id, reason)| (id.into(), reason.0)).collect())
}

/// Deletes the requests for plans that have ended.
pub(super) async fn delete_finished(tables: &Tables) -> Result<(), JournalError> {
    let statements = tables.statements();
    let delete = async |connection: &mut _| {
        let delete = statements.query(
            "DELETE FROM phoenix_planner.cancel_requests WHERE NOT EXISTS (
                 SELECT FROM phoenix_planner.plans
                 WHERE plans.plan_id = cancel_requests.plan_id AND status IN ('pending', 'running'))",
        );
        delete.execute(connection).await?;
        Ok(())
    };
    tables.write(delete).await
}

pub(super) async fn status(tables: &Tables, plan_id: PlanId) -> Result<Option<PlanStatus>, JournalError> {
    let statements = tables.statements();
    let status = async |connection: &mut _| {
        let status = statements.values("SELECT status FROM phoenix_planner.plans WHERE plan_id = $1");
        Ok(status.bind(plan_id.as_uuid()).fetch_optional(connection).await?)
    };
    let status: Option<String> = tables.read(status).await?;
    let known = |name: String| PlanStatus::from_name(&name).ok_or_else(|| damaged("plans.status", name));
    status.map(known).transpose()
}
