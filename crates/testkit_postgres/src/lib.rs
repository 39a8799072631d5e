//! PostgreSQL servers for tests, and a proxy that disturbs connections to them.
//!
//! | content | module |
//! |---|---|
//! | a server of Debian's package, which a test can stop, kill and freeze | [`server`] |
//! | PgBouncer in transaction mode in front of a server | [`pooler`] |
//! | a TCP proxy that delays, cuts and refuses connections, and loses the answer to a `COMMIT` | [`proxy`] |
//!
//! It depends on no other member of the workspace, so that tests of each of them can use it. Like tests, it panics when an
//! expectation fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod guard;
mod installation;
pub mod pooler;
mod process;
pub mod proxy;
pub mod server;
mod standby;

pub use self::{
    pooler::PgBouncer,
    proxy::{Loss, Proxy},
    server::Server,
};
