//! What running tasks have said so far: chunks of their results, and their progress.
//!
//! ```text
//! dispatch ──▶ Recorder ──▶ PlanOutput (bounded) ◀── OutputReader ◀── LocalFeed: journaled events and output
//! ```
//!
//! The output is in memory only; the result of a task is what the journal has. Each reader has a cursor of its own, so a slow
//! reader delays only itself, and one that attaches late begins with what was said first. A plan without output costs nothing.

mod buffer;
mod feed;
mod plan_output;
mod reader;

pub(crate) use self::{
    feed::LocalFeed,
    plan_output::{LiveOutputs, Recorder},
};
