//! Changes on their way to the writer.

use jiff::Timestamp;
use phoenix_domain::{AgentName, OrchestratorError, health::AgentHealth};
use tokio::sync::oneshot;
use tracing::Span;

use crate::change::Change;

/// A queued change and the channel for its answer.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) agent: AgentName,
    pub(crate) change: Change,
    /// Span of the request, in which the change is logged.
    pub(crate) span: Span,
    pub(crate) reply: oneshot::Sender<Result<Applied, OrchestratorError>>,
}

/// The result of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Applied {
    /// The health after it.
    pub(crate) health: AgentHealth,
    /// When it was applied, by the clock of the table.
    pub(crate) at: Timestamp,
}

impl Command {
    /// Whether it asks for a probe and its caller has left: the lease would block the agent for an attempt that never runs.
    /// A report is a fact, whether or not its caller waits.
    pub(super) fn is_abandoned_probe(&self) -> bool {
        matches!(self.change, Change::Probe { .. }) && self.reply.is_closed()
    }
}
