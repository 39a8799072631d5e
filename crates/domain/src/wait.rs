//! What a task waits for before it runs.
//!
//! Waits that last are states of the task, journaled when they begin and when they end. A task that is queued and has nothing
//! else to wait for waits for capacity.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    budget_pause,
    error::OrchestratorError,
    graph::Graph,
    limits::MAX_DELAY_SECS,
    plan::{Plan, Task, TaskSpec, TaskStatus},
    states::states,
};

states! {
    /// Kind of a wait.
    WaitKind {
        /// For a place at the agent.
        Capacity = "capacity",
        /// For a decision about its approval.
        Approval = "approval",
        /// For the time before which the task must not start.
        Timer = "timer",
        /// For a budget that is used up.
        Budget = "budget",
    }
}

/// What a task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// Kind.
    pub kind: WaitKind,
    /// When the wait ends at the latest, where that is known.
    pub until: Option<Timestamp>,
}

impl WaitKind {
    /// Status of a task that waits like this.
    #[must_use]
    pub const fn status(self) -> TaskStatus {
        match self {
            Self::Capacity => TaskStatus::Queued,
            Self::Approval => TaskStatus::AwaitingApproval,
            Self::Timer => TaskStatus::AwaitingTime,
            Self::Budget => TaskStatus::AwaitingBudget,
        }
    }
}

/// What each task of a plan waits for; none for a task that runs, has ended, or waits for other tasks.
#[must_use]
pub fn waits(plan: &Plan) -> Vec<Option<Wait>> {
    let is_queued = |task: &Task| task.status == TaskStatus::Queued;
    let needs_graph = plan.tasks.len() > 1 && plan.tasks.iter().any(is_queued);
    let specs = || plan.tasks.iter().map(|task| task.spec.clone()).collect::<Vec<TaskSpec>>();
    let graph = needs_graph.then(|| Graph::of_accepted(&specs()).ok()).flatten();
    let has_ended = |ordinal: &usize| plan.tasks[*ordinal].status.is_terminal();
    let is_ready = |ordinal: usize| match &graph {
        Some(graph) => graph.dependencies(ordinal).iter().all(has_ended),
        None => plan.tasks[ordinal].spec.depends_on.is_empty(),
    };
    let wait = |(ordinal, task): (usize, &Task)| {
        let (not_before, approval) = (task.spec.start.not_before, task.approval.as_deref());
        let (kind, until) = match task.status {
            TaskStatus::AwaitingApproval => {
                (WaitKind::Approval, approval.map(|approval| approval.expires_at))
            }
            TaskStatus::AwaitingTime => (WaitKind::Timer, not_before),
            TaskStatus::AwaitingBudget => (WaitKind::Budget, task.pause.as_deref().map(budget_pause::until)),
            TaskStatus::Queued if !plan.status.is_terminal() && is_ready(ordinal) => {
                (WaitKind::Capacity, None)
            }
            TaskStatus::Queued
            | TaskStatus::Dispatched
            | TaskStatus::InProgress
            | TaskStatus::Retried
            | TaskStatus::Succeeded
            | TaskStatus::DeadLettered
            | TaskStatus::Cancelled => return None,
        };
        Some(Wait { kind, until })
    };
    plan.tasks.iter().enumerate().map(wait).collect()
}

/// When work on a plan may begin: when it was accepted, or at the first time before which a task without dependencies must not
/// start. The time limit of a plan counts from then on.
#[must_use]
pub fn begins_at(plan: &Plan, graph: &Graph) -> Timestamp {
    let roots = (0..plan.tasks.len()).filter(|ordinal| graph.dependencies(*ordinal).is_empty());
    let starts = roots.map(|ordinal| plan.tasks[ordinal].spec.start.not_before.unwrap_or(plan.created_at));
    starts.min().map_or(plan.created_at, |first| first.max(plan.created_at))
}

/// The time before which work must not start, of a request that was accepted at `at`: absolute, or after a delay of
/// milliseconds, of which 0 is none. `field` is the path of the members `not_before` and `delay_ms`, with a point at its end.
///
/// # Errors
/// `validation_failed` when both are given, or the time is too far in the future.
pub fn not_before(
    field: &str,
    at: Timestamp,
    absolute: Option<Timestamp>,
    delay_ms: u64,
) -> Result<Option<Timestamp>, OrchestratorError> {
    let latest = at.checked_add(SignedDuration::from_secs(MAX_DELAY_SECS as i64)).unwrap_or(Timestamp::MAX);
    match (absolute, delay_ms) {
        (Some(_), 1..) => {
            let problem = "and `delay_ms` exclude each other; give one of them";
            Err(OrchestratorError::invalid(&format!("{field}not_before"), problem))
        }
        (Some(wanted), 0) if wanted > latest => {
            let problem =
                format!("must be within {MAX_DELAY_SECS} seconds, at {latest} at the latest, not {wanted}");
            Err(OrchestratorError::invalid(&format!("{field}not_before"), problem))
        }
        (absolute, 0) => Ok(absolute),
        (None, _) => {
            let limit_ms = MAX_DELAY_SECS as u64 * 1000;
            let delay = i64::try_from(delay_ms).ok().filter(|_| delay_ms <= limit_ms);
            // In the precision of the journal.
            let at = Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at);
            let until = delay.and_then(|delay| at.checked_add(SignedDuration::from_millis(delay)).ok());
            until.map(Some).ok_or_else(|| {
                let problem = format!("must be at most {limit_ms}, not {delay_ms}");
                OrchestratorError::invalid(&format!("{field}delay_ms"), problem)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_counts_from_the_acceptance() {
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        let later = |seconds: i64| at.checked_add(SignedDuration::from_secs(seconds)).unwrap();
        let limit = MAX_DELAY_SECS as i64;
        assert_eq!(not_before("", at, None, 0), Ok(None));
        assert_eq!(not_before("", at, None, 1_500), Ok(Some(at + SignedDuration::from_millis(1_500))));
        assert_eq!(not_before("", at, Some(later(-9)), 0), Ok(Some(later(-9))));
        assert_eq!(not_before("", at, Some(later(limit)), 0), Ok(Some(later(limit))));
        for (absolute, delay_ms, field) in [
            (Some(later(limit + 1)), 0, "tasks[0].not_before"),
            (Some(at), 1, "tasks[0].not_before"),
            (None, MAX_DELAY_SECS as u64 * 1000 + 1, "tasks[0].delay_ms"),
            (None, u64::MAX, "tasks[0].delay_ms"),
        ] {
            let error = not_before("tasks[0].", at, absolute, delay_ms).unwrap_err();
            assert_eq!(error.details["field"], field, "{error:?}");
        }
    }

    #[test]
    fn every_wait_is_a_state_of_its_task() {
        for kind in WaitKind::ALL {
            assert!(!kind.status().is_terminal());
            assert_eq!(WaitKind::from_name(kind.as_str()), Some(*kind));
        }
    }
}
