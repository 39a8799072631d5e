//! Settings. Flags override the environment, which overrides `phoenix.toml`, which overrides the defaults.
//!
//! A process is given all of its settings before it does anything, and every problem at once: [`Problems`] is what it
//! prints before it exits with [`EXIT_CONFIG`]. After that, settings travel as values; nothing reads the environment
//! again.

mod actions;
mod agents;
mod confidential;
mod file;
mod interpolate;
mod otel;
mod role;

use std::fmt;

use self::confidential::Confidential;

pub use file::{GatewaySection, PhoenixConfig, PlannerSection, RoleSection};
pub use role::{Role, RoleFlags, RoleSettings};

/// Exit code for settings that can't be used (`EX_USAGE` of `sysexits.h`).
pub const EXIT_CONFIG: u8 = 64;

/// Everything that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems(Vec<String>);

impl Problems {
    /// Notes a problem with the setting called `name`.
    pub fn add(&mut self, name: impl fmt::Display, problem: impl fmt::Display) {
        self.0.push(format!("{name}: {problem}"));
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `value`, if there is no problem.
    ///
    /// # Errors
    /// The problems, if there are any.
    pub fn into_result<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }

    /// Adds the problems of `other` that are not listed yet: services that read one file find the same.
    pub fn extend(&mut self, other: Self) {
        for problem in other.0 {
            if !self.0.contains(&problem) {
                self.0.push(problem);
            }
        }
    }

    /// The same, without the values that must not be quoted.
    fn without(self, confidential: &Confidential) -> Self {
        Self(self.0.iter().map(|problem| confidential.clean(problem)).collect())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        writeln!(f, "{count} problem{} with the settings:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|problem| writeln!(f, "  - {problem}"))
    }
}

impl std::error::Error for Problems {}

/// How settings look up environment variables; a test passes a table. A blank variable counts as not set.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The process's own environment.
#[must_use]
pub fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}
