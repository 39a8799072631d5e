//! The load of a run.

use std::{num::NonZeroUsize, time::Duration};

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Each connection sends its next request when its last one is answered.
    Closed,
    /// Requests are due at a fixed rate, independent of the server.
    Open {
        /// The rate; positive.
        per_second: f64,
    },
}

/// Size of a run. The first bound that is reached ends it.
#[derive(Debug, Clone)]
pub struct Load {
    /// When requests are sent.
    pub pace: Pace,
    /// Number of connections.
    pub connections: NonZeroUsize,
    /// Exactly so many requests, unless the time is over first.
    pub requests: Option<u64>,
    /// No request becomes due after this time.
    pub duration: Option<Duration>,
    /// Time limit of a request, from when it was due.
    pub timeout: Duration,
}
