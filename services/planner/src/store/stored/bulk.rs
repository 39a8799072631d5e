//! Bulk operations, as rows. The tables call them sweeps.

use jiff::Timestamp;
use phoenix_domain::{BulkRedriveId, CorrelationId};
use serde::Serialize;
use sqlx::FromRow;

use crate::store::{
    dead_letter::{BulkAction, BulkOperation},
    entry::Entry,
    error::JournalError,
    query::Unreadable,
    stored::{
        text::Text,
        value::{damaged, parse, time},
    },
};

/// Facts of a `dead_letter_discarded` event, as readers of the journal find them.
#[derive(Serialize)]
pub(in crate::store) struct Discarded<'a> {
    pub(in crate::store) correlation_id: CorrelationId,
    pub(in crate::store) reason: &'a str,
    pub(in crate::store) sweep_id: BulkRedriveId,
}

/// Whether `entry` starts or ends a bulk operation.
pub(in crate::store) const fn is_bulk(entry: &Entry) -> bool {
    matches!(entry, Entry::BulkStarted { .. } | Entry::BulkEnded { .. })
}

/// The operations of `rows`, and those that cannot be read.
pub(in crate::store) fn read_all(rows: Vec<BulkRow>) -> (Vec<BulkOperation>, Vec<Unreadable>) {
    let (mut operations, mut unreadable) = (Vec::new(), Vec::new());
    for row in rows {
        let id = row.sweep_id.clone();
        match row.read() {
            Ok((operation, _)) => operations.push(operation),
            Err(error) => unreadable.push(Unreadable { id, what: error.to_string() }),
        }
    }
    (operations, unreadable)
}

#[derive(FromRow)]
pub(in crate::store) struct BulkRow {
    pub(in crate::store) sweep_id: String,
    action: String,
    rate: Option<f64>,
    reason: Text,
    by: String,
    at: i64,
    selected: i64,
}

impl BulkRow {
    pub(in crate::store) fn read(self) -> Result<(BulkOperation, u64), JournalError> {
        let Self { sweep_id, action, rate, reason, by, at, selected } = self;
        let action = match (action.as_str(), rate) {
            ("redrive", Some(rate)) => BulkAction::Redrive { rate },
            ("discard", _) => BulkAction::Discard,
            (other, _) => return Err(damaged("sweeps.action", other)),
        };
        let at: Timestamp = time(at)?;
        let (sweep_id, by) = (parse("sweeps.sweep_id", &sweep_id)?, parse("sweeps.by", &by)?);
        let selected = u64::try_from(selected).map_err(|_| damaged("sweeps.selected", selected))?;
        Ok((BulkOperation { sweep_id, action, at, by, reason: reason.0 }, selected))
    }
}
