//! Approvals as they are decided and listed.

use jiff::Timestamp;
use phoenix_domain::{CorrelationId, approval::ApprovalState, json::Object};

use crate::store::dead_letter::DeadLetterCursor;

/// A decision to write about an approval that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDecision {
    /// New state: approved, rejected or expired.
    pub state: ApprovalState,
    /// Time of the request that the decision is about, because a task may have asked again meanwhile. Absent for an expiry, which
    /// is about the request that has expired.
    pub about: Option<Timestamp>,
    /// Time of the decision. An approval that has expired by then can only expire, and only such a one can.
    pub at: Timestamp,
    /// Name of the person or program that decides; empty for an expiry.
    pub actor: String,
    /// Reason; may be empty.
    pub reason: String,
    /// Correlation id of the request; absent for an expiry.
    pub by: Option<CorrelationId>,
    /// Input with which the task runs instead.
    pub input: Option<Object>,
}

impl NewDecision {
    /// The expiry of an approval, at this time.
    #[must_use]
    pub const fn expired(at: Timestamp) -> Self {
        Self {
            state: ApprovalState::Expired,
            about: None,
            at,
            actor: String::new(),
            reason: String::new(),
            by: None,
            input: None,
        }
    }
}

/// Cursor in the listing of approvals that wait, which is ordered by the time of the request.
pub type ApprovalCursor = DeadLetterCursor;

/// A listing of approvals that wait, the longest wait first.
#[derive(Debug, Clone)]
pub struct ApprovalQuery {
    /// Approvals requested later than this one: the cursor of the next page.
    pub after: Option<ApprovalCursor>,
    /// Maximum number of approvals.
    pub limit: u32,
}

/// The approvals that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingApprovals {
    /// Number of approvals that wait.
    pub count: u64,
    /// When the oldest of them was requested.
    pub oldest: Option<Timestamp>,
}

/// Characters of an input that a listing shows.
pub(super) const PREVIEW_CHARS: i32 = 500;
