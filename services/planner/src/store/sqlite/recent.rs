//! The commits that this process wrote a moment ago, so that they need not be read back from the log to be moved.
//!
//! Only a shortcut: whenever it is in doubt whether they are all that the log holds, they are forgotten and the log is
//! read. What is in the log for certain is said by the position of the journal, which every move changes, whoever makes it.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{Entries, Entry};
use phoenix_domain::PlanId;

/// What is remembered at most, in bytes of the log: if moves fail for long, memory must not grow with the log.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// What one planner wrote at once.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) planner: String,
    pub(super) groups: Vec<Entries>,
}

impl Commit {
    /// In the order in which they were written.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.groups.iter().flat_map(|group| group.iter())
    }
}

/// A commit, and where it is in the log.
#[derive(Debug, Clone)]
pub(super) struct Recent {
    pub(super) seq: i64,
    pub(super) bytes: usize,
    pub(super) written_at: Instant,
    pub(super) commit: Arc<Commit>,
}

/// What is to be moved next, as far as this process remembers it.
pub(super) struct Remembered {
    /// The journal's position, if nobody else has moved anything.
    pub(super) position: i64,
    pub(super) commits: Vec<Recent>,
    /// What follows, a part of it.
    pub(super) later: Vec<Arc<Commit>>,
    /// Plans that were moved ahead of some of their entries.
    pub(super) ahead: HashSet<PlanId>,
}

/// Commits that are looked into for the ends of plans, at most.
const LOOK_AHEAD: usize = 256;

/// The commits, oldest first.
#[derive(Debug, Default)]
pub(super) struct RecentCommits(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The journal's after the last move, if this process made it.
    position: Option<i64>,
    commits: VecDeque<Recent>,
    bytes: usize,
    ahead: HashSet<PlanId>,
}

impl RecentCommits {
    /// Remembers one more.
    pub(super) fn push(&self, commit: Recent) {
        let mut state = self.lock();
        if state.bytes > MOST_BYTES {
            state.commits.clear();
            state.bytes = 0;
        }
        state.bytes += commit.bytes;
        state.commits.push_back(commit);
    }

    /// The oldest, up to `bytes` of the log, and no younger than `until`. None before this process has moved something
    /// itself: what it remembers may have been moved by others, and is forgotten.
    pub(super) fn oldest(&self, bytes: i64, until: Option<Instant>) -> Option<Remembered> {
        let mut state = self.lock();
        let Some(position) = state.position else {
            *state = State::default();
            return None;
        };
        let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
        let fits = |recent: &&Recent| {
            let fits = left > 0 && until.is_none_or(|until| recent.written_at <= until);
            left = left.saturating_sub(recent.bytes);
            fits
        };
        let commits: Vec<_> = state.commits.iter().take_while(fits).cloned().collect();
        // As far as nothing is missing: not every commit is remembered, and a plan is more than what is.
        let mut before = commits.last().map(|recent| recent.seq);
        let follows =
            |recent: &&Recent| before.replace(recent.seq).is_none_or(|before| before + 1 == recent.seq);
        let later = state.commits.iter().skip(commits.len()).take_while(follows).take(LOOK_AHEAD);
        let later = later.map(|recent| Arc::clone(&recent.commit)).collect();
        Some(Remembered { position, commits, later, ahead: state.ahead.clone() })
    }

    /// When the oldest was written, if any is remembered.
    pub(super) fn oldest_since(&self) -> Option<Instant> {
        self.lock().commits.front().map(|recent| recent.written_at)
    }

    /// Everything up to number `last` has been moved, and all there is of the plans `ahead`; the journal is at `position` now.
    pub(super) fn moved(&self, last: i64, ahead: HashSet<PlanId>, position: i64) {
        let mut state = self.lock();
        let State { position: known, commits, bytes, ahead: still_ahead } = &mut *state;
        *known = Some(position);
        still_ahead.extend(ahead);
        while let Some(oldest) = commits.pop_front_if(|oldest| oldest.seq <= last) {
            *bytes = bytes.saturating_sub(oldest.bytes);
            if !still_ahead.is_empty() {
                // With its end there is nothing left of a plan.
                for entry in oldest.commit.entries() {
                    if let Entry::PlanEnded { plan_id, .. } = entry {
                        still_ahead.remove(plan_id);
                    }
                }
            }
        }
    }

    /// Somebody else has moved some.
    pub(super) fn forget(&self) {
        *self.lock() = State::default();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
