//! `cargo xtask`: what is done to this workspace rather than by it.
//!
//! | command | file |
//! |---|---|
//! | `test`: everything that must hold | `test.rs` |
//! | `setup`: the programs that tests need beside Rust | `programs.rs` |
//! | `ci`: formatting, lints, documentation, then `test --soak` | `ci.rs` |
//! | `lint-deps`: the rules of `deny.toml` | `deps.rs`, `deps/` |
//! | `soak`: plans under fire, for as long as you like | `soak.rs`, and `tests/tests/soak` |
//! | `bench`: how fast the product is, next to what is possible at all | `bench.rs`, and `tools/bench` |
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool speaks to a person")]

mod bench;
mod ci;
mod deps;
mod failure;
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
    /// Install the programs that tests need beside Rust, as `test` does first (as root on Debian)
    Setup,
    /// Check dependencies against deny.toml
    LintDeps,
    /// Kill services at random while plans run, and see whether any is lost; `test` does so as well
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
            Task::LintDeps => deps::run().await,
            Task::Soak(args) => soak::run(&args).await,
            Task::Bench(args) => bench::run(&args).await,
        }
    })
}
