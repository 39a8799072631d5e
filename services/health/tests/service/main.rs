//! The health service from outside: real gRPC, through `serve`, on port 0, with a real file.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests, outside test functions")]

mod breaker;
mod circuits;
mod executor;
mod harness;
mod metrics;
mod postgres;
mod property;
mod requests;
mod startup;
mod watch;
