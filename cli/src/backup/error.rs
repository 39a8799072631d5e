//! Errors of `phoenix backup` and `phoenix restore`.

use std::{fmt, path::Path};

/// Reason why nothing was copied.
pub(super) enum BackupError {
    /// The command line or the environment is invalid.
    Usage(String),
    /// The system failed, or existing data would be lost.
    Failed(String),
    /// Ctrl-C or SIGTERM.
    Interrupted,
}

impl BackupError {
    pub(super) fn failed(problem: impl fmt::Display) -> Self {
        Self::Failed(problem.to_string())
    }

    pub(super) fn file(path: &Path, error: std::io::Error) -> Self {
        Self::Failed(format!("{}: {error}", path.display()))
    }
}
