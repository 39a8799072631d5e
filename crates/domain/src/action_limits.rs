//! Limits of single actions, in place of those of their agent.

use std::time::Duration;

use crate::retry::RetryPolicy;

/// Limits of an action; what is absent is as the agent has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ActionLimits {
    /// Time limit of an attempt.
    pub timeout: Option<Duration>,
    /// Retries of failed attempts.
    pub retry: Option<RetryPolicy>,
}
