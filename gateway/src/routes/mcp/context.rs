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
    /// Whether the client takes a task as the result of a call.
    pub(super) takes_tasks: bool,
}

impl CallContext<'_> {
    /// What a result without a plan belongs to.
    pub(super) fn origin(&self) -> Origin {
        Origin { era: self.era, plan_id: None, correlation_id: self.scope.response_id() }
    }
}
