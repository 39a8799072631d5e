//! The reason that a caller gives for cancelling its calls.

use std::sync::{Arc, OnceLock};

/// Why a caller cancels the calls of one connection; shared by them. Empty when the caller breaks the connection without a
/// reason.
#[derive(Debug, Clone, Default)]
pub struct CancelReason(Arc<OnceLock<String>>);

impl CancelReason {
    /// Size limit in bytes; a longer reason is cut.
    const MAX_BYTES: usize = 256;

    /// The reason, once the caller has sent one.
    #[must_use]
    pub fn get(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    /// Sets the reason. The first call wins.
    pub(crate) fn set(&self, mut reason: String) {
        reason.truncate(reason.floor_char_boundary(Self::MAX_BYTES));
        let _ = self.0.set(reason);
    }
}
