//! The planner through its own server, between scripted peers.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests and their helpers"
)]

mod admission;
mod chats;
mod clock;
mod damage;
mod graphs;
mod inputs;
mod keys;
mod redrive;
mod retention;
mod support;
mod sweeps;
mod takeover;
mod watchers;
