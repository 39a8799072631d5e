//! `retry` of an agent, and of single tools of an MCP server.

use std::time::Duration;

use phoenix_domain::{limits::MAX_ATTEMPTS, retry::RetryPolicy};
use serde::Deserialize;

use super::{
    bounds::{positive, set},
    problems::Problems,
};

/// The table `retry`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RetryTable {
    max_attempts: Option<u32>,
    initial_backoff_ms: Option<u64>,
    max_backoff_ms: Option<u64>,
}

impl RetryTable {
    /// Applies the table, at `at` in the file, to `policy`.
    pub(super) fn apply(&self, policy: &mut RetryPolicy, at: &str, problems: &mut Problems) {
        let Self { max_attempts, initial_backoff_ms, max_backoff_ms } = *self;
        let name = format!("{at}.max_attempts");
        if let Some(attempts) =
            max_attempts.filter(|attempts| usize::try_from(*attempts).unwrap_or(usize::MAX) > MAX_ATTEMPTS)
        {
            problems.add(&name, format_args!("is {attempts}, and may be at most {MAX_ATTEMPTS}"));
        }
        positive(&mut policy.max_attempts, max_attempts, &name, problems);
        set(&mut policy.initial_backoff, initial_backoff_ms.map(Duration::from_millis).as_ref());
        set(&mut policy.max_backoff, max_backoff_ms.map(Duration::from_millis).as_ref());
    }
}
