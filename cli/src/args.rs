//! The command line.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use phoenix_agents::BuiltinAgent;
use phoenix_platform::config::RoleFlags;

use crate::{
    client::args::{
        AgentsArgs, ApprovalsArgs, ChatArgs, ContextArgs, DeadLettersArgs, McpArgs, PlansArgs, StatsArgs,
        TopArgs, TraceArgs,
    },
    load::LoadArgs,
    settings_args::{ConfigArgs, DoctorArgs},
};

/// Durable orchestrator for AI agents: plans which agents run, supervises them and journals every step.
///
/// Without a command, starts the whole stack on this machine (`phoenix up`).
#[derive(Debug, Parser)]
#[command(name = "phoenix", version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) up: UpArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the four services on this machine, restart those that exit, stop them on Ctrl-C
    Up(UpArgs),
    /// Serve the REST API and the web page
    Gateway(RoleArgs),
    /// Serve plans
    Planner(RoleArgs),
    /// Run agents
    Executor(RoleArgs),
    /// Track the health of agents
    Health(RoleArgs),
    /// Send a message to an agent of a running stack, and print its answer
    Chat(ChatArgs),
    /// List, show, watch, submit, cancel and redrive plans of a running stack
    Plans(PlansArgs),
    /// Show the agents of a running stack, their health and circuits
    Agents(AgentsArgs),
    /// List the tasks that wait for an approval, the longest wait first
    Approvals(ApprovalsArgs),
    /// List, redrive and discard tasks that failed permanently
    DeadLetters(DeadLettersArgs),
    /// Show how many plans ran in the last minutes or hours, how long they took and what they cost
    Stats(StatsArgs),
    /// Show what happens now: statistics, agents and running plans, refreshed in place
    Top(TopArgs),
    /// Show everything that happened under a correlation id
    Trace(TraceArgs),
    /// Send chats to a running stack at a chosen rate, and report how long the answers take
    Load(LoadArgs),
    /// Serve the tools of a running stack to an MCP client, over standard input and output
    Mcp(McpArgs),
    /// Name gateways with their tokens, and choose the one that commands talk to
    Context(ContextArgs),
    /// Check the settings, or show each with where its value comes from
    Config(ConfigArgs),
    /// Examine settings, ports, disk, databases, clock, agents, providers and the kernel; exit code 1 on an error
    Doctor(DoctorArgs),
    /// Back up a data folder while the stack runs
    Backup(BackupArgs),
    /// Restore a backup
    Restore(RestoreArgs),
    /// Run a built-in agent: JSON lines in, JSON lines out
    Agent {
        /// llm-router, git, obsidian or echo
        name: BuiltinAgent,
    },
    /// Print the completions of a shell, such as for `phoenix completions bash > /etc/bash_completion.d/phoenix`
    Completions {
        /// Shell that completes
        shell: Shell,
    },
    /// Write the manual pages into a folder
    Man {
        /// The folder, which must exist
        folder: PathBuf,
    },
    /// Kill the agents of an executor that was killed (started by the executor)
    #[command(hide = true)]
    ExecutorGuard {
        /// Marker in the environment of the executor's agents
        marker: String,
    },
}

/// Flags of `phoenix up`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UpArgs {
    /// Offset for every default port, so that several stacks can run side by side
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) port_offset: u16,
    /// Folder of the databases and, unless OBSIDIAN_AGENT_VAULT_ROOT is set, of the notes
    #[arg(long, value_name = "DIR", default_value = "data", env = "PHOENIX_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
    /// Configuration file [default: phoenix.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "PHOENIX_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// pretty or json [env: LOG_FORMAT; default: pretty on a terminal, else json]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
    /// Write log lines to standard error only, and keep none in DIR/logs, where `phoenix trace` finds them
    #[arg(long)]
    pub(crate) no_log_files: bool,
}

/// Flags of `phoenix backup`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    pub(crate) source: LocationArgs,
    /// Path of the backup: a new folder, or a new file for one database
    #[arg(long, value_name = "PATH")]
    pub(crate) to: PathBuf,
    /// Replace an earlier backup
    #[arg(long)]
    pub(crate) force: bool,
}

/// Flags of `phoenix restore`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RestoreArgs {
    /// Path of a backup
    #[arg(long, value_name = "PATH")]
    pub(crate) from: PathBuf,
    #[command(flatten)]
    pub(crate) target: LocationArgs,
    /// Rename existing files instead of failing
    #[arg(long)]
    pub(crate) force: bool,
}

/// A data folder or a database.
#[derive(Debug, Clone, Args)]
pub(crate) struct LocationArgs {
    /// Data folder: databases and notes [env: PHOENIX_DATA_DIR; default: data]
    #[arg(long, value_name = "DIR", conflicts_with = "database_url")]
    pub(crate) data_dir: Option<PathBuf>,
    /// One database, such as sqlite://data/planner.db [env: DATABASE_URL]
    #[arg(long, value_name = "URL")]
    pub(crate) database_url: Option<String>,
}

/// Flags of one service.
#[derive(Debug, Clone, Args)]
pub(crate) struct RoleArgs {
    #[command(flatten)]
    pub(crate) flags: RoleFlags,
    /// Shut down when standard input ends, so that no service outlives `phoenix up`
    #[arg(long, hide = true)]
    pub(crate) supervised: bool,
    /// Also keep the log as JSON in this folder, in files of bounded size and number
    #[arg(long, hide = true, value_name = "DIR")]
    pub(crate) log_folder: Option<PathBuf>,
}

/// The agent of `phoenix agent NAME`, if the command line consists of just that.
pub(crate) fn agent_fast_path(mut args: impl ExactSizeIterator<Item = OsString>) -> Option<BuiltinAgent> {
    if args.len() != 3 || args.nth(1)? != "agent" {
        return None;
    }
    args.next()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn missing_command_is_up_with_its_flags() {
        let cli = Cli::try_parse_from(["phoenix", "--port-offset", "100"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.up.port_offset, 100);
    }

    #[test]
    fn only_a_plain_agent_command_takes_the_fast_path() {
        let path = |words: &[&str]| {
            agent_fast_path(words.iter().map(OsString::from).collect::<Vec<_>>().into_iter()).is_some()
        };
        assert!(path(&["phoenix", "agent", "echo"]));
        assert!(!path(&["phoenix", "agent", "--help"]));
        assert!(!path(&["phoenix", "agent"]));
        assert!(!path(&["phoenix", "planner", "echo"]));
    }
}
