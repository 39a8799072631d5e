//! Budgets: one transaction of the writing connection for each reservation and each settlement.

use jiff::Timestamp;
use phoenix_domain::budget::{Account, Amounts, Room};
use sqlx::{Connection, Sqlite, SqliteConnection, SqlitePool, query::Query, sqlite::SqliteArguments};

use crate::store::{
    budget::{Balance, Call, Charge, Use, Verdict, amounts, forgotten_before, integers, is_granted},
    error::JournalError,
    sqlite::ownership,
    stored::value::{from_json, json, micros},
};

/// Reserves what `call` needs, in every account of `charges`, or in none.
pub(super) async fn reserve(
    connection: &mut SqliteConnection,
    planner: &str,
    call: Call,
    charges: &[Charge],
    at: Timestamp,
) -> Result<Vec<Verdict>, JournalError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    if !ownership::is_owner(&mut transaction, planner).await? {
        return Err(JournalError::Fenced);
    }
    let earlier = reservations(&mut transaction, call).await?;
    let mut verdicts = Vec::with_capacity(charges.len());
    for charge in charges {
        let balance = balance(&mut transaction, &charge.account).await?;
        let key = charge.account.to_string();
        let room = match earlier.iter().find(|(account, _)| *account == key) {
            Some((_, granted)) => Room::Enough(*granted),
            None => charge.limits.room(balance.used, balance.reserved, charge.wanted),
        };
        verdicts.push(Verdict { room, balance });
    }
    if !earlier.is_empty() || !is_granted(&verdicts) {
        return Ok(verdicts);
    }
    for (charge, verdict) in charges.iter().zip(&verdicts) {
        let Room::Enough(granted) = verdict.room else { continue };
        let reservation = sqlx::query(
            "INSERT INTO budget_reservations (account, planner, at, amounts, plan_id, ordinal, number)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        );
        let reservation = reservation.bind(charge.account.to_string()).bind(planner.to_owned());
        let reservation = reservation.bind(micros(at)).bind(json(&integers(granted)));
        of_call(reservation, call).execute(&mut *transaction).await?;
        let mut balance = verdict.balance;
        balance.reserved += granted;
        write(&mut transaction, &charge.account, balance, at).await?;
    }
    transaction.commit().await?;
    Ok(verdicts)
}

/// Ends the reservations of `call`, and counts what it used. Without a reservation, nothing changes.
pub(super) async fn settle(
    connection: &mut SqliteConnection,
    planner: &str,
    call: Call,
    used: &[Use],
    at: Timestamp,
) -> Result<(), JournalError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    if !ownership::is_owner(&mut transaction, planner).await? {
        return Err(JournalError::Fenced);
    }
    let reserved = reservations(&mut transaction, call).await?;
    if reserved.is_empty() {
        return Ok(());
    }
    for (account, amounts) in &reserved {
        release(&mut transaction, account, *amounts, Amounts::default()).await?;
    }
    let delete =
        sqlx::query("DELETE FROM budget_reservations WHERE plan_id = ? AND ordinal = ? AND number = ?");
    of_call(delete, call).execute(&mut *transaction).await?;
    for (account, amounts) in used {
        let mut balance = balance(&mut transaction, account).await?;
        balance.used += *amounts;
        write(&mut transaction, account, balance, at).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// Counts what planners that are gone have reserved as used: their calls may have run to their end.
pub(super) async fn settle_orphans(connection: &mut SqliteConnection) -> Result<(), JournalError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let orphans: Vec<(String, String)> = sqlx::query_as(
        "DELETE FROM budget_reservations WHERE planner NOT IN (SELECT instance FROM planners)
         RETURNING account, amounts",
    )
    .fetch_all(&mut *transaction)
    .await?;
    for (account, text) in orphans {
        let amounts = read("budget_reservations.amounts", &text)?;
        release(&mut transaction, &account, amounts, amounts).await?;
    }
    transaction.commit().await?;
    Ok(())
}

pub(super) async fn balances(pool: &SqlitePool, accounts: &[Account]) -> Result<Vec<Balance>, JournalError> {
    let mut snapshot = pool.begin().await?;
    let mut balances = Vec::with_capacity(accounts.len());
    for account in accounts {
        balances.push(balance(&mut snapshot, account).await?);
    }
    Ok(balances)
}

/// Ends a reservation in an account, and counts `used` there.
async fn release(
    connection: &mut SqliteConnection,
    account: &str,
    reserved: Amounts,
    used: Amounts,
) -> Result<(), JournalError> {
    let Some(mut balance) = find(connection, account).await? else { return Ok(()) };
    balance.reserved -= reserved;
    balance.used += used;
    let update = sqlx::query("UPDATE budgets SET used = ?, reserved = ? WHERE account = ?");
    let update = update.bind(json(&integers(balance.used))).bind(json(&integers(balance.reserved)));
    update.bind(account.to_owned()).execute(connection).await?;
    Ok(())
}

async fn balance(connection: &mut SqliteConnection, account: &Account) -> Result<Balance, JournalError> {
    Ok(find(connection, &account.to_string()).await?.unwrap_or_default())
}

async fn find(connection: &mut SqliteConnection, account: &str) -> Result<Option<Balance>, JournalError> {
    let row: Option<(String, String)> =
        sqlx::query_as("SELECT used, reserved FROM budgets WHERE account = ?")
            .bind(account.to_owned())
            .fetch_optional(connection)
            .await?;
    let Some((used, reserved)) = row else { return Ok(None) };
    Ok(Some(Balance { used: read("budgets.used", &used)?, reserved: read("budgets.reserved", &reserved)? }))
}

/// Writes an account. The first one of a day deletes those of days long ago.
async fn write(
    connection: &mut SqliteConnection,
    account: &Account,
    balance: Balance,
    at: Timestamp,
) -> Result<(), JournalError> {
    let (used, reserved) = (json(&integers(balance.used)), json(&integers(balance.reserved)));
    let update = sqlx::query("UPDATE budgets SET used = ?, reserved = ? WHERE account = ?");
    let update = update.bind(used.clone()).bind(reserved.clone()).bind(account.to_string());
    if update.execute(&mut *connection).await?.rows_affected() > 0 {
        return Ok(());
    }
    sqlx::query("INSERT INTO budgets (account, resets_at, used, reserved) VALUES (?, ?, ?, ?)")
        .bind(account.to_string())
        .bind(account.resets_at().map(micros))
        .bind(used)
        .bind(reserved)
        .execute(&mut *connection)
        .await?;
    let old = sqlx::query("DELETE FROM budgets WHERE resets_at < ?");
    old.bind(micros(forgotten_before(at))).execute(connection).await?;
    Ok(())
}

/// Accounts and amounts that are reserved for a call.
async fn reservations(
    connection: &mut SqliteConnection,
    call: Call,
) -> Result<Vec<(String, Amounts)>, JournalError> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT account, amounts FROM budget_reservations WHERE plan_id = ? AND ordinal = ? AND number = ?",
    )
    .bind(call.task.plan_id.to_string())
    .bind(i64::try_from(call.task.ordinal).unwrap_or(i64::MAX))
    .bind(call.number)
    .fetch_all(connection)
    .await?;
    let read = |(account, text): (String, String)| Ok((account, read("budget_reservations.amounts", &text)?));
    rows.into_iter().map(read).collect()
}

fn of_call<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    Call { task, number }: Call,
) -> Query<'q, Sqlite, SqliteArguments> {
    let ordinal = i64::try_from(task.ordinal).unwrap_or(i64::MAX);
    query.bind(task.plan_id.to_string()).bind(ordinal).bind(number)
}

fn read(column: &'static str, text: &str) -> Result<Amounts, JournalError> {
    let integers: Vec<i64> = from_json(column, text)?;
    amounts(column, &integers)
}
