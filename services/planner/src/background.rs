//! Background work: deletion of old plans, bulk operations on dead letters, gauges, and the executor's readiness.

pub mod bulk_redrive;
pub(crate) mod executor_readiness;
pub(crate) mod gauges;
pub mod retention;
