//! Takeover of the unfinished work of planners that are gone.

use std::{collections::HashSet, time::Duration};

use phoenix_domain::{AgentName, PlanId};

use crate::store::{dead_letter::BulkOperation, query::Unreadable};

/// A plan that ran in a planner for longer than this is not suspected of that planner's crash.
pub const SUSPECT_WINDOW: Duration = Duration::from_secs(60);

/// A heartbeat of a planner.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Heartbeat {
    /// Identity of the planner.
    pub planner: String,
    /// Grows with every heartbeat. Compared with an earlier reading, on the reader's own clock: clocks jump.
    pub sequence: i64,
}

/// The planner that runs a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanOwner {
    /// Identity of the planner.
    pub planner: String,
    /// URL at which other planners reach it.
    pub url: String,
}

/// Unfinished plans that a planner takes over.
#[derive(Debug, Clone, Default)]
pub struct TakeoverScope {
    /// Plans whose open tasks are all for these agents; every plan when absent.
    pub agents: Option<HashSet<AgentName>>,
    /// Plans that are taken over regardless of their agents.
    pub regardless: HashSet<PlanId>,
}

impl TakeoverScope {
    /// Whether the planner can run tasks of `agent`.
    #[must_use]
    pub fn knows(&self, agent: &str) -> bool {
        self.agents.as_ref().is_none_or(|known| known.iter().any(|name| name.as_str() == agent))
    }
}

/// Unfinished work of planners that are gone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Unfinished {
    /// Plans that have a new owner.
    pub plans: Vec<UnfinishedPlan>,
    /// Plans that are left to a planner that knows their agents.
    pub skipped: Vec<SkippedPlan>,
    /// Bulk operations that have a new owner.
    pub bulk: Vec<BulkOperation>,
    /// Records whose identifier cannot be read.
    pub unreadable: Vec<Unreadable>,
}

/// A plan that was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnfinishedPlan {
    /// Identifier of the plan.
    pub plan_id: PlanId,
    /// Takeovers so far, this one included.
    pub takeovers: u32,
    /// Planners in succession of whose crash the plan is suspected.
    pub crashes: u32,
}

/// A plan that was not taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedPlan {
    /// Identifier of the plan.
    pub plan_id: PlanId,
    /// An agent of an open task that the planner does not know.
    pub agent: String,
}

/// A task that has not ended, without anything of variable size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTask {
    /// Ordinal of the task, from 0.
    pub ordinal: usize,
    /// Whether the task was dispatched.
    pub is_dispatched: bool,
    /// Numbers of its attempts that have not ended.
    pub open_attempts: Vec<u32>,
}

impl OpenTask {
    /// The tasks of rows of ordinal, whether it was dispatched, and number of an open attempt, in the order of the ordinals.
    pub(in crate::store) fn of_rows(rows: Vec<(i64, bool, Option<i64>)>) -> Vec<Self> {
        let mut tasks: Vec<Self> = Vec::new();
        for (ordinal, is_dispatched, attempt) in rows {
            let (Ok(ordinal), attempt) = (usize::try_from(ordinal), attempt.map(u32::try_from)) else {
                continue;
            };
            if tasks.last().is_none_or(|task| task.ordinal != ordinal) {
                tasks.push(Self { ordinal, is_dispatched, open_attempts: Vec::new() });
            }
            if let (Some(task), Some(Ok(number))) = (tasks.last_mut(), attempt) {
                task.open_attempts.push(number);
            }
        }
        tasks
    }
}
