//! Settings. Flags override the environment, which overrides `phoenix.toml`, which overrides the defaults.
//!
//! A process resolves all settings before it does anything else, and reports every problem at once: it prints [`Problems`] and
//! exits with [`EXIT_CONFIG`]. From then on settings are passed as values; the environment is not read again.

mod actions;
mod address;
mod agents;
mod approval;
mod bounds;
mod budgets;
mod confidential;
mod env;
mod file;
mod flags;
mod interpolate;
mod inventory;
mod mcp;
mod otel;
mod planning;
mod problems;
mod retry;
mod role;
mod sections;
mod settings;
mod tls;
mod tool_rules;
mod values;

pub use self::{
    env::{Lookup, process_env},
    file::PhoenixConfig,
    flags::RoleFlags,
    problems::{EXIT_CONFIG, Problems},
    role::Role,
    sections::{DatabaseSection, ExecutorSection, GatewaySection, PlannerSection, RoleSection},
    settings::RoleSettings,
    values::{Origin, SettingValue},
};
