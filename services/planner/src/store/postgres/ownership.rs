//! Planners and their heartbeats. The rows of a planner's writers are its fence: they are deleted with the planner's row, which
//! waits for the batches that are being written, and no other batch follows.

use jiff::Timestamp;
use phoenix_domain::PlanId;
use sqlx::PgConnection;

use crate::store::{
    error::JournalError,
    postgres::{
        tables::{Statements, Tables},
        writers::Writers,
    },
    stored::{
        text::{Text, escape},
        value::micros,
    },
    takeover::{Heartbeat, PlanOwner},
};

/// Number of the writer that takes plans over.
pub(super) const TAKEOVER_WRITER: i32 = -1;

pub(super) async fn register(tables: &Tables, planner: &str, writers: u32) -> Result<(), JournalError> {
    let statements = tables.statements();
    let writers = i32::try_from(writers).unwrap_or(i32::MAX);
    let register = async |connection: &mut _| {
        let register = statements.query(
            "WITH planner AS (INSERT INTO phoenix_planner.planners (instance) VALUES ($1))
             INSERT INTO phoenix_planner.writers (planner, writer) SELECT $1, generate_series($2, $3 - 1)",
        );
        register.bind(planner).bind(TAKEOVER_WRITER).bind(writers).execute(connection).await?;
        Ok(())
    };
    tables.write(register).await
}

pub(super) async fn advertise(tables: &Tables, planner: &str, url: &str) -> Result<(), JournalError> {
    let statements = tables.statements();
    let advertise = async |connection: &mut _| {
        let advertise = statements.query("UPDATE phoenix_planner.planners SET url = $2 WHERE instance = $1");
        let advertised = advertise.bind(planner).bind(&*escape(url)).execute(connection).await?;
        if advertised.rows_affected() == 0 { Err(JournalError::Fenced) } else { Ok(()) }
    };
    tables.write(advertise).await
}

pub(super) async fn owner(tables: &Tables, plan_id: PlanId) -> Result<Option<PlanOwner>, JournalError> {
    let statements = tables.statements();
    let owner = async |connection: &mut _| {
        let owner = statements.rows(
            "SELECT instance, url FROM phoenix_planner.plans JOIN phoenix_planner.planners ON instance = owner
             WHERE plan_id = $1 AND status IN ('pending', 'running') AND url IS NOT NULL",
        );
        Ok(owner.bind(plan_id.as_uuid()).fetch_optional(connection).await?)
    };
    let owner: Option<(String, Text)> = tables.read(owner).await?;
    Ok(owner.map(|(planner, url)| PlanOwner { planner, url: url.0 }))
}

pub(super) async fn release(tables: &Tables, planner: &str) -> Result<(), JournalError> {
    let statements = tables.statements();
    let release = async |connection: &mut _| {
        let release = statements.query(
            "WITH planner AS (DELETE FROM phoenix_planner.planners WHERE instance = $1)
             DELETE FROM phoenix_planner.writers WHERE planner = $1",
        );
        release.bind(planner).execute(connection).await?;
        Ok(())
    };
    tables.write(release).await
}

pub(super) async fn heartbeat(
    statements: Statements,
    writers: &Writers,
    planner: &str,
    at: Timestamp,
) -> Result<(), JournalError> {
    let heartbeat = async |connection: &mut PgConnection| {
        let heartbeat = statements
            .query("UPDATE phoenix_planner.planners SET beat = beat + 1, seen_at = $2 WHERE instance = $1");
        heartbeat.bind(planner).bind(micros(at)).execute(connection).await
    };
    let beaten = writers.execute(heartbeat).await?;
    if beaten.rows_affected() == 0 { Err(JournalError::Fenced) } else { Ok(()) }
}

pub(super) async fn planners(tables: &Tables) -> Result<Vec<Heartbeat>, JournalError> {
    let statements = tables.statements();
    let planners = async |connection: &mut _| {
        let planners = statements.rows("SELECT instance, beat FROM phoenix_planner.planners");
        Ok(planners.fetch_all(connection).await?)
    };
    let rows: Vec<(String, i64)> = tables.read(planners).await?;
    Ok(rows.into_iter().map(|(planner, sequence)| Heartbeat { planner, sequence }).collect())
}

/// Fences planners that have sent no heartbeat since, and records that they died, with the time of their last heartbeat.
/// Returns after their last batch. A planner that was fenced itself fences none: its own row is locked, so that of two planners
/// that take each other for dead one survives.
pub(super) async fn fence(tables: &Tables, own: &str, dead: &[Heartbeat]) -> Result<(), JournalError> {
    let statements = tables.statements();
    let (planners, beats): (Vec<&str>, Vec<i64>) =
        dead.iter().map(|Heartbeat { planner, sequence }| (&**planner, *sequence)).unzip();
    let fence = async |connection: &mut _| {
        let fence = statements.query(
            "WITH own AS (
                 SELECT instance FROM phoenix_planner.planners WHERE instance = $3 FOR NO KEY UPDATE
             ), fenced AS (
                 DELETE FROM phoenix_planner.planners USING UNNEST($1, $2) AS dead (instance, beat)
                 WHERE planners.instance = dead.instance AND planners.beat = dead.beat
                 AND EXISTS (SELECT 1 FROM own)
                 RETURNING planners.instance, planners.seen_at
             ), writers AS (
                 DELETE FROM phoenix_planner.writers WHERE planner IN (SELECT instance FROM fenced)
             )
             INSERT INTO phoenix_planner.dead_planners (instance, seen_at)
             SELECT instance, seen_at FROM fenced ON CONFLICT (instance) DO NOTHING",
        );
        fence.bind(&planners[..]).bind(&beats[..]).bind(own).execute(connection).await?;
        Ok(())
    };
    tables.write(fence).await
}
