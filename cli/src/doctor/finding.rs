//! Findings.

use std::fmt;

use serde_json::{Value, json};

use crate::client::output::plain;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// As it should be.
    Ok,
    /// Something works worse than it could, or will stop working.
    Warning,
    /// Something does not work.
    Error,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// What was examined.
    pub(super) check: &'static str,
    pub(super) severity: Severity,
    /// What was found.
    pub(super) message: String,
    /// What to do; empty when all is well.
    pub(super) action: String,
}

impl Severity {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl Finding {
    pub(super) fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, severity: Severity::Ok, message: message.into(), action: String::new() }
    }

    pub(super) fn warning(
        check: &'static str,
        message: impl Into<String>,
        action: impl Into<String>,
    ) -> Self {
        Self { check, severity: Severity::Warning, message: message.into(), action: action.into() }
    }

    pub(super) fn error(check: &'static str, message: impl Into<String>, action: impl Into<String>) -> Self {
        Self { check, severity: Severity::Error, message: message.into(), action: action.into() }
    }

    /// The finding as JSON.
    pub(super) fn document(&self) -> Value {
        let Self { check, severity, message, action } = self;
        let action = Some(action).filter(|action| !action.is_empty());
        json!({ "check": check, "severity": severity.as_str(), "message": message, "action": action })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check, severity, message, action } = self;
        write!(f, "{:<9}{check:<14}{}", severity.as_str(), plain(message).replace('\n', " "))?;
        if action.is_empty() { Ok(()) } else { write!(f, "\n{:23}→ {}", "", plain(action)) }
    }
}
