//! Ownership of plans: which other planners are alive, and which plans are left to them.
//!
//! A planner is one process with an identity of its own, and each of its commits is a heartbeat. When no heartbeat arrives
//! for [`LEASE`], on the clock of the observer, another planner (or the same one, restarted under a new identity) takes its
//! unfinished plans over. The store fences the old owner: its next commit fails as a whole. Times of two processes are never
//! compared, so a clock that jumps neither delays a takeover nor causes one. Only silence that was observed counts: while the
//! observer cannot read the journal, or is frozen, the others may not be able to write it.

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

/// Time between two observations after which silence is measured anew.
const LONGEST_GAP: Duration = Duration::from_millis(1500);

/// The other planners, and since when each sends no heartbeat.
#[derive(Debug, Default)]
pub(super) struct PeerLiveness {
    silent_since: HashMap<Heartbeat, Instant>,
    observed_at: Option<Instant>,
}

impl PeerLiveness {
    /// Records the heartbeats that the journal holds `now`. Returns the planners whose lease has expired.
    pub(super) fn dead(&mut self, own: &str, heartbeats: Vec<Heartbeat>, now: Instant) -> Vec<Heartbeat> {
        let mut known = std::mem::take(&mut self.silent_since);
        if self.observed_at.replace(now).is_none_or(|before| now.duration_since(before) > LONGEST_GAP) {
            known.clear();
        }
        let others = heartbeats.into_iter().filter(|heartbeat| heartbeat.planner != own);
        self.silent_since = others
            .map(|heartbeat| {
                let since = known.get(&heartbeat).copied().unwrap_or(now);
                (heartbeat, since)
            })
            .collect();
        let silent = self.silent_since.iter().filter(|(_, since)| now.duration_since(**since) >= LEASE);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Observes the other planner, with this heartbeat, at each of these times in milliseconds. Returns when it is dead.
    fn death(times: impl IntoIterator<Item = u64>, heartbeat: impl Fn(u64) -> u64) -> Option<u64> {
        let (mut liveness, start) = (PeerLiveness::default(), Instant::now());
        times.into_iter().find(|at| {
            let other = Heartbeat { planner: "other".into(), sequence: heartbeat(*at).cast_signed() };
            let own = Heartbeat { planner: "own".into(), sequence: 0 };
            !liveness.dead("own", vec![own, other], start + Duration::from_millis(*at)).is_empty()
        })
    }

    #[test]
    fn silent_planner_is_dead_after_its_lease() {
        assert_eq!(death((0..100).map(|n| n * 500), |at| at.min(2000)), Some(5000));
        assert_eq!(death((0..100).map(|n| n * 500), |at| at / 800), None);
    }

    #[test]
    fn silence_that_the_observer_missed_is_not_death() {
        // It cannot read the journal for ten seconds, and the other one cannot write it.
        let times = [0, 500, 10_500, 11_000, 11_500, 12_000];
        assert_eq!(death(times, |at| at / 12_000), None);
        // … which then stays silent.
        let later = (0..10).map(|n| 12_500 + n * 500);
        assert_eq!(death(times.into_iter().chain(later), |_| 0), Some(13_500));
    }
}
