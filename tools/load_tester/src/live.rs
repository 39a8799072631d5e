//! Live state of a run.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

/// State of a run that can be read while it runs.
#[derive(Debug, Default)]
pub struct Live {
    pub(crate) sent: AtomicU64,
    pub(crate) failed: AtomicU64,
    problem: OnceLock<String>,
}

impl Live {
    /// Requests that have ended.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Those of them that did not succeed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// The first thing that went wrong between us and the server.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.problem.get().map(String::as_str)
    }

    pub(crate) fn note_problem(&self, problem: impl FnOnce() -> String) {
        self.problem.get_or_init(problem);
    }
}
