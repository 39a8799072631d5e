//! The commits that this process wrote a moment ago, so that they need not be read back from the log to be moved.
//!
//! Only a shortcut: whenever it is in doubt whether they are all that the log holds, they are forgotten and the log is
//! read. What is in the log for certain is said by the position of the journal, which every move changes, whoever makes it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Deserialize;

use super::{Entries, Entry};

/// What is remembered at most, in bytes of the log: if moves fail for long, memory must not grow with the log.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// What one planner wrote at once.
#[derive(Debug, Deserialize)]
#[serde(from = "StoredCommit")]
pub(super) struct Commit {
    pub(super) planner: String,
    pub(super) groups: Vec<Entries>,
    /// Entries of several commits, left in the log when the rest of those was moved.
    pub(super) carried: bool,
}

/// As the log has it.
#[derive(Deserialize)]
struct StoredCommit {
    planner: String,
    entries: Entries,
}

impl From<StoredCommit> for Commit {
    fn from(StoredCommit { planner, entries }: StoredCommit) -> Self {
        Self { planner, groups: vec![entries], carried: false }
    }
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
    pub(super) commit: Arc<Commit>,
}

/// The commits, oldest first.
#[derive(Debug, Default)]
pub(super) struct RecentCommits(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The journal's after the last move, if this process made it.
    position: Option<i64>,
    commits: VecDeque<Recent>,
    bytes: usize,
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

    /// The oldest, up to `bytes` of the log, with the position that the journal has if nobody else has moved anything. None
    /// before this process has moved something itself: what it remembers may have been moved by others, and is forgotten.
    pub(super) fn oldest(&self, bytes: i64) -> Option<(i64, Vec<Recent>)> {
        let mut state = self.lock();
        let Some(position) = state.position else {
            *state = State::default();
            return None;
        };
        let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
        let fits = |recent: &&Recent| {
            let fits = left > 0;
            left = left.saturating_sub(recent.bytes);
            fits
        };
        let commits: Vec<_> = state.commits.iter().take_while(fits).cloned().collect();
        Some((position, commits))
    }

    /// Everything up to number `last` has been moved but `left`, and the journal is at `position` now.
    pub(super) fn moved(&self, last: i64, position: i64, left: Option<Recent>) {
        let mut state = self.lock();
        state.position = Some(position);
        while let Some(oldest) = state.commits.pop_front_if(|oldest| oldest.seq <= last) {
            state.bytes = state.bytes.saturating_sub(oldest.bytes);
        }
        if let Some(left) = left {
            state.bytes += left.bytes;
            state.commits.push_front(left);
        }
    }

    /// Whether there is nothing but what the last move has left.
    pub(super) fn is_left_over(&self) -> bool {
        let state = self.lock();
        state.commits.len() == 1 && state.commits.iter().all(|recent| recent.commit.carried)
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
