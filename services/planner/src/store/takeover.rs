//! What planners that are gone left undone, and who takes it over.

use std::collections::HashSet;

use phoenix_domain::{AgentName, PlanId};

use super::{Sweep, Unreadable};

/// Which unfinished plans a planner takes over.
#[derive(Debug, Clone, Default)]
pub struct TakeoverScope {
    /// Plans whose open tasks are all for these agents; every plan when absent.
    pub agents: Option<HashSet<AgentName>>,
    /// Plans that are taken over whatever their agents are.
    pub anyway: HashSet<PlanId>,
}

impl TakeoverScope {
    /// Whether the planner can run tasks for `agent`.
    #[must_use]
    pub fn knows(&self, agent: &str) -> bool {
        self.agents.as_ref().is_none_or(|known| known.iter().any(|name| name.as_str() == agent))
    }
}

/// What planners that are gone left undone.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Unfinished {
    /// Plans that have a new owner.
    pub plans: Vec<UnfinishedPlan>,
    /// Plans that are left to a planner that knows their agents.
    pub left: Vec<LeftPlan>,
    /// Redrives of many dead letters.
    pub sweeps: Vec<Sweep>,
    /// What can't even be named.
    pub unreadable: Vec<Unreadable>,
}

/// A plan that was taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnfinishedPlan {
    /// The plan.
    pub plan_id: PlanId,
    /// Takeovers so far, this one included.
    pub takeovers: u32,
    /// Takeovers from a planner that died while the plan ran.
    pub crashes: u32,
}

/// A plan that was not taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftPlan {
    /// The plan.
    pub plan_id: PlanId,
    /// An agent of an open task that the planner does not know.
    pub agent: String,
}
