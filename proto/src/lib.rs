//! The gRPC contract between the services: generated messages, clients and servers, and conversions to domain types at the
//! edge of each service.
//!
//! Conversions destructure messages exhaustively, so that a new field is a compile error in the one place that must handle
//! it. An invalid message is an [`InvalidField`] that names the field.

pub mod action;
mod approval;
mod budget;
mod catalog;
mod codec;
mod dead_letter;
mod field;
mod generated;
mod health;
pub mod live_output;
mod mcp_listing;
mod method;
mod plan;
mod preview;
mod status;
mod usage;

pub use approval::wire_approval;
pub use budget::wire_limits;
pub use field::{InvalidField, id, optional, required, required_timestamp, timestamp, to_timestamp};
pub use generated::{
    common::v1 as common, executor::v1 as executor, health::v1 as health_v1, planner::v1 as planner,
};
pub use health::{HealthSnapshot, decode_state};
pub use method::{ExecuteTask, Method, PlanAndExecute};
pub use plan::task_spec;
pub use status::{error_from_status, status_from_error};
pub use usage::wire_usage;

/// Descriptors of the whole contract, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/phoenix.bin"));
