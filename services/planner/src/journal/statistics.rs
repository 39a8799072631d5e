//! Statistics of what this planner commits, minute by minute.
//!
//! Writers count what they have committed, in memory. A task stores the counts every few seconds, in place of what it stored for the
//! same minutes before, so that a repeated write changes nothing and no commit of a plan waits for it; with them it stores their
//! sums over the longer periods that contain them, which longer windows are read from. A planner that is killed loses what it
//! counted since.

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
    statistics::{Counts, LENGTHS, Period},
};

/// Interval of the writes.
const INTERVAL: Duration = Duration::from_secs(5);

/// Minutes for which statistics are kept: a week.
const KEPT_MINUTES: i64 = 7 * 24 * 60;

/// Minutes that wait in memory for a database that cannot be written.
const WAITING_MINUTES: i64 = 24 * 60;

/// Minutes are kept in memory in whole periods of this length, so that each period can be summed.
const LONGEST: i64 = LENGTHS[LENGTHS.len() - 1];

/// Counts of this planner. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Statistics(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Counts by minute: the present longest period, and what is not stored.
    minutes: BTreeMap<i64, Counts>,
    /// Minutes with counts that are not stored.
    changed: BTreeSet<i64>,
    /// The first minute that may be in memory. Counts of earlier ones are stored, and must not be replaced by parts of them.
    first: i64,
}

/// The minute of a time, since 1970.
pub(crate) fn minute_of(at: Timestamp) -> i64 {
    at.as_second().div_euclid(60)
}

impl State {
    /// Forgets what is before the longest period with `minute`.
    fn forget_before(&mut self, minute: i64) {
        self.first = self.first.max(Period::of(LONGEST, minute).begin());
        self.minutes = self.minutes.split_off(&self.first);
        self.changed = self.changed.split_off(&self.first);
    }

    /// The counts of a period, all of whose minutes that have counts are in memory.
    fn sum(&self, period: Period) -> Counts {
        let mut sum = Counts::default();
        self.minutes
            .range(period.begin()..period.begin() + period.length)
            .for_each(|(_, counts)| sum += counts);
        sum
    }
}

impl Statistics {
    /// Counts what a writer has committed: `groups`, without those whose indices are `rejected`.
    pub(super) fn committed(&self, groups: &[Entries], rejected: &[usize], at: Timestamp) {
        let mut state = self.0.lock();
        // A clock that was set back far counts in the oldest minute that is in memory.
        let minute = minute_of(at).max(state.first);
        let counts = state.minutes.entry(minute).or_default();
        let accepted = groups.iter().enumerate().filter(|(index, _)| !rejected.contains(index));
        accepted.flat_map(|(_, group)| group.iter()).for_each(|entry| count(counts, entry));
        state.changed.insert(minute);
        let oldest = state.minutes.first_key_value().map(|(oldest, _)| *oldest);
        if oldest.is_some_and(|oldest| oldest < minute - WAITING_MINUTES - LONGEST) {
            state.forget_before(minute - WAITING_MINUTES);
        }
    }

    /// The counts of a period and later ones of its length, by number, as far as they are in memory.
    pub(super) fn since(&self, Period { length, number }: Period) -> BTreeMap<i64, Counts> {
        let state = self.0.lock();
        let mut periods: BTreeMap<i64, Counts> = BTreeMap::new();
        for (minute, counts) in state.minutes.range(number.saturating_mul(length)..) {
            *periods.entry(Period::of(length, *minute).number).or_default() += counts;
        }
        periods
    }

    /// Takes what is not stored: changed minutes, and the longer periods that contain them.
    fn take_changed(&self) -> Vec<(Period, Counts)> {
        let mut state = self.0.lock();
        let changed = std::mem::take(&mut state.changed);
        let periods: BTreeSet<Period> =
            changed.iter().flat_map(|minute| LENGTHS.map(|length| Period::of(length, *minute))).collect();
        periods.into_iter().map(|period| (period, state.sum(period))).collect()
    }

    /// Ends a write of `written`: a failed one is repeated, and what is stored and over is forgotten.
    fn written(&self, written: &[(Period, Counts)], is_stored: bool, now: i64) {
        let mut state = self.0.lock();
        if !is_stored {
            let minutes = written.iter().filter(|(period, _)| period.length == 1);
            state.changed.extend(minutes.map(|(period, _)| period.number));
        }
        let unstored = state.changed.first().copied();
        state.forget_before(unstored.map_or(now, |unstored| unstored.min(now)));
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
    use proptest::prelude::*;

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
        let counts = &statistics.since(Period::of(1, 0))[&minute_of(now)];
        assert_eq!((counts.succeeded, counts.failed, counts.cancelled), (1, 0, 1));
        let median = counts.latency.percentile(0.5).unwrap();
        assert!((median / 1_000.0 - 1.0).abs() < 0.05, "{median}");
    }

    #[test]
    fn minute_is_kept_until_stored_and_its_period_is_over() {
        let statistics = Statistics::default();
        let at = |minute: i64| Timestamp::from_second(minute * 60).unwrap();
        let all = Period::of(1, 0);
        let groups = [ended(PlanStatus::Succeeded, Duration::ZERO)];
        statistics.committed(&groups, &[], at(7));
        let taken = statistics.take_changed();
        let periods = LENGTHS.map(|length| Period::of(length, 7));
        assert_eq!(taken.iter().map(|(period, _)| *period).collect::<Vec<_>>(), periods);
        statistics.written(&taken, false, 12);
        let taken = statistics.take_changed();
        assert_eq!(taken.len(), 3, "a failed write is repeated");
        statistics.written(&taken, true, 9);
        assert_eq!(statistics.since(all).len(), 1, "the ten minutes are not over");
        statistics.committed(&groups, &[], at(8));
        let taken = statistics.take_changed();
        let succeeded: Vec<_> = taken.iter().map(|(_, counts)| counts.succeeded).collect();
        assert_eq!(succeeded, [1, 2, 2], "the minute, and the sums with the minute before");
        statistics.written(&taken, true, 10);
        assert!(statistics.since(all).is_empty() && statistics.take_changed().is_empty());
        statistics.committed(&groups, &[], at(3));
        assert_eq!(
            statistics.take_changed()[0].0.number,
            10,
            "what is stored is not replaced by a part of it"
        );
    }

    /// What counting adds to a commit. Times depend on the machine, so only their order of magnitude is checked.
    #[test]
    fn counting_a_commit_takes_microseconds() {
        let (statistics, now) = (Statistics::default(), Timestamp::now());
        let groups: Vec<_> =
            (0..16).map(|_| ended(PlanStatus::Succeeded, Duration::from_millis(7))).collect();
        let began = std::time::Instant::now();
        (0..1_000).for_each(|_| statistics.committed(&groups, &[], now));
        let each = began.elapsed() / 1_000;
        println!("counting a commit with the ends of 16 plans: {each:?}");
        assert!(each < Duration::from_millis(5), "{each:?}");
    }

    #[test]
    fn long_outage_costs_the_oldest_minutes_only() {
        let statistics = Statistics::default();
        let at = |minute: i64| Timestamp::from_second(minute * 60).unwrap();
        let groups = [ended(PlanStatus::Succeeded, Duration::ZERO)];
        (0..2_000).for_each(|minute| statistics.committed(&groups, &[], at(minute)));
        let kept = statistics.since(Period::of(1, 0));
        let (first, last) = (*kept.first_key_value().unwrap().0, *kept.last_key_value().unwrap().0);
        assert!(last == 1_999 && (540..=560).contains(&first) && first % 10 == 0, "{first} to {last}");
    }

    /// Something that happens to the counts of one planner.
    #[derive(Debug, Clone)]
    enum Step {
        /// A plan ends after so many minutes more.
        Ends(i64, PlanStatus, Duration),
        /// The counts are written, or the write fails.
        Stores(bool),
        /// The write reaches the database, but its answer is lost.
        Loses,
    }

    fn steps() -> impl Strategy<Value = Vec<(usize, Step)>> {
        let status =
            prop::sample::select(vec![PlanStatus::Succeeded, PlanStatus::Failed, PlanStatus::Cancelled]);
        let ends = (0..7_i64, status, 0..100_000_u64)
            .prop_map(|(later, status, millis)| Step::Ends(later, status, Duration::from_millis(millis)));
        let step = prop_oneof![6 => ends, 2 => any::<bool>().prop_map(Step::Stores), 1 => Just(Step::Loses)];
        prop::collection::vec((0..2_usize, step), 1..120)
    }

    proptest! {
        /// Whatever is stored when, every length of periods has the same counts as what happened.
        #[test]
        fn periods_are_exact_against_a_recomputation(steps in steps()) {
            let planners = [Statistics::default(), Statistics::default()];
            let mut stored: BTreeMap<(Period, usize), Counts> = BTreeMap::new();
            let mut expected: BTreeMap<Period, Counts> = BTreeMap::new();
            let mut minute = 29_000_003;
            for (planner, step) in steps {
                match step {
                    Step::Ends(later, status, after) => {
                        minute += later;
                        let group = ended(status, after);
                        planners[planner].committed(std::slice::from_ref(&group), &[], Timestamp::from_second(minute * 60).unwrap());
                        for length in LENGTHS {
                            count(expected.entry(Period::of(length, minute)).or_default(), &group[0]);
                        }
                    }
                    Step::Stores(false) => {
                        let taken = planners[planner].take_changed();
                        planners[planner].written(&taken, false, minute);
                    }
                    Step::Stores(true) | Step::Loses => {
                        let taken = planners[planner].take_changed();
                        stored.extend(taken.iter().map(|(period, counts)| ((*period, planner), counts.clone())));
                        planners[planner].written(&taken, matches!(step, Step::Stores(_)), minute);
                    }
                }
                for length in LENGTHS {
                    let mut read: BTreeMap<Period, Counts> = BTreeMap::new();
                    let own: Vec<_> =
                        planners.iter().map(|planner| planner.since(Period { length, number: 0 })).collect();
                    for ((period, planner), counts) in stored.iter().filter(|((period, _), _)| period.length == length) {
                        if !own[*planner].contains_key(&period.number) {
                            *read.entry(*period).or_default() += counts;
                        }
                    }
                    for (number, counts) in own.iter().flatten() {
                        *read.entry(Period { length, number: *number }).or_default() += counts;
                    }
                    let expected = expected.iter().filter(|(period, _)| period.length == length);
                    prop_assert!(read.iter().eq(expected), "{length}: {read:?}");
                }
            }
        }
    }
}
