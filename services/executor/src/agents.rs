//! The ways of running an agent, behind the trait [`AgentRunner`].

mod attempt;
mod crash_backoff;
mod exchange;
mod mcp;
mod oneshot;
mod stderr;
mod workers;

pub(crate) use attempt::{AgentRunner, Attempt};
pub(crate) use crash_backoff::CrashBackoff;
pub(crate) use mcp::Mcp;
pub(crate) use oneshot::Oneshot;
pub(crate) use workers::Workers;
