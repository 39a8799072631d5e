//! Roles of processes.

use std::fmt;

/// Role of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Serves the REST API.
    Gateway,
    /// Owns plans.
    Planner,
    /// Runs agents.
    Executor,
    /// Owns agents' health.
    Health,
}

impl Role {
    /// Every role, in start order.
    pub const ALL: &'static [Self] = &[Self::Health, Self::Executor, Self::Planner, Self::Gateway];

    /// Name of the role: its subcommand, and `service` in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Planner => "planner",
            Self::Executor => "executor",
            Self::Health => "health",
        }
    }

    /// Default port for requests.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Gateway => 8181,
            Self::Planner => 50051,
            Self::Executor => 50052,
            Self::Health => 50053,
        }
    }

    /// Default port for `/metrics`.
    #[must_use]
    pub const fn default_metrics_port(self) -> u16 {
        match self {
            Self::Gateway => 9000,
            Self::Planner => 9001,
            Self::Executor => 9002,
            Self::Health => 9003,
        }
    }

    /// Environment variable of the address.
    #[must_use]
    pub const fn addr_variable(self) -> &'static str {
        match self {
            Self::Gateway => "HTTP_ADDR",
            Self::Planner | Self::Executor | Self::Health => "GRPC_ADDR",
        }
    }

    /// File name of the database in a data folder.
    #[must_use]
    pub fn database_file(self) -> String {
        format!("{self}.db")
    }

    /// Whether the role has a database.
    #[must_use]
    pub const fn has_database(self) -> bool {
        matches!(self, Self::Planner | Self::Health)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
