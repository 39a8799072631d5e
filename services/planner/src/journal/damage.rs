//! Records of the journal that cannot be read. Each is logged once, however often it is read.

use std::collections::HashSet;

use crate::{metrics::UNREADABLE, store::query::Unreadable};
use parking_lot::Mutex;

/// Maximum number of records that are remembered and logged.
const MAX_RECORDS: usize = 10_000;

/// The unreadable records found so far.
#[derive(Debug, Default)]
pub(super) struct DamageLog(Mutex<HashSet<String>>);

impl DamageLog {
    /// Logs and counts a record that cannot be read, the first time.
    pub(super) fn report(&self, Unreadable { id, what }: &Unreadable) {
        // The set holds whole values, so it is consistent even after a panic.
        let mut known = self.0.lock();
        if known.len() < MAX_RECORDS && known.insert(id.clone()) {
            metrics::gauge!(UNREADABLE.name).set(known.len() as f64);
            tracing::error!(plan_id = id, what, "a plan's record is damaged; it is left as it is");
        }
    }
}
