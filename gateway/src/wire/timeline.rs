//! The time of a task by phase.

use jiff::Timestamp;
use phoenix_domain::plan::TaskStatus;
use serde::Serialize;
use utoipa::ToSchema;

/// Time of a task by phase, in milliseconds; up to now for a task that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct TimelineV1 {
    /// Time before the first attempt: waiting for other tasks and for capacity.
    queue_ms: u64,
    /// Time between attempts.
    backoff_ms: u64,
    /// Time in attempts.
    run_ms: u64,
}

impl TimelineV1 {
    /// The timeline of a task from `queued_at` to `until`, its end or now. `attempts` are start and end of each attempt.
    pub(super) fn of(
        status: TaskStatus,
        queued_at: Timestamp,
        until: Timestamp,
        attempts: impl IntoIterator<Item = (Timestamp, Option<Timestamp>)>,
    ) -> Self {
        let mut timeline = Self { queue_ms: 0, backoff_ms: 0, run_ms: 0 };
        let (mut since, mut has_started) = (queued_at, false);
        for (started_at, ended_at) in attempts {
            timeline.add_wait(has_started, millis(since, started_at));
            since = ended_at.unwrap_or(until);
            timeline.run_ms += millis(started_at, since);
            has_started = true;
        }
        // After its last attempt a task waits for the next one, unless none follows.
        if !has_started || matches!(status, TaskStatus::Retried | TaskStatus::Cancelled) {
            timeline.add_wait(has_started, millis(since, until));
        }
        timeline
    }

    fn add_wait(&mut self, has_started: bool, waited: u64) {
        if has_started { self.backoff_ms += waited } else { self.queue_ms += waited }
    }
}

/// Milliseconds between two times, 0 when the clock was set back.
fn millis(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_millis()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeline_assigns_every_millisecond_to_one_phase() {
        use TaskStatus::{Cancelled, InProgress, Queued, Retried, Succeeded};
        let at = |millis| Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap();
        type Case<'a> = (TaskStatus, &'a [(i64, Option<i64>)], [u64; 3]);
        let cases: &[Case<'_>] = &[
            (Queued, &[], [1_000, 0, 0]),
            (InProgress, &[(100, None)], [100, 0, 900]),
            (Retried, &[(100, Some(300))], [100, 700, 200]),
            (InProgress, &[(100, Some(300)), (450, None)], [100, 150, 750]),
            (Succeeded, &[(100, Some(300)), (450, Some(999))], [100, 150, 749]),
            (Cancelled, &[(100, Some(300))], [100, 700, 200]),
            (Cancelled, &[], [1_000, 0, 0]),
            // The clock was set back.
            (InProgress, &[(-50, Some(-60)), (-20, None)], [0, 40, 1_020]),
        ];
        for (status, attempts, [queue_ms, backoff_ms, run_ms]) in cases {
            let times = attempts.iter().map(|(start, end)| (at(*start), end.map(at)));
            let timeline = TimelineV1::of(*status, at(0), at(1_000), times);
            let expected = TimelineV1 { queue_ms: *queue_ms, backoff_ms: *backoff_ms, run_ms: *run_ms };
            assert_eq!(timeline, expected, "{status} {attempts:?}");
        }
    }
}
