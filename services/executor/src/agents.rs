//! The ways of running an agent, behind the trait [`AgentRunner`].

mod attempt;
mod exchange;
mod oneshot;
mod stderr;
mod workers;

pub(crate) use attempt::{AgentRunner, Attempt};
pub(crate) use oneshot::Oneshot;
pub(crate) use workers::{CrashBackoff, Workers};
