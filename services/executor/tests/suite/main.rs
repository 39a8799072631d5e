//! The executor, served as in production, with real agent processes and a fake health service.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attempts;
mod catalog;
mod http_server;
mod lifetime;
mod mcp;
mod mcp_elicitation;
mod mcp_eras;
mod mcp_listing;
mod mcp_remote;
mod orphans;
mod reports;
mod sandbox;
mod settings;
mod streaming;
mod tasks;
mod workers;
