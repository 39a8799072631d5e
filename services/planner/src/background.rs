//! Background work: deletion of old plans, bulk operations on dead letters, gauges, and the agents that executors offer.

pub(crate) mod agents;
pub mod bulk_redrive;
pub(crate) mod gauges;
pub mod retention;
