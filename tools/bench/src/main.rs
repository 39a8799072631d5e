//! `cargo xtask bench`: the product next to what is possible at all, in one run on one machine.
//!
//! | part | what is measured | where |
//! |---|---|---|
//! | `start` | `phoenix up`: how soon it is ready, what it holds in memory | `measure/start.rs` |
//! | `warm` | chats to warm workers next to the *bare chain*: three processes, axum → tonic → tonic, with the product's messages and no logic (`bare.rs`) | `measure/chats.rs` |
//! | `spawn` | a process per chat next to the *spawn ceiling*: running `phoenix agent echo` again and again, with nothing around it (`ceiling.rs`) | `measure/chats.rs` |
//! | `million` | a journal of a million plans next to an empty one | `measure/million.rs`, `measure/fill.rs` |
//! | `inflight` | ten thousand plans at once | `measure/inflight.rs`, `sleeper.rs` |
//! | `postgres` | chats on PostgreSQL next to SQLite, far away, and with two planners and executors | `measure/postgres.rs`, `replicas.rs`, `link.rs` |
//! | `models` | chats with a model that answers at once, streamed and not, next to the model itself and to LiteLLM's proxy | `measure/models.rs`, `upstream.rs` |
//! | `mcp` | calls of an MCP server's tool through durable plans, next to the same server alone | `measure/mcp.rs`, `mcp_server.rs` |
//! | `watchers` | a thousand watchers of plans on which nothing happens | `measure/watchers.rs`, `cpu.rs` |
//!
//! What is compared takes turns in rounds, so that a machine that gets slower or faster meanwhile does so for all of it, and
//! the medians of the rounds are compared (`report.rs`) and held against what is wanted (`goals.rs`). This program sends
//! the load and is every process of the bare chain, so it has to be a release build as well.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool speaks to a person")]

mod bare;
mod ceiling;
mod cpu;
mod failure;
mod goals;
mod interrupt;
mod link;
mod mcp_server;
mod measure;
mod memory;
mod replicas;
mod report;
mod rest;
mod sleeper;
mod stack;
mod upstream;

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use tokio::runtime::Builder;

use crate::{
    failure::{Doing, Failure, Result},
    measure::{Part, Wanted},
};

/// Measures Phoenix next to a bare chain of servers, and prints a table in Markdown.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    role: Option<OwnRole>,
    #[command(flatten)]
    args: MeasureArgs,
}

/// What this program is to itself.
#[derive(Subcommand)]
enum OwnRole {
    /// One server of the bare chain
    #[command(hide = true)]
    BareServer(bare::BareServerArgs),
    /// How many agent processes can be run per second
    #[command(hide = true)]
    SpawnCeiling(ceiling::CeilingArgs),
    /// A model that answers at once
    #[command(hide = true)]
    Upstream,
    /// An MCP server that answers at once
    #[command(hide = true)]
    McpServer,
    /// An agent whose work takes a while
    #[command(hide = true)]
    Sleeper(sleeper::SleeperArgs),
}

#[derive(clap::Args)]
struct MeasureArgs {
    /// The executable to measure
    #[arg(long, default_value = "target/release/phoenix")]
    phoenix: PathBuf,
    /// Fewer and shorter rounds, and no million and no postgres unless --only names it: an estimate, not a result
    #[arg(long)]
    quick: bool,
    /// Measure only these parts
    #[arg(long, value_name = "PART,…", value_delimiter = ',')]
    only: Vec<Part>,
    /// Exit with 1 when a goal is missed
    #[arg(long)]
    check: bool,
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

fn run(Cli { role, args }: Cli) -> Result<()> {
    // What stands in for a service runs as a service does; what sends the load leaves the cores to the others.
    let service = || Builder::new_multi_thread().enable_all().build();
    let tool = || Builder::new_current_thread().enable_all().build();
    match role {
        Some(OwnRole::BareServer(args)) => service()?.block_on(bare::serve(args)),
        Some(OwnRole::SpawnCeiling(args)) => service()?.block_on(ceiling::run(args)),
        Some(OwnRole::Upstream) => service()?.block_on(upstream::serve()),
        Some(OwnRole::McpServer) => tool()?.block_on(mcp_server::serve()),
        Some(OwnRole::Sleeper(args)) => tool()?.block_on(sleeper::run(args)),
        None => tool()?.block_on(measure(&args)),
    }
}

/// Measures and prints the report. Ctrl-C ends the run and every process that it started.
async fn measure(args: &MeasureArgs) -> Result<()> {
    let interrupted = interrupt::on_signal()?;
    // Absolute, because it is started in a folder of its own.
    let phoenix = args.phoenix.canonicalize().doing(args.phoenix.display())?;
    let is_chosen = !args.only.is_empty();
    let wanted = Wanted { phoenix, parts: args.parts(), is_chosen, quick: args.quick };
    let measured = interrupted.run_until_cancelled(measure::measure(&wanted)).await;
    let report = measured.unwrap_or_else(|| Err(Failure::new("interrupted")))?.judged();
    std::io::stdout().write_all(report.to_string().as_bytes())?;
    if let Some(file) = &args.json {
        let json = serde_json::to_string_pretty(&report).doing("cannot write JSON")?;
        std::fs::write(file, json + "\n").doing(file.display())?;
    }
    match report.missed() {
        missed if args.check && missed > 0 => Err(Failure::new(format_args!("{missed} goals were missed"))),
        _ => Ok(()),
    }
}

impl MeasureArgs {
    fn parts(&self) -> Vec<Part> {
        if !self.only.is_empty() {
            return self.only.clone();
        }
        let takes_long = |part: &Part| matches!(part, Part::Million | Part::Postgres);
        Part::value_variants().iter().copied().filter(|part| !(self.quick && takes_long(part))).collect()
    }
}
