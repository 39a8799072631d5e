//! Errors of the start of a stack.

use phoenix_platform::config::Problems;

/// Reason why a stack was not started.
#[derive(Debug)]
pub(crate) enum StartError {
    /// The settings are invalid.
    Settings(Problems),
    /// The system failed: a port in use, a folder that cannot be written.
    System(String),
}
