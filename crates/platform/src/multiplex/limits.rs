//! Size limits of shared streams.

use crate::http2::MAX_MESSAGE_BYTES;

/// Target size of a batch in bytes. A larger request is a call of its own, since frames on a shared stream wait for the
/// frames before them.
pub(super) const BATCH_BYTES: usize = 64 * 1024;

/// Size limit of a batch in bytes: one message of the largest size, in its frame.
pub(super) const MAX_BATCH_BYTES: usize = MAX_MESSAGE_BYTES + 1024;
