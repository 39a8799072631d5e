//! Test support: whole stacks, clients and collectors.
//!
//! | content | module |
//! |---|---|
//! | all four services in one process, each on its own port | [`sandbox`] |
//! | the real executable as real processes, under `phoenix up` | [`stack`] |
//! | the same without a supervisor, for tests that kill and restart services | [`services`] |
//! | several instances of the roles on one database | [`cluster`] |
//! | certificates | [`certificates`] |
//! | a provider of language models | [`model_provider`] |
//! | a REST client | [`http`] |
//! | processes of this system | [`processes`] |
//! | a trace collector | [`collector`] |
//! | waiting for conditions instead of for time | [`wait`] |
//!
//! Only tests depend on this crate; like tests, it panics when an expectation fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

pub mod certificates;
pub mod cluster;
pub mod collector;
mod command;
pub mod http;
pub mod model_provider;
pub mod ports;
pub mod processes;
pub mod sandbox;
mod scrape;
pub mod services;
pub mod stack;
pub mod wait;

use std::path::PathBuf;

/// The service token of stacks that are not started by `phoenix up`.
pub(crate) const SERVICE_TOKEN: &str = "the-services-of-a-test";

/// The built `phoenix` executable: `PHOENIX_BIN`, or the one beside the running test.
///
/// # Panics
/// When it does not exist; `cargo xtask test` builds it.
#[must_use]
pub fn phoenix_bin() -> PathBuf {
    built_executable("PHOENIX_BIN", "phoenix")
}

/// The built `load_tester` executable, as [`phoenix_bin`].
///
/// # Panics
/// When it does not exist.
#[must_use]
pub fn load_tester_bin() -> PathBuf {
    built_executable("LOAD_TESTER_BIN", "load_tester")
}

fn built_executable(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    // target/<profile>/deps/<test> → target/<profile>/<name>
    let test = std::env::current_exe().expect("the running test has a path");
    let beside = test.parent().and_then(|deps| deps.parent()).map(|profile| profile.join(name));
    match beside.filter(|path| path.exists()) {
        Some(path) => path,
        None => panic!("{name} is not built: run the tests with `cargo xtask test`, or set {variable}"),
    }
}
