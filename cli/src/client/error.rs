//! Errors of the commands that talk to a gateway, and their exit codes (`sysexits.h`).

use std::{io, path::PathBuf};

use phoenix_platform::config::EXIT_CONFIG;

/// `EX_UNAVAILABLE`
const EXIT_UNREACHABLE: u8 = 69;
/// `EX_TEMPFAIL`
const EXIT_NOT_NOW: u8 = 75;
/// `EX_NOPERM`
const EXIT_NOT_PERMITTED: u8 = 77;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("{0}")]
    Usage(String),
    #[error("cannot read `{}`: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error(
        "cannot reach the gateway at {url}: {problem}; is it running? --url or PHOENIX_URL names another one"
    )]
    Unreachable { url: String, problem: String },
    #[error("the answer of {url} is not one of Phoenix: {problem}")]
    NotPhoenix { url: String, problem: String },
    #[error("the connection to the gateway at {url} broke: {problem}")]
    Broken { url: String, problem: String },
    /// An error response.
    #[error("{message}")]
    Refused { status: u16, message: String },
    /// A chat or a plan that was awaited did not succeed.
    #[error("{0}")]
    Unsuccessful(String),
    /// Standard output is not read any more.
    #[error("standard output is closed")]
    OutputClosed,
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

impl ClientError {
    /// The exit code of the process.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::File { .. } => EXIT_CONFIG,
            Self::Unreachable { .. } | Self::NotPhoenix { .. } | Self::Broken { .. } => EXIT_UNREACHABLE,
            Self::Refused { status: 401 | 403, .. } => EXIT_NOT_PERMITTED,
            Self::Refused { status: 429 | 502..=504, .. } => EXIT_NOT_NOW,
            Self::Refused { .. } | Self::Unsuccessful(_) | Self::OutputClosed | Self::Output(_) => 1,
        }
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Output(error),
        }
    }
}
