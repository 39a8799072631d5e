//! Why the gateway cannot serve.

/// Why the gateway could not start, or stopped before its shutdown.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A setting is invalid.
    #[error("{setting}: {problem}")]
    Setting {
        /// Name of the setting in the environment or in `phoenix.toml`.
        setting: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
    /// The listener failed.
    #[error("listener: {0}")]
    Listener(#[from] std::io::Error),
}

impl ServeError {
    pub(crate) fn setting(setting: &'static str, problem: impl ToString) -> Self {
        Self::Setting { setting, problem: problem.to_string() }
    }
}
