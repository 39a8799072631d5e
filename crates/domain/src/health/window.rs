//! The calls of an agent over which rates are computed.
//!
//! A window holds the newest calls, at most [`window_calls`](BreakerPolicy::window_calls), of the last
//! [`window`](BreakerPolicy::window). Time is counted in slices, and calls that follow one another and differ in nothing are
//! stored as one run, so that an agent that works takes a few bytes.

use std::collections::{BTreeSet, VecDeque};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::policy::{BreakerPolicy, SLICES};
use crate::ids::TaskId;

/// The newest calls of an agent, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Window {
    /// Length of a slice in microseconds.
    slice_us: i64,
    runs: VecDeque<Run>,
}

/// Equal calls that followed one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(i64, u8, u32, u32)", into = "(i64, u8, u32, u32)")]
struct Run {
    /// Number of the slice.
    slice: i64,
    kind: CallKind,
    /// Digest of the task; 0 when every call is of another task.
    task: u32,
    count: u32,
}

/// What counts against an agent in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct CallKind {
    pub(super) is_failed: bool,
    pub(super) is_slow: bool,
}

/// Numbers of the calls in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    pub(super) calls: u32,
    pub(super) failed: u32,
    pub(super) slow: u32,
    /// Tasks of the failed calls.
    pub(super) failed_tasks: u32,
    /// Tasks of the slow calls.
    pub(super) slow_tasks: u32,
}

impl From<(i64, u8, u32, u32)> for Run {
    fn from((slice, kind, task, count): (i64, u8, u32, u32)) -> Self {
        Self { slice, kind: CallKind { is_failed: kind & 1 != 0, is_slow: kind & 2 != 0 }, task, count }
    }
}

impl From<Run> for (i64, u8, u32, u32) {
    fn from(Run { slice, kind, task, count }: Run) -> Self {
        (slice, u8::from(kind.is_failed) | u8::from(kind.is_slow) << 1, task, count)
    }
}

impl Window {
    /// Whether it holds no call.
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Adds `count` calls of one kind that ended at `at`. Without a task, each is of another one.
    pub(super) fn add(
        &mut self,
        kind: CallKind,
        task: Option<TaskId>,
        count: u32,
        at: Timestamp,
        policy: &BreakerPolicy,
    ) {
        let slice_us = policy.slice_us();
        if self.slice_us != slice_us {
            // Another configuration: the slices of the earlier calls mean something else.
            *self = Self { slice_us, runs: VecDeque::new() };
        }
        let mut slice = at.as_microsecond().div_euclid(slice_us);
        match self.runs.back() {
            // The clock was set back.
            Some(last) if last.slice.saturating_sub(slice) > SLICES => self.runs.clear(),
            Some(last) => slice = slice.max(last.slice),
            None => {}
        }
        while self.runs.front().is_some_and(|run| slice.saturating_sub(run.slice) >= SLICES) {
            self.runs.pop_front();
        }
        if count == 0 {
            return;
        }
        let run = Run { slice, kind, task: digest(kind, task), count };
        match self.runs.back_mut() {
            Some(last) if Run { count, ..*last } == run => last.count = last.count.saturating_add(count),
            _ => self.runs.push_back(run),
        }
        self.forget_beyond(policy.window_calls);
    }

    /// Forgets the oldest calls, so that `limit` are left.
    fn forget_beyond(&mut self, limit: u32) {
        let calls: u64 = self.runs.iter().map(|run| u64::from(run.count)).sum();
        let mut excess = calls.saturating_sub(u64::from(limit));
        while let Some(run) = self.runs.front_mut().filter(|_| excess > 0) {
            let forgotten = u64::from(run.count).min(excess);
            excess -= forgotten;
            run.count -= u32::try_from(forgotten).unwrap_or(run.count);
            if run.count == 0 {
                self.runs.pop_front();
            }
        }
    }

    pub(super) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        let (mut failed, mut slow) = (BTreeSet::new(), BTreeSet::new());
        for Run { kind, task, count, .. } in &self.runs {
            tally.calls = tally.calls.saturating_add(*count);
            for (is_counted, calls, tasks, seen) in [
                (kind.is_failed, &mut tally.failed, &mut tally.failed_tasks, &mut failed),
                (kind.is_slow, &mut tally.slow, &mut tally.slow_tasks, &mut slow),
            ] {
                if !is_counted {
                    continue;
                }
                *calls = calls.saturating_add(*count);
                let new = if *task == 0 { *count } else { u32::from(seen.insert(*task)) };
                *tasks = tasks.saturating_add(new);
            }
        }
        tally
    }
}

/// The random end of a task's identifier, which tells the tasks of a window apart. The tasks of calls that count for nothing
/// are not told apart.
fn digest(kind: CallKind, task: Option<TaskId>) -> u32 {
    if kind == CallKind::default() {
        return 0;
    }
    let [.., a, b, c, d] = match &task {
        Some(task) => *task.as_uuid().as_bytes(),
        None => return 0,
    };
    u32::from_be_bytes([a, b, c, d]).max(1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// Slice, failed, slow, task.
    type Call = (i64, bool, bool, Option<TaskId>);

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + ms).unwrap()
    }

    fn kind(is_failed: bool, is_slow: bool) -> CallKind {
        CallKind { is_failed, is_slow }
    }

    #[test]
    fn successes_of_a_busy_agent_take_one_run_per_slice() {
        let policy = BreakerPolicy { window_calls: 1000, ..BreakerPolicy::default() };
        let mut window = Window::default();
        for ms in 0..60_000 {
            window.add(CallKind::default(), Some(TaskId::generate()), 50, at(ms), &policy);
        }
        assert_eq!(window.tally(), Tally { calls: 1000, ..Tally::default() });
        assert!(window.runs.len() <= 20, "{}", window.runs.len());
        let text = serde_json::to_string(&window).unwrap();
        assert_eq!(serde_json::from_str::<Window>(&text).unwrap(), window);
    }

    #[test]
    fn window_recovers_from_a_change_of_clock_or_configuration() {
        let policy = BreakerPolicy::default();
        let mut window = Window::default();
        window.add(kind(true, false), None, 3, at(3_600_000), &policy);
        window.add(kind(true, false), None, 1, at(3_599_000), &policy);
        assert_eq!(window.tally().calls, 4, "a late report");
        window.add(kind(true, false), None, 1, at(0), &policy);
        assert_eq!(window.tally().calls, 1, "the clock was set back");
        let other = BreakerPolicy { window: Duration::from_secs(10), ..policy };
        window.add(kind(false, true), None, 2, at(0), &other);
        assert_eq!((window.tally().calls, window.tally().slow_tasks), (2, 2));
        let tiny = BreakerPolicy { window: Duration::ZERO, ..policy };
        window.add(kind(false, true), None, 2, at(0), &tiny);
        assert_eq!(window.tally().calls, 2);
    }

    proptest! {
        /// The runs equal a list of all calls, of which the newest count.
        #[test]
        fn window_equals_a_list_of_calls(
            calls in prop::collection::vec((any::<bool>(), any::<bool>(), 0usize..4, 1u32..4, 0i64..9_000), 1..120),
            window_calls in 1u32..40,
        ) {
            let tasks = [None, Some(TaskId::generate()), Some(TaskId::generate()), Some(TaskId::generate())];
            let policy = BreakerPolicy { window_calls, ..BreakerPolicy::default() };
            let (mut window, mut list, mut ms) = (Window::default(), Vec::new(), 0);
            for (is_failed, is_slow, task, count, wait) in calls {
                ms += wait;
                window.add(kind(is_failed, is_slow), tasks[task], count, at(ms), &policy);
                let slice = at(ms).as_microsecond().div_euclid(3_000_000);
                list.extend((0..count).map(|_| (slice, is_failed, is_slow, tasks[task])));
                list.retain(|(old, ..)| slice - old < 20);
                let excess = list.len().saturating_sub(window_calls as usize);
                list.drain(..excess);
                let count = |of: fn(&Call) -> bool| {
                    let calls: Vec<_> = list.iter().filter(|call| of(call)).collect();
                    let known: BTreeSet<_> = calls.iter().filter_map(|(.., task)| *task).collect();
                    let unknown = calls.iter().filter(|(.., task)| task.is_none()).count();
                    (calls.len() as u32, (known.len() + unknown) as u32)
                };
                let ((failed, failed_tasks), (slow, slow_tasks)) = (count(|call| call.1), count(|call| call.2));
                let calls = list.len() as u32;
                prop_assert_eq!(window.tally(), Tally { calls, failed, slow, failed_tasks, slow_tasks });
                prop_assert!(window.runs.len() <= window_calls as usize);
            }
        }
    }
}
