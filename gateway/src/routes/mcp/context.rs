//! What a call belongs to.

use crate::{
    clients::Gateway,
    request_scope::RequestScope,
    wire::mcp::{era::Era, message::RequestId, result::Origin},
};

/// What a call belongs to.
pub(super) struct CallContext<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) scope: &'a RequestScope,
    pub(super) era: Era,
    /// Identifier of the request.
    pub(super) id: RequestId,
    /// Whether the client takes a stream of events.
    pub(super) streams: bool,
    pub(super) tasks: TaskUse,
}

/// Whether a call is answered by a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TaskUse {
    /// It is answered by its result.
    No,
    /// The client takes a task, if the server gives one.
    Taken,
    /// The client asked for a task.
    Asked,
}

impl CallContext<'_> {
    /// What a result without a plan belongs to.
    pub(super) fn origin(&self) -> Origin {
        Origin { era: self.era, plan_id: None, correlation_id: self.scope.response_id() }
    }
}
