//! What the journal holds and nobody can read. Told once, however often it is asked for.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use crate::{metrics::UNREADABLE, store::Unreadable};

/// Records are remembered up to so many: whoever has more has one problem, not many.
const MOST: usize = 10_000;

/// The damaged records that were met so far.
#[derive(Debug, Default)]
pub(super) struct Damage(Mutex<HashSet<String>>);

impl Damage {
    /// Takes note of a record that can't be read.
    pub(super) fn meet(&self, Unreadable { id, what }: &Unreadable) {
        // A set of whole values: what a panicking thread leaves behind is still consistent.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MOST && known.insert(id.clone()) {
            metrics::gauge!(UNREADABLE.name).set(known.len() as f64);
            tracing::error!(plan_id = id, what, "a plan's record is damaged; it is left as it is");
        }
    }
}
