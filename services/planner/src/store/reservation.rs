//! Reservations: idempotency keys, and plans to redrive. Each can be reserved once.
//!
//! A store finds out what is reserved already; which groups of a batch that rejects is decided here.

use std::collections::HashSet;

use phoenix_domain::PlanId;

use crate::store::entry::{Entries, Entry};

/// What an entry reserves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Reservation<'a> {
    /// The first use of an idempotency key.
    Key(&'a str),
    /// The redrive of a plan.
    Plan(PlanId),
}

pub(super) fn reservation(entry: &Entry) -> Option<Reservation<'_>> {
    match entry {
        Entry::KeyUsed { key, .. } => Some(Reservation::Key(&key.key)),
        Entry::PlanRedriven { plan_id, .. } => Some(Reservation::Plan(*plan_id)),
        _ => None,
    }
}

/// Whether another request may have made the reservation of `entry` first.
pub(super) fn is_reservation(entry: &Entry) -> bool {
    reservation(entry).is_some()
}

/// Whether `entry` reserves a plan.
pub(super) fn is_of_plan(entry: &Entry) -> bool {
    matches!(reservation(entry), Some(Reservation::Plan(_)))
}

/// Indices of those of `groups` that reserve what is in `reserved`, or what an earlier group reserves. A group that is
/// rejected reserves nothing.
pub(super) fn rejected<'a>(groups: &'a [Entries], mut reserved: HashSet<Reservation<'a>>) -> Vec<usize> {
    let mut rejected = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        let own: Vec<_> = group.iter().filter_map(reservation).collect();
        if own.iter().any(|reservation| reserved.contains(reservation)) {
            rejected.push(index);
        } else {
            reserved.extend(own);
        }
    }
    rejected
}
