//! Problems of settings, collected to be reported together.

use std::fmt;

use super::confidential::Confidential;

/// Exit code for invalid settings (`EX_USAGE` of `sysexits.h`).
pub const EXIT_CONFIG: u8 = 64;

/// Problems of the settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems(Vec<String>);

impl Problems {
    /// Adds a problem of the setting called `name`.
    pub fn add(&mut self, name: impl fmt::Display, problem: impl fmt::Display) {
        self.0.push(format!("{name}: {problem}"));
    }

    /// Whether there are no problems.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each problem as text.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// `value` if there are no problems.
    ///
    /// # Errors
    /// The problems.
    pub fn into_result<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }

    /// Adds the problems of `other` without duplicates: services that read one file find the same problems.
    pub fn extend(&mut self, other: Self) {
        for problem in other.0 {
            if !self.0.contains(&problem) {
                self.0.push(problem);
            }
        }
    }

    /// Redacts confidential values.
    pub(super) fn redacted(self, confidential: &Confidential) -> Self {
        Self(self.0.iter().map(|problem| confidential.redact(problem)).collect())
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
