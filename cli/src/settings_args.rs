//! Command line of `phoenix config` and `phoenix doctor`.

use clap::{Args, Subcommand};
use phoenix_platform::config::{Role, RoleFlags};

/// Which settings.
#[derive(Debug, Args)]
pub(crate) struct SettingsArgs {
    /// Settings of this service started alone: gateway, planner, executor or health [default: those of `phoenix up`]
    #[arg(long, value_name = "ROLE", value_parser = role)]
    pub(crate) role: Option<Role>,
    /// As the flag of `phoenix up`
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "role")]
    pub(crate) port_offset: u16,
    #[command(flatten)]
    pub(crate) flags: RoleFlags,
    /// Print JSON, one document per line
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `phoenix config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check the settings without starting anything; exit code 64 when a start would fail
    Check(SettingsArgs),
    /// Show every setting with its value and where the value comes from; secrets are masked
    Show {
        /// Only settings whose name begins with this, such as planner. or agents.reviewer
        prefix: Option<String>,
        #[command(flatten)]
        settings: SettingsArgs,
    },
}

/// Arguments of `phoenix doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Send nothing to databases, providers and a running gateway
    #[arg(long)]
    pub(crate) offline: bool,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

fn role(text: &str) -> Result<Role, String> {
    let found = Role::ALL.iter().copied().find(|role| role.as_str() == text);
    found.ok_or_else(|| "the roles are gateway, planner, executor and health".to_owned())
}
