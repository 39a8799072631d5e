//! The REST surface, through `serve`, over real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // A test may panic and print.

#[path = "../support/mod.rs"]
mod support;

mod agents;
mod anthropic;
mod approvals;
mod auth;
mod budgets;
mod chat;
mod connections;
mod contract;
mod dead_letters;
mod delivery;
mod events;
mod faults;
mod http_edges;
mod input;
mod mcp;
mod mcp_tasks;
mod openai;
mod openapi;
mod plans;
mod probes;
mod propose;
mod recorded_responses;
mod responses;
mod statistics;
