//! `cargo xtask`: tests, benchmarks and checks of this workspace.
//!
//! | command | file |
//! |---|---|
//! | `test`: every check and test | `test.rs`, `binaries.rs`, `lanes.rs` |
//! | `setup`: the programs that tests need in addition to Rust | `programs.rs` |
//! | `ci`: formatting, lints, documentation, then `test --soak` | `ci.rs` |
//! | `lint-deps`: banned crates, and layers of the workspace | `deps.rs`, `deps/` |
//! | `lint-modules`: cycles between files | `modules.rs`, `modules/` |
//! | `soak`: plans while services are killed, with a chosen length | `soak.rs`, and `tests/tests/soak` |
//! | `bench`: performance relative to a minimal chain of servers | `bench.rs`, and `tools/bench` |
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the output of a command-line tool")]

mod bench;
mod binaries;
mod ci;
mod deps;
mod failure;
mod lanes;
mod modules;
mod phases;
mod programs;
mod soak;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::Result;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Tests, benchmarks and checks of this workspace"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install the test programs that are missing, build everything, run every test
    Test(test::TestArgs),
    /// Check formatting, lints and documentation, then run `test --soak`; what `.ci/run` runs
    Ci,
    /// Install the programs that tests need in addition to Rust, as `test` does (as root on Debian)
    Setup,
    /// Check dependencies against deny.toml and the layers of the workspace
    LintDeps,
    /// Check that no files of a crate depend on each other in a cycle
    LintModules,
    /// Kill services at random while plans run, and check that none is lost; `test` does so as well
    Soak(soak::SoakArgs),
    /// Measure the release build next to a bare chain of servers, and print a table in Markdown
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match task {
            Task::Test(args) => test::run(&args).await,
            Task::Ci => ci::run().await,
            Task::Setup => test::provide_programs().await.map(drop),
            Task::LintDeps => deps::run(),
            Task::LintModules => modules::run(),
            Task::Soak(args) => soak::run(&args).await,
            Task::Bench(args) => bench::run(&args).await,
        }
    })
}
