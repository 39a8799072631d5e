//! Which planner owns which plan.
//!
//! A planner is one process under a name of its own. Each of its commits is a heartbeat. When none has come for as long as
//! [`LEASE`], by the clock of the one who watches, another planner (or the same one, started again under a new name) takes
//! its unfinished plans over. The store fences: a commit of the old owner that comes later fails as a whole. No time of one
//! process is ever compared with that of another, so a clock that jumps neither delays a takeover nor causes one.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use phoenix_domain::PlanId;

use crate::store::{Heartbeat, LeftPlan};

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

/// Plans that were left to another planner, and since when.
#[derive(Debug, Default)]
pub(super) struct Left(HashMap<PlanId, Instant>);

impl Left {
    /// Plans that no planner has taken over for `grace`.
    pub(super) fn overdue(&self, grace: Duration) -> HashSet<PlanId> {
        let overdue = self.0.iter().filter(|(_, since)| since.elapsed() >= grace);
        overdue.map(|(plan_id, _)| *plan_id).collect()
    }

    /// Takes in what is left now; gives what was not before.
    pub(super) fn update<'a>(&mut self, left: &'a [LeftPlan]) -> Vec<&'a LeftPlan> {
        let now = Instant::now();
        let known = std::mem::take(&mut self.0);
        let since = |plan: &LeftPlan| known.get(&plan.plan_id).copied();
        self.0 = left.iter().map(|plan| (plan.plan_id, since(plan).unwrap_or(now))).collect();
        left.iter().filter(|plan| !known.contains_key(&plan.plan_id)).collect()
    }
}
