//! The run of one plan, from its acceptance, by this planner or an earlier one, to its end.
//!
//! ```text
//! lifecycle.rs   Blocked ──permit──▶ Runnable ──scheduler.rs──▶ Finished
//!                   ▲                    │
//!                   └──no permit left────┘
//! scheduler.rs   which tasks are ready, which run, how the plan ends
//! waits.rs       which tasks wait, and for what: a time, a decision (approvals.rs), or a budget (pauses.rs)
//! task.rs        one task: budgeted.rs, dispatch.rs, and again when the executor disconnects (redispatch.rs)
//! planned.rs     the tasks that a language model proposes
//! recording.rs   the output of a task that is journaled
//! ```

pub(crate) mod active;
pub(crate) mod approvals;
mod budgeted;
pub(crate) mod dispatch;
pub(crate) mod ending;
pub(crate) mod lifecycle;
mod pauses;
mod planned;
pub(crate) mod progress;
mod recording;
mod redispatch;
pub(crate) mod registry;
mod scheduler;
mod task;
pub(crate) mod task_state;
mod waits;
