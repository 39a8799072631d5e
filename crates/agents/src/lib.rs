//! The built-in agents of Phoenix, and a library for agents written in Rust.
//!
//! An agent is a process that reads one [`ActionRequest`] per line and answers each with one [`ActionResponse`] line
//! until its input ends. An agent that streams sends parts of the result to an [`Output`] before. [`protocol`] is that loop, [`Agent`] the trait that a program implements, [`Payload`] a reader for
//! its input. A complete agent:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use phoenix_agents::{ActionError, ActionRequest, ActionResult, Payload, serve_stdio};
//!
//! fn main() -> ExitCode {
//!     serve_stdio(|request: &ActionRequest| match request.action.as_str() {
//!         "chat" => Ok(ActionResult::text(Payload::of(request).text("message")?.to_uppercase())),
//!         other => Err(ActionError::unknown_action(other, &["chat"])),
//!     })
//! }
//! ```
//!
//! The executor may start a process per request, so a start costs nothing that is not used: no runtime, no logging, no
//! configuration file. Only [`llm`] builds a runtime, at its first request.
//!
//! | file | content |
//! |---|---|
//! | `protocol.rs`, `protocol/` | lines in, lines out; invalid lines and panics are answered too |
//! | `payload.rs` | typed access to the input, with errors that name the field |
//! | `names.rs` | comparison of names in different Unicode forms |
//! | `echo.rs` | answers with its input |
//! | `git/` | reads and commits to repositories below one directory |
//! | `obsidian/` | reads and writes notes below one directory |
//! | `llm/` | one completion from the configured provider |

use std::{fmt, process::ExitCode, str::FromStr};

pub mod echo;
pub mod git;
pub mod llm;
mod names;
pub mod obsidian;
pub mod payload;
pub mod protocol;

pub use payload::Payload;
pub use phoenix_domain::action::{ActionRequest, ActionResponse, ActionResult};
pub use protocol::{ActionError, Agent, Output, serve, serve_stdio};

/// A built-in agent, by the name of its subcommand: `phoenix agent git`. [`phoenix_domain::builtin`] registers and
/// describes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuiltinAgent {
    /// [`llm::LlmRouter`]
    LlmRouter,
    /// [`git::GitAgent`]
    Git,
    /// [`obsidian::ObsidianAgent`]
    Obsidian,
    /// [`echo::EchoAgent`]
    Echo,
}

impl BuiltinAgent {
    /// Every built-in agent.
    pub const ALL: &'static [Self] = &[Self::LlmRouter, Self::Git, Self::Obsidian, Self::Echo];

    /// Name of the subcommand.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LlmRouter => "llm-router",
            Self::Git => "git",
            Self::Obsidian => "obsidian",
            Self::Echo => "echo",
        }
    }
}

impl fmt::Display for BuiltinAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Error for a name that is no built-in agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be `llm-router`, `git`, `obsidian` or `echo`")]
pub struct UnknownBuiltinAgent;

impl FromStr for BuiltinAgent {
    type Err = UnknownBuiltinAgent;

    fn from_str(name: &str) -> Result<Self, UnknownBuiltinAgent> {
        Self::ALL.iter().copied().find(|agent| agent.as_str() == name).ok_or(UnknownBuiltinAgent)
    }
}

/// Runs the agent until standard input ends. It reads its own settings from the environment.
#[must_use]
pub fn run(agent: BuiltinAgent) -> ExitCode {
    match agent {
        BuiltinAgent::LlmRouter => serve_stdio(llm::LlmRouter::from_environment()),
        BuiltinAgent::Git => serve_stdio(git::GitAgent::from_environment()),
        BuiltinAgent::Obsidian => serve_stdio(obsidian::ObsidianAgent::from_environment()),
        BuiltinAgent::Echo => serve_stdio(echo::EchoAgent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_registered_subcommand_has_an_agent_and_vice_versa() {
        let registered = phoenix_domain::builtin::BUILTINS;
        assert!(registered.iter().all(|builtin| builtin.subcommand.parse::<BuiltinAgent>().is_ok()));
        for &agent in BuiltinAgent::ALL {
            assert_eq!(agent.to_string().parse(), Ok(agent));
            assert!(UnknownBuiltinAgent.to_string().contains(agent.as_str()));
            assert!(registered.iter().any(|builtin| builtin.subcommand == agent.as_str()));
        }
        assert_eq!("shell".parse::<BuiltinAgent>(), Err(UnknownBuiltinAgent));
    }
}
