//! Ownership of plans: which other planners are alive, and which plans are left to them.
//!
//! A planner is one process with an identity of its own, and each of its commits is a heartbeat. When no heartbeat arrives
//! for [`LEASE`], on the clock of the observer, another planner (or the same one, restarted under a new identity) takes its
//! unfinished plans over. The store fences the old owner: its next commit fails as a whole. Times of two processes are never
//! compared, so a clock that jumps neither delays a takeover nor causes one.
//!
//! Silence counts only while the observer itself reaches the database: an outage of the database silences every planner, and
//! the first one that is back must not take the others for dead.

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

/// Longest silence that two observations in succession add, however far apart they are.
const LONGEST_STEP: Duration = Duration::from_secs(1);

/// Age of the observer's own last heartbeat from which on it knows nothing about the others.
const OWN_SILENCE: Duration = Duration::from_millis(1500);

/// The other planners, and for how long each is known to send no heartbeat.
#[derive(Debug, Default)]
pub(super) struct PeerLiveness {
    silences: HashMap<Heartbeat, Duration>,
    observed_at: Option<Instant>,
    /// The observer's own heartbeat, and since when it is the last one.
    own: Option<(Heartbeat, Instant)>,
}

impl PeerLiveness {
    /// Records the heartbeats that the journal holds `now`. Returns the planners whose lease has expired.
    pub(super) fn dead(&mut self, own: &str, heartbeats: Vec<Heartbeat>, now: Instant) -> Vec<Heartbeat> {
        let elapsed = self.observed_at.replace(now).map_or(Duration::ZERO, |at| now.duration_since(at));
        let known = std::mem::take(&mut self.silences);
        let (own, others): (Vec<_>, Vec<_>) =
            heartbeats.into_iter().partition(|heartbeat| heartbeat.planner == own);
        let step = if self.is_alive(now, own) { elapsed.min(LONGEST_STEP) } else { Duration::ZERO };
        self.silences = others
            .into_iter()
            .map(|heartbeat| {
                let silence = known.get(&heartbeat).map_or(Duration::ZERO, |silence| *silence + step);
                (heartbeat, silence)
            })
            .collect();
        let silent = self.silences.iter().filter(|(_, silence)| **silence >= LEASE);
        silent.map(|(heartbeat, _)| heartbeat.clone()).collect()
    }

    /// Whether the observer itself, whose row is `own`, sends heartbeats.
    fn is_alive(&mut self, now: Instant, own: Vec<Heartbeat>) -> bool {
        let Some(heartbeat) = own.into_iter().next() else { return false };
        let last = self.own.take().filter(|(last, _)| *last == heartbeat);
        let (_, since) = self.own.insert(last.unwrap_or((heartbeat, now)));
        now.duration_since(*since) < OWN_SILENCE
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

    const INTERVAL: Duration = Duration::from_millis(500);

    fn heartbeat(planner: &str, sequence: i64) -> Heartbeat {
        Heartbeat { planner: planner.into(), sequence }
    }

    /// Observes `steps` times that `peer` sends no further heartbeat, while `own` sends one each time or none.
    fn observe(
        liveness: &mut PeerLiveness,
        at: &mut Instant,
        own: (i64, bool),
        steps: i64,
    ) -> Vec<Heartbeat> {
        let mut dead = Vec::new();
        for step in 1..=steps {
            *at += INTERVAL;
            let own = own.0 + if own.1 { step } else { 0 };
            dead = liveness.dead("own", vec![heartbeat("own", own), heartbeat("peer", 7)], *at);
        }
        dead
    }

    #[test]
    fn silent_peer_is_dead_after_its_lease() {
        let (mut liveness, mut at) = (PeerLiveness::default(), Instant::now());
        assert_eq!(observe(&mut liveness, &mut at, (0, true), 6), []);
        assert_eq!(observe(&mut liveness, &mut at, (6, true), 1), [heartbeat("peer", 7)]);
        let again = liveness.dead("own", vec![heartbeat("own", 8), heartbeat("peer", 8)], at);
        assert_eq!(again, [], "a heartbeat ends the silence");
    }

    #[test]
    fn outage_of_the_database_silences_no_peer() {
        let (mut liveness, mut at) = (PeerLiveness::default(), Instant::now());
        assert_eq!(observe(&mut liveness, &mut at, (0, true), 1), []);
        // Nothing can be read for a minute. The peer's first heartbeat comes two seconds later than that of the observer.
        at += Duration::from_secs(60);
        assert_eq!(observe(&mut liveness, &mut at, (1, true), 4), []);
    }

    #[test]
    fn observer_that_cannot_write_takes_no_peer_for_dead() {
        let (mut liveness, mut at) = (PeerLiveness::default(), Instant::now());
        assert_eq!(observe(&mut liveness, &mut at, (0, false), 100), []);
        assert_eq!(observe(&mut liveness, &mut at, (0, true), 6), [heartbeat("peer", 7)]);
    }

    #[test]
    fn peer_is_dead_at_last_when_each_observation_takes_long() {
        let (mut liveness, mut at) = (PeerLiveness::default(), Instant::now());
        for step in 0..4 {
            at += Duration::from_secs(10);
            let dead = liveness.dead("own", vec![heartbeat("own", step), heartbeat("peer", 7)], at);
            assert_eq!(dead.len(), usize::from(step == 3), "observation {step}");
        }
    }
}
