//! Commits that this process wrote recently, so that they need not be read back from the log to be applied.
//!
//! Only a cache: when it may be incomplete, it is cleared and the log is read. The position of the journal, which every
//! application changes in whichever process, tells whether it is complete.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use parking_lot::{Mutex, MutexGuard};
use phoenix_domain::PlanId;

use crate::store::{entry::Entry, projection::Commit};

/// Maximum size of the cache, in bytes of the log: memory must not grow with the log while applications fail.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// A commit, and its row in the log.
#[derive(Debug, Clone)]
pub(super) struct Recent {
    pub(super) seq: i64,
    pub(super) bytes: usize,
    pub(super) written_at: Instant,
    pub(super) commit: Arc<Commit>,
}

/// The commits to apply next, as far as this process remembers them.
pub(super) struct Remembered {
    /// Expected position of the journal.
    pub(super) position: i64,
    pub(super) commits: Vec<Recent>,
    /// Some of the commits that follow.
    pub(super) later: Vec<Arc<Commit>>,
    /// Plans that were applied ahead of some of their entries.
    pub(super) applied_early: HashSet<PlanId>,
}

/// Maximum number of later commits in which the ends of plans are searched.
const MAX_LATER: usize = 256;

/// Maximum number of commits in which a plan that has just ended is searched.
const MAX_NEWEST: usize = 64;

/// Recent commits, oldest first.
#[derive(Debug, Default)]
pub(super) struct RecentCommits(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Position of the journal after the last application, if this process made it.
    position: Option<i64>,
    commits: VecDeque<Recent>,
    bytes: usize,
    applied_early: HashSet<PlanId>,
}

impl RecentCommits {
    /// Adds a commit.
    pub(super) fn push(&self, commit: Recent) {
        let mut state = self.lock();
        if state.bytes > MAX_BYTES {
            state.commits.clear();
            state.bytes = 0;
        }
        state.bytes += commit.bytes;
        state.commits.push_back(commit);
    }

    /// The oldest commits, up to `bytes` of the log, written at `until` or before. None before the first application by this
    /// process: another process may have applied what is remembered, so it is cleared.
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
        // Up to the first gap: not every commit is remembered, and a plan may have entries in the others.
        let mut before = commits.last().map(|recent| recent.seq);
        let follows =
            |recent: &&Recent| before.replace(recent.seq).is_none_or(|before| before + 1 == recent.seq);
        let later = state.commits.iter().skip(commits.len()).take_while(follows).take(MAX_LATER);
        let later = later.map(|recent| Arc::clone(&recent.commit)).collect();
        Some(Remembered { position, commits, later, applied_early: state.applied_early.clone() })
    }

    /// The newest commits that are not applied, by their numbers, the oldest first.
    pub(super) fn newest(&self) -> Vec<(i64, Arc<Commit>)> {
        let state = self.lock();
        let newest = state.commits.range(state.commits.len().saturating_sub(MAX_NEWEST)..);
        newest.map(|recent| (recent.seq, Arc::clone(&recent.commit))).collect()
    }

    /// When the oldest commit was written, if there is one.
    pub(super) fn oldest_since(&self) -> Option<Instant> {
        self.lock().commits.front().map(|recent| recent.written_at)
    }

    /// Records that everything up to number `last` is applied, and all entries of the plans in `early`; the journal is at
    /// `position` now.
    pub(super) fn applied(&self, last: i64, early: HashSet<PlanId>, position: i64) {
        let mut state = self.lock();
        let State { position: known, commits, bytes, applied_early } = &mut *state;
        *known = Some(position);
        applied_early.extend(early);
        while let Some(oldest) = commits.pop_front_if(|oldest| oldest.seq <= last) {
            *bytes = bytes.saturating_sub(oldest.bytes);
            if !applied_early.is_empty() {
                // No entry of a plan follows its end.
                for entry in oldest.commit.entries() {
                    if let Entry::PlanEnded { plan_id, .. } = entry {
                        applied_early.remove(plan_id);
                    }
                }
            }
        }
    }

    /// Clears the cache.
    pub(super) fn clear(&self) {
        *self.lock() = State::default();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}
