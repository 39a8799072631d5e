//! The planner through its own server, between scripted peers.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests and their helpers"
)]

mod admission;
mod agents;
mod approvals;
mod budgets;
mod bulk_redrive;
mod chats;
mod clock;
mod continuations;
mod conversations;
mod damage;
mod execute;
mod executors;
mod forwarded_output;
mod forwarding;
mod graphs;
mod idempotency;
mod inputs;
mod limits;
mod output;
mod pauses;
mod planning;
mod recovery;
mod redrive;
mod retention;
mod support;
mod waits;
mod watchers;
