//! Dead letters, as rows of a listing.

use phoenix_domain::{
    CorrelationId,
    dead_letter::{DeadLetter, DeadLetterState, Resolution},
};
use sqlx::{ColumnIndex, Decode, FromRow, Row, Type};

use crate::store::{
    dead_letter::DeadLetterCursor,
    error::JournalError,
    listing::Listed,
    stored::{
        text::Text,
        value::{damaged, parse, stored_error, time},
    },
    task_ref::TaskRef,
};

/// A row of a listing of dead letters.
pub(in crate::store) fn listed<'r, R>(row: &'r R) -> Listed<DeadLetter, DeadLetterCursor>
where
    R: Row,
    DeadLetterRow: FromRow<'r, R>,
    &'r str: Decode<'r, R::Database> + Type<R::Database>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    &'static str: ColumnIndex<R>,
{
    let cursor = || {
        let plan_id = row.try_get::<&str, _>("plan_id").ok()?.parse().ok()?;
        let ordinal = usize::try_from(row.try_get::<i64, _>("ordinal").ok()?).ok()?;
        Some(DeadLetterCursor { at: time(row.try_get("at").ok()?).ok()?, task: TaskRef { plan_id, ordinal } })
    };
    let item = DeadLetterRow::from_row(row).map_err(JournalError::from).and_then(DeadLetterRow::read);
    Listed::of(row, cursor(), item)
}

#[derive(FromRow)]
pub(in crate::store) struct DeadLetterRow {
    plan_id: String,
    ordinal: i64,
    correlation_id: String,
    task_id: String,
    key: Text,
    agent: String,
    action: Text,
    error: Option<Text>,
    at: i64,
    state: String,
    settled_at: Option<i64>,
    settled_by: Option<String>,
    reason: Option<Text>,
    attempts: i64,
    redriven_as: Option<String>,
}

impl DeadLetterRow {
    pub(in crate::store) fn read(self) -> Result<DeadLetter, JournalError> {
        let Self {
            plan_id,
            ordinal,
            correlation_id,
            task_id,
            key,
            agent,
            action,
            error,
            at,
            state,
            settled_at,
            settled_by,
            reason,
            attempts,
            redriven_as,
        } = self;
        let state =
            DeadLetterState::from_name(&state).ok_or_else(|| damaged("dead_letters.state", &state))?;
        let resolution = settled_at.map(|at| -> Result<_, JournalError> {
            let by: CorrelationId = parse("dead_letters.settled_by", &settled_by.unwrap_or_default())?;
            let redriven_as = redriven_as.filter(|_| state == DeadLetterState::Redriven);
            Ok(Resolution {
                at: time(at)?,
                by,
                reason: reason.unwrap_or_default().0,
                redriven_as: redriven_as.map(|id| parse("plans.plan_id", &id)).transpose()?,
            })
        });
        Ok(DeadLetter {
            plan_id: parse("dead_letters.plan_id", &plan_id)?,
            ordinal: usize::try_from(ordinal).map_err(|_| damaged("dead_letters.ordinal", ordinal))?,
            correlation_id: parse("plans.correlation_id", &correlation_id)?,
            task_id: parse("tasks.task_id", &task_id)?,
            key: key.0,
            agent: parse("tasks.agent", &agent)?,
            action: action.0,
            error: stored_error(error.as_ref().map(|error| &*error.0))?
                .ok_or_else(|| damaged("tasks.error", "nothing"))?,
            attempts: u32::try_from(attempts).map_err(|_| damaged("attempts", attempts))?,
            at: time(at)?,
            state,
            resolution: resolution.transpose()?,
        })
    }
}
