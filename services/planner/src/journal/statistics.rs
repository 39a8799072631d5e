//! Statistics of what this planner commits, minute by minute.
//!
//! Writers count what they have committed, in memory. A task stores the counts every few seconds, in place of what it stored for the
//! same minutes before, so that a repeated write changes nothing and no commit of a plan waits for it. A planner that is killed
//! loses what it counted since.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use phoenix_domain::{
    PlanId,
    plan::{AttemptOutcome, PlanStatus},
    usage::{ModelCall, Usage},
};

use crate::store::{
    backend::Store,
    entry::{Entries, Entry},
    statistics::Counts,
};

/// Interval of the writes.
const INTERVAL: Duration = Duration::from_secs(5);

/// Minutes for which statistics are kept: a week.
const KEPT_MINUTES: i64 = 7 * 24 * 60;

/// Minutes that wait in memory for a database that cannot be written.
const WAITING_MINUTES: usize = 24 * 60;

/// Counts of this planner. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Statistics(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Counts by minute: the present one, and those that are not stored.
    minutes: BTreeMap<i64, Counts>,
    /// Minutes with counts that are not stored.
    changed: BTreeSet<i64>,
}

/// The minute of a time, since 1970.
pub(crate) fn minute_of(at: Timestamp) -> i64 {
    at.as_second().div_euclid(60)
}

impl Statistics {
    /// Counts what a writer has committed: `groups`, without those whose indices are `rejected`.
    pub(super) fn committed(&self, groups: &[Entries], rejected: &[usize], at: Timestamp) {
        let minute = minute_of(at);
        let mut state = self.0.lock();
        let counts = state.minutes.entry(minute).or_default();
        let accepted = groups.iter().enumerate().filter(|(index, _)| !rejected.contains(index));
        accepted.flat_map(|(_, group)| group.iter()).for_each(|entry| count(counts, entry));
        state.changed.insert(minute);
        while state.minutes.len() > WAITING_MINUTES {
            if let Some((forgotten, _)) = state.minutes.pop_first() {
                state.changed.remove(&forgotten);
            }
        }
    }

    /// The counts of a minute and later ones, as far as they are in memory.
    pub(super) fn since(&self, minute: i64) -> BTreeMap<i64, Counts> {
        self.0.lock().minutes.range(minute..).map(|(minute, counts)| (*minute, counts.clone())).collect()
    }

    /// Takes what is not stored.
    fn take_changed(&self) -> Vec<(i64, Counts)> {
        let mut state = self.0.lock();
        let changed = std::mem::take(&mut state.changed);
        let counts = changed.iter().filter_map(|minute| Some((*minute, state.minutes.get(minute)?.clone())));
        counts.collect()
    }

    /// Ends a write of `written`: what is stored and over is forgotten; a failed write is repeated.
    fn written(&self, written: &[(i64, Counts)], is_stored: bool, now: i64) {
        let mut state = self.0.lock();
        for (minute, _) in written {
            if !is_stored {
                state.changed.insert(*minute);
            } else if *minute < now && !state.changed.contains(minute) {
                state.minutes.remove(minute);
            }
        }
    }

    /// Stores what is not stored.
    pub(super) async fn store(&self, store: &dyn Store, planner: &str) {
        let changed = self.take_changed();
        if changed.is_empty() {
            return;
        }
        let now = minute_of(Timestamp::now());
        let stored = store.write_statistics(planner, &changed, now - KEPT_MINUTES).await;
        if let Err(error) = &stored {
            tracing::debug!(%error, "statistics cannot be written; retrying");
        }
        self.written(&changed, stored.is_ok(), now);
    }
}

/// Stores the statistics of `planner`, until it is dropped.
pub(super) async fn run(statistics: Statistics, store: Arc<dyn Store>, planner: String) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        statistics.store(&*store, &planner).await;
    }
}

fn count(counts: &mut Counts, entry: &Entry) {
    match entry {
        Entry::PlanAccepted { .. } => counts.accepted += 1,
        Entry::AttemptStarted { task, number: 1, at, .. } if task.ordinal == 0 => {
            counts.wait.add(since_acceptance(task.plan_id, *at));
        }
        Entry::AttemptEnded { outcome: AttemptOutcome::Failed { model_calls, .. }, .. } => {
            counts.add_usage(Usage::of(model_calls));
        }
        Entry::TaskEnded { result: Ok(result), .. } => {
            counts.add_usage(Usage::of(&ModelCall::in_metadata(&result.metadata)));
        }
        Entry::PlanEnded { plan_id, status, at, .. } => {
            counts.latency.add(since_acceptance(*plan_id, *at));
            match status {
                PlanStatus::Succeeded => counts.succeeded += 1,
                PlanStatus::Cancelled => counts.cancelled += 1,
                _ => counts.failed += 1,
            }
        }
        _ => {}
    }
}

/// Time from the creation of a plan, which its id has, to `at`; zero when the clock was set back.
fn since_acceptance(plan_id: PlanId, at: Timestamp) -> Duration {
    let elapsed = plan_id.created_at().map(|created_at| at.duration_since(created_at));
    elapsed.and_then(|elapsed| Duration::try_from(elapsed).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: PlanStatus, after: Duration) -> Entries {
        let plan_id = PlanId::generate();
        let at = plan_id.created_at().unwrap() + after;
        [Entry::PlanEnded { plan_id, status, at, result: Ok(()) }].into()
    }

    #[test]
    fn rejected_group_is_not_counted() {
        let (statistics, now) = (Statistics::default(), Timestamp::now());
        let second = Duration::from_secs(1);
        let groups = [ended(PlanStatus::Succeeded, second), ended(PlanStatus::Failed, second)];
        statistics.committed(&groups, &[1], now);
        statistics.committed(&[ended(PlanStatus::Cancelled, second)], &[], now);
        let counts = &statistics.since(0)[&minute_of(now)];
        assert_eq!((counts.succeeded, counts.failed, counts.cancelled), (1, 0, 1));
        let median = counts.latency.percentile(0.5).unwrap();
        assert!((median / 1_000.0 - 1.0).abs() < 0.05, "{median}");
    }

    #[test]
    fn minute_is_kept_until_it_is_stored_and_over() {
        let statistics = Statistics::default();
        let at = |minute: i64| Timestamp::from_second(minute * 60).unwrap();
        let groups = [ended(PlanStatus::Succeeded, Duration::ZERO)];
        statistics.committed(&groups, &[], at(7));
        let taken = statistics.take_changed();
        assert_eq!(taken.len(), 1);
        statistics.written(&taken, false, 8);
        let taken = statistics.take_changed();
        assert_eq!(taken.len(), 1, "a failed write is repeated");
        statistics.written(&taken, true, 7);
        assert_eq!(statistics.since(0).len(), 1, "the minute is not over");
        statistics.committed(&groups, &[], at(7));
        let taken = statistics.take_changed();
        assert_eq!(taken[0].1.succeeded, 2, "a later write replaces an earlier one");
        statistics.written(&taken, true, 8);
        assert!(statistics.since(0).is_empty() && statistics.take_changed().is_empty());
    }
}
