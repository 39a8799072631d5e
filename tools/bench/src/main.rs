//! `cargo xtask bench`: the product next to what is possible at all, in one run on one machine.
//!
//! - the *bare chain*: three processes, axum → tonic → tonic, with the product's messages and no logic (`bare.rs`)
//! - the *spawn ceiling*: running `phoenix agent echo` again and again, with nothing around it (`ceiling.rs`)
//! - *Phoenix*: `phoenix up` with the echo agent in mode `oneshot` (`stack.rs`)
//!
//! All three take turns in rounds, so that a machine that gets slower or faster meanwhile does so for all of them, and
//! the medians of the rounds are compared (`measure.rs`, `report.rs`). This program sends the load and is every process
//! of the bare chain, so it has to be a release build as well.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool speaks to a person")]

mod bare;
mod ceiling;
mod failure;
mod measure;
mod memory;
mod report;
mod stack;

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use tokio::runtime::Builder;

use crate::failure::{Doing, Result};

/// Measures Phoenix next to a bare chain of servers, and prints a table in Markdown.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    args: MeasureArgs,
}

/// What this program is to itself.
#[derive(Subcommand)]
enum Part {
    /// One server of the bare chain
    #[command(hide = true)]
    BareServer(bare::BareServerArgs),
    /// How many agent processes can be run per second
    #[command(hide = true)]
    SpawnCeiling(ceiling::CeilingArgs),
}

#[derive(clap::Args)]
struct MeasureArgs {
    /// The executable to measure
    #[arg(long, default_value = "target/release/phoenix")]
    phoenix: PathBuf,
    /// Fewer and shorter rounds: a look, not a result
    #[arg(long)]
    quick: bool,
    /// Write the result here as JSON, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(Cli { part, args }: Cli) -> Result<()> {
    // What stands in for a service runs as a service does; what sends the load leaves the cores to the others.
    match part {
        Some(Part::BareServer(args)) => {
            Builder::new_multi_thread().enable_all().build()?.block_on(bare::serve(args))
        }
        Some(Part::SpawnCeiling(args)) => {
            Builder::new_multi_thread().enable_all().build()?.block_on(ceiling::run(args))
        }
        None => Builder::new_current_thread().enable_all().build()?.block_on(measure(&args)),
    }
}

async fn measure(args: &MeasureArgs) -> Result<()> {
    // Absolute, because it is started in a folder of its own.
    let phoenix = args.phoenix.canonicalize().doing(args.phoenix.display())?;
    let report = measure::measure(&phoenix, args.quick).await?;
    std::io::stdout().write_all(report.to_string().as_bytes())?;
    if let Some(file) = &args.json {
        let json = serde_json::to_string_pretty(&report).doing("cannot write JSON")?;
        std::fs::write(file, json + "\n").doing(file.display())?;
    }
    Ok(())
}
