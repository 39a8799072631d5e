//! The run of one plan, from its acceptance, by this planner or an earlier one, to its end.
//!
//! ```text
//! lifecycle.rs   Blocked ──permit──▶ Runnable ──scheduler.rs──▶ Finished
//!                   ▲                    │
//!                   └──no permit left────┘
//! scheduler.rs   which tasks are ready, which run, how the plan ends
//! approvals.rs   which tasks wait for a decision, and what was decided
//! task.rs        one task: budgeted.rs, dispatch.rs, and again when the executor disconnects (redispatch.rs)
//! recording.rs   the output of a task that is journaled
//! ```

pub(crate) mod active;
pub(crate) mod approvals;
mod budgeted;
pub(crate) mod dispatch;
pub(crate) mod ending;
pub(crate) mod lifecycle;
pub(crate) mod progress;
mod recording;
mod redispatch;
pub(crate) mod registry;
mod scheduler;
mod task;
pub(crate) mod task_state;
