//! Budgets: what is reserved for a call before it starts, and what it used.

use jiff::Timestamp;
use phoenix_domain::budget::{Account, Amounts, Each, Limits, Room};

use crate::store::{error::JournalError, stored::value::damaged, task_ref::TaskRef};

/// How long the account of a day is kept after it, in days.
pub(super) const KEPT_DAYS: i64 = 35;

/// The call of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The task.
    pub task: TaskRef,
    /// Number of the attempt.
    pub number: u32,
}

/// What a call is to reserve in an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// The account.
    pub account: Account,
    /// Limits of the account.
    pub limits: Limits,
    /// Amounts to reserve.
    pub wanted: Amounts,
}

/// State of an account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Balance {
    /// What ended calls used.
    pub used: Amounts,
    /// What is reserved for calls that run.
    pub reserved: Amounts,
}

/// Outcome of a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the call fits, and the amounts that are reserved for it then.
    pub room: Room,
    /// The account before the call.
    pub balance: Balance,
}

/// What a call used in an account.
pub type Use = (Account, Amounts);

/// Whether a call with these verdicts may run: otherwise nothing is reserved.
#[must_use]
pub fn is_granted(verdicts: &[Verdict]) -> bool {
    verdicts.iter().all(|verdict| matches!(verdict.room, Room::Enough(_)))
}

/// Time before which accounts of days are deleted.
pub(super) fn forgotten_before(at: Timestamp) -> Timestamp {
    at.checked_sub(jiff::SignedDuration::from_hours(24 * KEPT_DAYS)).unwrap_or(Timestamp::MIN)
}

/// Amounts as signed integers, for a database.
pub(super) fn integers(amounts: Amounts) -> [i64; 4] {
    amounts.values().map(|amount| i64::try_from(amount).unwrap_or(i64::MAX))
}

/// Reads the result of [`integers`].
pub(super) fn amounts(column: &str, integers: &[i64]) -> Result<Amounts, JournalError> {
    let values: [i64; 4] = integers.try_into().map_err(|_| damaged(column, format!("{integers:?}")))?;
    Ok(Each::new(values.map(|value| u64::try_from(value).unwrap_or(0))))
}
