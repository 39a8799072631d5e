//! Ownership of plans: which other planners are alive, and which plans are left to them.
//!
//! A planner is one process with an identity of its own, and each of its commits is a heartbeat. When no heartbeat arrives
//! for [`LEASE`], on the clock of the observer, another planner (or the same one, restarted under a new identity) takes its
//! unfinished plans over. The store fences the old owner: its next commit fails as a whole. Times of two processes are never
//! compared, so a clock that jumps neither delays a takeover nor causes one.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use phoenix_domain::PlanId;

use crate::store::takeover::{Heartbeat, SkippedPlan};

/// How long a planner without heartbeats still owns its plans.
pub(super) const LEASE: Duration = Duration::from_secs(3);

/// Interval of the heartbeats of a planner that has nothing to write.
pub(super) const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(800);

/// The other planners, and since when each sends no heartbeat.
#[derive(Debug, Default)]
pub(super) struct PeerLiveness(HashMap<Heartbeat, Instant>);

impl PeerLiveness {
    /// Records the current heartbeats. Returns the planners whose lease has expired.
    pub(super) fn dead(&mut self, own: &str, heartbeats: Vec<Heartbeat>) -> Vec<Heartbeat> {
        let now = Instant::now();
        let known = std::mem::take(&mut self.0);
        let others = heartbeats.into_iter().filter(|heartbeat| heartbeat.planner != own);
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

/// Plans that this planner skipped, and since when.
#[derive(Debug, Default)]
pub(super) struct SkippedPlans(HashMap<PlanId, Instant>);

impl SkippedPlans {
    /// Plans that no planner has taken over for `grace`.
    pub(super) fn overdue(&self, grace: Duration) -> HashSet<PlanId> {
        let overdue = self.0.iter().filter(|(_, since)| since.elapsed() >= grace);
        overdue.map(|(plan_id, _)| *plan_id).collect()
    }

    /// Records the plans that are skipped now. Returns the new ones.
    pub(super) fn update<'a>(&mut self, skipped: &'a [SkippedPlan]) -> Vec<&'a SkippedPlan> {
        let now = Instant::now();
        let known = std::mem::take(&mut self.0);
        let since = |plan: &SkippedPlan| known.get(&plan.plan_id).copied();
        self.0 = skipped.iter().map(|plan| (plan.plan_id, since(plan).unwrap_or(now))).collect();
        skipped.iter().filter(|plan| !known.contains_key(&plan.plan_id)).collect()
    }
}
