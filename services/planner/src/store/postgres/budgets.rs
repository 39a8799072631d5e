//! Budgets: one call of a function for each reservation and each settlement, which locks the accounts in one order.

use jiff::Timestamp;
use phoenix_domain::budget::{Account, Room};
use sqlx::PgConnection;

use crate::store::{
    budget::{Balance, Call, Charge, Use, Verdict, amounts, forgotten_before, integers},
    error::{JournalError, postgres_code},
    postgres::{append::FENCED, tables::Tables},
    stored::value::micros,
};

/// What an account used and reserved before a call, and what is granted.
type ReservedRow = (Vec<i64>, Vec<i64>, Option<Vec<i64>>);

pub(super) async fn reserve(
    tables: &Tables,
    planner: &str,
    call: Call,
    charges: &[Charge],
    at: Timestamp,
) -> Result<Vec<Verdict>, JournalError> {
    let statements = tables.statements();
    let accounts: Vec<String> = charges.iter().map(|charge| charge.account.to_string()).collect();
    let resets: Vec<Option<i64>> =
        charges.iter().map(|charge| charge.account.resets_at().map(micros)).collect();
    let wanted: Vec<i64> = charges.iter().flat_map(|charge| integers(charge.wanted)).collect();
    let limit = |limit: u64| i64::try_from(limit).unwrap_or(i64::MAX);
    let limits = charges.iter().flat_map(|charge| charge.limits.values());
    let limits: Vec<Option<i64>> = limits.map(|value| value.map(limit)).collect();
    let reserve = async |connection: &mut PgConnection| {
        let reserve = statements.rows(
            "SELECT was_used, was_reserved, granted
             FROM phoenix_planner.reserve_budget($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        );
        let reserve = reserve.bind(planner).bind(call.task.plan_id.as_uuid()).bind(ordinal(call));
        let reserve =
            reserve.bind(i64::from(call.number)).bind(micros(at)).bind(&accounts[..]).bind(&resets[..]);
        let reserve = reserve.bind(&wanted[..]).bind(&limits[..]);
        reserve.fetch_all(connection).await.map_err(fenced)
    };
    let rows: Vec<ReservedRow> = tables.write(reserve).await?;
    let verdict = |(charge, (used, reserved, granted)): (&Charge, ReservedRow)| {
        let used = amounts("budgets.used", &used)?;
        let reserved = amounts("budgets.reserved", &reserved)?;
        let room = match granted {
            Some(granted) => Room::Enough(amounts("budget_reservations.amounts", &granted)?),
            None => charge.limits.room(used, reserved, charge.wanted),
        };
        Ok(Verdict { room, balance: Balance { used, reserved } })
    };
    charges.iter().zip(rows).map(verdict).collect()
}

pub(super) async fn settle(
    tables: &Tables,
    planner: &str,
    call: Call,
    used: &[Use],
    at: Timestamp,
) -> Result<(), JournalError> {
    let statements = tables.statements();
    let accounts: Vec<String> = used.iter().map(|(account, _)| account.to_string()).collect();
    let resets: Vec<Option<i64>> = used.iter().map(|(account, _)| account.resets_at().map(micros)).collect();
    let amounts: Vec<i64> = used.iter().flat_map(|(_, amounts)| integers(*amounts)).collect();
    let settle = async |connection: &mut PgConnection| {
        let settle = statements.query("SELECT phoenix_planner.settle_budget($1, $2, $3, $4, $5, $6, $7)");
        let settle = settle.bind(planner).bind(call.task.plan_id.as_uuid()).bind(ordinal(call));
        let settle =
            settle.bind(i64::from(call.number)).bind(&accounts[..]).bind(&resets[..]).bind(&amounts[..]);
        settle.execute(connection).await.map_err(fenced)?;
        Ok(())
    };
    tables.write(settle).await?;
    forget_old(tables, at).await
}

/// Deletes the accounts of days long ago, about once in a thousand settlements.
async fn forget_old(tables: &Tables, at: Timestamp) -> Result<(), JournalError> {
    if fastrand::u32(..1000) > 0 {
        return Ok(());
    }
    let statements = tables.statements();
    let forget = async |connection: &mut PgConnection| {
        let forget = statements.query("DELETE FROM phoenix_planner.budgets WHERE resets_at < $1");
        forget.bind(micros(forgotten_before(at))).execute(connection).await?;
        Ok(())
    };
    tables.write(forget).await
}

/// Counts what planners that are gone have reserved as used: their calls may have run to their end.
pub(super) async fn settle_orphans(tables: &Tables) -> Result<(), JournalError> {
    let statements = tables.statements();
    let settle = async |connection: &mut PgConnection| {
        let settle = statements.query(
            "WITH orphans AS (
                 DELETE FROM phoenix_planner.budget_reservations AS reservations
                 WHERE NOT EXISTS (SELECT FROM phoenix_planner.planners WHERE instance = reservations.planner)
                 RETURNING account, amounts
             ), sums AS (
                 SELECT account, ARRAY[sum(amounts[1]), sum(amounts[2]), sum(amounts[3]), sum(amounts[4])]::bigint[] AS amounts
                 FROM orphans GROUP BY account
             )
             UPDATE phoenix_planner.budgets
             SET reserved = phoenix_planner.each_sum(reserved, sums.amounts, -1),
                 used = phoenix_planner.each_sum(used, sums.amounts, 1)
             FROM sums WHERE budgets.account = sums.account",
        );
        settle.execute(connection).await?;
        Ok(())
    };
    tables.write(settle).await
}

pub(super) async fn balances(tables: &Tables, accounts: &[Account]) -> Result<Vec<Balance>, JournalError> {
    let statements = tables.statements();
    let keys: Vec<String> = accounts.iter().map(ToString::to_string).collect();
    let read = async |connection: &mut PgConnection| {
        let read = statements.rows(
            "SELECT coalesce(used, '{0,0,0,0}'), coalesce(reserved, '{0,0,0,0}')
             FROM UNNEST($1) WITH ORDINALITY AS wanted (account, place)
             LEFT JOIN phoenix_planner.budgets ON budgets.account = wanted.account ORDER BY place",
        );
        Ok(read.bind(&keys[..]).fetch_all(connection).await?)
    };
    let rows: Vec<(Vec<i64>, Vec<i64>)> = tables.read(read).await?;
    let balance = |(used, reserved): (Vec<i64>, Vec<i64>)| {
        let (used, reserved) = (amounts("budgets.used", &used)?, amounts("budgets.reserved", &reserved)?);
        Ok(Balance { used, reserved })
    };
    rows.into_iter().map(balance).collect()
}

fn ordinal(call: Call) -> i32 {
    i32::try_from(call.task.ordinal).unwrap_or(i32::MAX)
}

fn fenced(error: sqlx::Error) -> JournalError {
    if postgres_code(&error) == Some(FENCED) { JournalError::Fenced } else { error.into() }
}
