//! The gRPC contract between the services: generated messages, clients and servers, and the conversions that turn
//! them into domain types at the edge of each service.
//!
//! Conversions take messages apart by exhaustive destructuring, so that a new field is a compile error in the one
//! place that must decide about it. What a peer got wrong is an [`InvalidField`] that names the field.

// Generated code documents itself in the .proto files and follows its own style.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod generated {
    pub mod common {
        pub mod v1 {
            tonic::include_proto!("phoenix.common.v1");
        }
    }
    pub mod planner {
        pub mod v1 {
            tonic::include_proto!("phoenix.planner.v1");
        }
    }
    pub mod executor {
        pub mod v1 {
            tonic::include_proto!("phoenix.executor.v1");
        }
    }
    pub mod health {
        pub mod v1 {
            tonic::include_proto!("phoenix.health.v1");
        }
    }
}

pub mod action;
mod dead_letter;
mod field;
mod health;
mod method;
mod plan;
mod preview;
mod status;

pub use field::{InvalidField, id, optional, required, required_timestamp, timestamp, to_timestamp};
pub use generated::{
    common::v1 as common, executor::v1 as executor, health::v1 as health_v1, planner::v1 as planner,
};
pub use health::HealthSnapshot;
pub use method::{ExecuteTask, Method, PlanAndExecute};
pub use status::{error_from_status, status_from_error};

/// Descriptors of the whole contract, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/phoenix.bin"));
