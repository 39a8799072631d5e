//! Which planner owns which plan.
//!
//! A planner is one process under a name of its own. Each of its commits is a heartbeat. When none has come for as long as
//! [`LEASE`], by the clock of the one who watches, another planner (or the same one, started again under a new name) takes
//! its unfinished plans over. The store fences: a commit of the old owner that comes later fails as a whole. No time of one
//! process is ever compared with that of another, so a clock that jumps neither delays a takeover nor causes one.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::store::Heartbeat;

/// How long a planner that is not heard of still owns its plans.
pub(super) const LEASE: Duration = Duration::from_secs(3);

/// How often a planner that has nothing to write shows that it lives.
pub(super) const RENEW_EVERY: Duration = Duration::from_millis(800);

/// The other planners, and since when each has been silent.
#[derive(Debug, Default)]
pub(super) struct Others(HashMap<Heartbeat, Instant>);

impl Others {
    /// Takes in who lives now, as the store tells it; gives those that have been silent for too long.
    pub(super) fn dead(&mut self, own: &str, alive: Vec<Heartbeat>) -> Vec<Heartbeat> {
        let now = Instant::now();
        let known = std::mem::take(&mut self.0);
        let others = alive.into_iter().filter(|heartbeat| heartbeat.planner != own);
        self.0 = others
            .map(|heartbeat| {
                let since = known.get(&heartbeat).copied().unwrap_or(now);
                (heartbeat, since)
            })
            .collect();
        let silent = self.0.iter().filter(|(_, since)| now.duration_since(**since) >= LEASE);
        silent.map(|(heartbeat, _)| heartbeat.clone()).collect()
    }
}
