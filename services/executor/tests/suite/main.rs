//! The executor, served as in production, with real agent processes and a health service that is played.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod attempts;
mod lifetime;
mod reports;
mod sandbox;
mod strays;
mod tasks;
mod workers;
