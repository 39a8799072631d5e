//! `phoenix`: one executable for every role.
//!
//! `phoenix` alone is `phoenix up`: the four services as child processes on this machine. `phoenix gateway`, `planner`,
//! `executor` and `health` are the services, `phoenix agent NAME` the built-in agents, and `phoenix backup` and `restore`
//! copy data folders. `phoenix chat`, `plans`, `agents`, `dead-letters`, `trace`, `load` and `mcp` talk to a running
//! gateway.
//! `phoenix config` and `doctor` look at the settings and at this machine, and start nothing.

mod agent;
mod args;
mod backup;
mod client;
mod config;
mod doctor;
mod load;
mod manual;
mod role;
mod settings;
mod settings_args;
mod terminal;
mod up;

use std::process::ExitCode;

use clap::Parser;
use phoenix_platform::{config::EXIT_CONFIG, privacy};

use crate::{
    args::{Cli, Command},
    client::Request,
    terminal::print_error,
};

fn main() -> ExitCode {
    // An agent may be started for every attempt, so it skips the setup of the services.
    if let Some(agent) = args::agent_fast_path(std::env::args_os()) {
        return agent::run(agent);
    }
    if let Err(error) = privacy::conceal_process() {
        print_error(format_args!("cannot protect its secrets from other processes: {error}"));
        terminal::flush();
        return ExitCode::FAILURE;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked_for_help = !error.use_stderr();
            // A failure to print means that the terminal is gone.
            let _ = error.print();
            return if asked_for_help { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CONFIG) };
        }
    };
    let code = run(cli);
    terminal::flush();
    code
}

fn run(cli: Cli) -> ExitCode {
    match cli.command.unwrap_or(Command::Up(cli.up)) {
        Command::Up(args) => up::run(args),
        Command::Gateway(args) => role::run(phoenix_platform::config::Role::Gateway, args),
        Command::Planner(args) => role::run(phoenix_platform::config::Role::Planner, args),
        Command::Executor(args) => role::run(phoenix_platform::config::Role::Executor, args),
        Command::Health(args) => role::run(phoenix_platform::config::Role::Health, args),
        Command::Chat(args) => client::run(Request::Chat(args)),
        Command::Plans(args) => client::run(Request::Plans(args)),
        Command::Agents(args) => client::run(Request::Agents(args)),
        Command::Approvals(args) => client::run(Request::Approvals(args)),
        Command::DeadLetters(args) => client::run(Request::DeadLetters(args)),
        Command::Stats(args) => client::run(Request::Stats(args)),
        Command::Top(args) => client::run(Request::Top(args)),
        Command::Trace(args) => client::run(Request::Trace(args)),
        Command::Mcp(args) => client::run(Request::Mcp(args)),
        Command::Context(args) => client::run(Request::Context(args)),
        Command::Load(args) => load::run(args),
        Command::Config(args) => config::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { folder } => manual::pages(&folder),
        Command::Backup(args) => backup::backup(args),
        Command::Restore(args) => backup::restore(args),
        Command::Agent { name } => agent::run(name),
        Command::ExecutorGuard { marker } => phoenix_executor::guard::run(&marker),
    }
}
