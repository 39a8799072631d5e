//! Plans, tasks and attempts: what they are, and which state may follow which.
//!
//! ```text
//! plan   draft → pending → running → succeeded | failed | cancelled
//! task   queued → dispatched → in_progress → succeeded
//!                               in_progress → retried → in_progress …
//!        any of these → dead_lettered | cancelled
//! ```
//!
//! A terminal state never changes. A chat is a plan with one task.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    action::{ActionResult, FailureClass},
    agent::AgentName,
    error::OrchestratorError,
    ids::{CorrelationId, PlanId, TaskId},
    json::Object,
};

/// The longest that a plan may be given until its deadline, in milliseconds: 365 days.
pub const MAX_DEADLINE_MS: u64 = 31_536_000_000;

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// Every state.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in the journal and in answers.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The state with this name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|state| state.as_str() == name)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(crate) use states;

states! {
    /// The state of a plan.
    PlanStatus {
        /// Being made: not accepted yet.
        Draft = "draft",
        /// Accepted and journalled; no task has started.
        Pending = "pending",
        /// At least one task has started.
        Running = "running",
        /// Every task ended well.
        Succeeded = "succeeded",
        /// A task ended badly, or no task could be made.
        Failed = "failed",
        /// The caller, its disconnect, or an operator ended it.
        Cancelled = "cancelled",
    }
}

states! {
    /// The state of a task.
    TaskStatus {
        /// Waits for its turn.
        Queued = "queued",
        /// Handed to an executor.
        Dispatched = "dispatched",
        /// An attempt runs.
        InProgress = "in_progress",
        /// An attempt failed; the next one waits for its backoff.
        Retried = "retried",
        /// The agent answered.
        Succeeded = "succeeded",
        /// Failed for good; kept so that a person can look and run it again.
        DeadLettered = "dead_lettered",
        /// Ended before it could end by itself.
        Cancelled = "cancelled",
    }
}

states! {
    /// What a plan was made of.
    PlanKind {
        /// A message: one task, whose input is taken as it is.
        Chat = "chat",
        /// Tasks, whose inputs may refer to each other.
        Graph = "graph",
    }
}

impl PlanStatus {
    /// Whether nothing follows.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// Whether `next` may follow.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        use PlanStatus::{Cancelled, Draft, Failed, Pending, Running, Succeeded};
        matches!(
            (self, next),
            (Draft, Pending | Failed | Cancelled)
                | (Pending, Running | Failed | Cancelled)
                | (Running, Succeeded | Failed | Cancelled)
        )
    }
}

impl TaskStatus {
    /// Whether nothing follows.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::DeadLettered | Self::Cancelled)
    }

    /// Whether `next` may follow.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        use TaskStatus::{Cancelled, DeadLettered, Dispatched, InProgress, Queued, Retried, Succeeded};
        match (self, next) {
            (Queued, Dispatched) | (Dispatched | Retried, InProgress) | (InProgress, Retried | Succeeded) => {
                true
            }
            (_, DeadLettered | Cancelled) => !self.is_terminal(),
            _ => false,
        }
    }
}

/// What a task is to do.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskSpec {
    /// The task's name inside its plan.
    pub key: String,
    /// Who does it.
    pub agent: AgentName,
    /// What to do.
    pub action: String,
    /// The input; may hold references to other tasks' outputs ([`crate::template`]).
    pub payload: Object,
    /// Keys of the tasks it waits for.
    pub depends_on: Vec<String>,
    /// What its failure means for the plan.
    pub on_failure: OnFailure,
}

/// What a task's failure means for its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The plan fails; nothing more is started.
    #[default]
    Fail,
    /// The plan goes on; references to the task's output are null.
    Continue,
}

impl OnFailure {
    /// The name in the journal and in answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Continue => "continue",
        }
    }

    /// The value with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Fail, Self::Continue].into_iter().find(|value| value.as_str() == name)
    }
}

/// A plan as the journal knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Its name.
    pub plan_id: PlanId,
    /// The request that made it.
    pub correlation_id: CorrelationId,
    /// What it was made of.
    pub kind: PlanKind,
    /// Where it stands.
    pub status: PlanStatus,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it fails with `timeout` if it has not ended.
    pub deadline_at: Option<Timestamp>,
    /// When it reached a terminal state.
    pub ended_at: Option<Timestamp>,
    /// What the caller wants agents to know beside the input.
    pub context: String,
    /// The answer as a person reads it, once it has succeeded.
    pub output: Option<String>,
    /// Why it did not succeed.
    pub error: Option<OrchestratorError>,
    /// The plan that it takes up again where that one failed; tasks that had succeeded there are kept.
    pub redrive_of: Option<PlanId>,
    /// The plan that has taken this one up again.
    pub redriven_as: Option<PlanId>,
    /// Its tasks, in the order in which they were given. Empty in listings.
    pub tasks: Vec<Task>,
}

impl TaskSpec {
    /// Bytes of the task's own text: key, agent, action, input and dependencies.
    #[must_use]
    pub fn size(&self) -> usize {
        let Self { key, agent, action, payload, depends_on, on_failure: _ } = self;
        let before: usize = depends_on.iter().map(String::len).sum();
        key.len() + agent.as_str().len() + action.len() + payload.text_len() + before
    }
}

impl Plan {
    /// Bytes of what the plan was accepted with: its tasks' text and its context.
    #[must_use]
    pub fn size(&self) -> usize {
        self.context.len() + self.tasks.iter().map(|task| task.spec.size()).sum::<usize>()
    }
}

/// A task as the journal knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its name.
    pub task_id: TaskId,
    /// What it is to do.
    pub spec: TaskSpec,
    /// Where it stands.
    pub status: TaskStatus,
    /// When it was accepted.
    pub queued_at: Timestamp,
    /// When it was first handed to an executor.
    pub dispatched_at: Option<Timestamp>,
    /// When it reached a terminal state.
    pub ended_at: Option<Timestamp>,
    /// The agent's answer.
    pub output: Option<ActionResult>,
    /// Why there is none.
    pub error: Option<OrchestratorError>,
    /// Every attempt, by number.
    pub attempts: Vec<Attempt>,
}

/// One run of an agent for a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    /// When its process was asked.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How; absent while it runs.
    pub outcome: Option<AttemptOutcome>,
    /// The process that ran it, such as `pid 4711`.
    pub worker: String,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The agent answered.
    Succeeded,
    /// It was ended from outside.
    Cancelled,
    /// It failed.
    Failed {
        /// What kind of failure.
        class: FailureClass,
        /// One sentence.
        message: String,
        /// The last of what the process wrote to stderr.
        stderr_tail: String,
    },
}

impl AttemptOutcome {
    /// The name in the journal and in answers.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Cancelled => "cancelled",
            Self::Failed { .. } => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_follows_a_terminal_state_and_everything_else_can_be_cancelled() {
        for &from in PlanStatus::ALL {
            assert_eq!(from.may_become(PlanStatus::Cancelled), !from.is_terminal());
            assert_eq!(PlanStatus::ALL.iter().any(|&to| from.may_become(to)), !from.is_terminal());
            assert_eq!(PlanStatus::from_name(from.as_str()), Some(from));
        }
        for &from in TaskStatus::ALL {
            assert_eq!(from.may_become(TaskStatus::Cancelled), !from.is_terminal());
            assert_eq!(TaskStatus::ALL.iter().any(|&to| from.may_become(to)), !from.is_terminal());
            assert_eq!(TaskStatus::from_name(from.as_str()), Some(from));
        }
    }

    #[test]
    fn a_task_goes_round_through_retries() {
        use TaskStatus::{Dispatched, InProgress, Queued, Retried, Succeeded};
        let way = [Queued, Dispatched, InProgress, Retried, InProgress, Succeeded];
        assert!(way.windows(2).all(|step| step[0].may_become(step[1])));
        assert!(!Queued.may_become(Succeeded) && !Retried.may_become(Succeeded));
    }
}
