//! Errors of the commands that talk to a gateway, and their exit codes (`sysexits.h`).

use std::{io, path::PathBuf};

use phoenix_domain::OrchestratorErrorCode;
use phoenix_platform::config::EXIT_CONFIG;

const EXIT_FAILED: u8 = 1;
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
        "cannot reach the gateway at {url}: {problem}; is it running? --url, --context or PHOENIX_URL names another one"
    )]
    Unreachable { url: String, problem: String },
    #[error(
        "the certificate of the gateway at {url} is not accepted: {problem}; --ca or PHOENIX_CA names the authorities to trust"
    )]
    NotTrusted { url: String, problem: String },
    #[error("the answer of {url} is not one of Phoenix: {problem}")]
    NotPhoenix { url: String, problem: String },
    #[error("the connection to the gateway at {url} broke: {problem}")]
    Broken { url: String, problem: String },
    /// An error response; without a code when it is not one of Phoenix.
    #[error("{message}")]
    Refused { status: u16, code: Option<OrchestratorErrorCode>, message: String },
    /// A chat or a plan that was awaited did not succeed.
    #[error("{message}")]
    Failed { code: Option<OrchestratorErrorCode>, message: String },
    /// Nothing was found, or this machine lacks something.
    #[error("{0}")]
    Unsuccessful(String),
    /// Standard output is not read any more.
    #[error("standard output is closed")]
    OutputClosed,
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

/// The exit code of a command whose request, chat or plan ended with an error of this code.
const fn exit_code_of(code: OrchestratorErrorCode) -> u8 {
    use OrchestratorErrorCode as Code;
    match code {
        Code::Unavailable | Code::AgentUnavailable | Code::Timeout | Code::Overloaded => EXIT_NOT_NOW,
        Code::Unauthenticated => EXIT_NOT_PERMITTED,
        Code::ValidationFailed
        | Code::PlanningFailed
        | Code::IdempotencyMismatch
        | Code::ExecutionFailed
        | Code::BudgetExhausted
        | Code::Cancelled
        | Code::NotFound
        | Code::Conflict
        | Code::Internal => EXIT_FAILED,
    }
}

impl ClientError {
    /// The exit code of the process.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::File { .. } => EXIT_CONFIG,
            Self::Unreachable { .. }
            | Self::NotTrusted { .. }
            | Self::NotPhoenix { .. }
            | Self::Broken { .. } => EXIT_UNREACHABLE,
            Self::Refused { code: Some(code), .. } | Self::Failed { code: Some(code), .. } => {
                exit_code_of(*code)
            }
            // Of a proxy, or of a newer Phoenix.
            Self::Refused { status: 401 | 403, .. } => EXIT_NOT_PERMITTED,
            Self::Refused { status: 429 | 502..=504, .. } => EXIT_NOT_NOW,
            Self::Refused { .. }
            | Self::Failed { .. }
            | Self::Unsuccessful(_)
            | Self::OutputClosed
            | Self::Output(_) => EXIT_FAILED,
        }
    }

    /// Whether the same request may be answered later.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Broken { .. } | Self::Unreachable { .. } => true,
            Self::Refused { .. } => self.exit_code() == EXIT_NOT_NOW,
            _ => false,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_code_has_the_documented_exit_code() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
        let page = std::fs::read_to_string(page).unwrap();
        let (_, table) = page.split_once("| error code | exit code |").unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let documented: Vec<_> = rows
            .flat_map(|row| {
                let (codes, exit) = row.trim_matches('|').split_once('|').unwrap();
                let exit: u8 = exit.trim().parse().unwrap();
                codes.split(',').map(move |code| (code.trim().trim_matches('`').to_owned(), exit))
            })
            .collect();
        for &code in OrchestratorErrorCode::ALL {
            let expected = exit_code_of(code);
            let refused =
                ClientError::Refused { status: code.http_status(), code: Some(code), message: String::new() };
            let failed = ClientError::Failed { code: Some(code), message: String::new() };
            assert_eq!((refused.exit_code(), failed.exit_code()), (expected, expected), "{code}");
            assert_eq!(expected == EXIT_NOT_NOW, code.is_retryable(), "{code}");
            assert_eq!(refused.may_pass(), code.is_retryable(), "{code}");
            assert!(
                documented.contains(&(code.to_string(), expected)),
                "{code} {expected} in {documented:?}"
            );
        }
        assert_eq!(documented.len(), OrchestratorErrorCode::ALL.len(), "{documented:?}");
    }

    #[test]
    fn error_of_another_server_has_the_exit_code_of_its_status() {
        for (status, expected) in
            [(400, 1), (401, 77), (403, 77), (404, 1), (429, 75), (500, 1), (502, 75), (504, 75)]
        {
            let refused = ClientError::Refused { status, code: None, message: String::new() };
            assert_eq!(refused.exit_code(), expected, "{status}");
        }
    }
}
