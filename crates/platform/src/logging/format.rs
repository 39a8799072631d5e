//! Log formats.

use std::io::IsTerminal;

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text for a terminal.
    Pretty,
    /// One JSON object per line.
    Json,
}

impl LogFormat {
    /// Name in the settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pretty => "pretty",
            Self::Json => "json",
        }
    }

    /// The default format: `pretty` when standard error is a terminal, else `json`.
    #[must_use]
    pub fn detect() -> Self {
        if std::io::stderr().is_terminal() { Self::Pretty } else { Self::Json }
    }
}
