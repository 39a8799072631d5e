//! Code generated from the .proto files, which document it.

#![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code follows its own style")]

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
