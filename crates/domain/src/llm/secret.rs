//! Secret values.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A secret value: `Debug` and `Display` write `[redacted]`.
///
/// `Serialize` writes the real value, because [`LlmSettings`](super::LlmSettings) is passed as JSON to the process that needs the
/// keys. Never serialize settings into a log, a response or a file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String")]
pub struct Secret(String);

impl Secret {
    /// The value itself. Every caller must keep it secret.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether the value is empty, and so counts as unset.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for Secret {
    /// Trims white space: keys read from files end in a newline, which is not valid in a header.
    fn from(value: String) -> Self {
        Self(value.trim().into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
