//! The load of a run.

use std::{num::NonZeroUsize, time::Duration};

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// Each connection sends its next request when its last one is answered.
    Closed,
    /// Requests are due at a fixed rate, whatever the server does.
    Open {
        /// The rate; positive.
        per_second: f64,
    },
}

/// How much to send. It ends with whichever bound comes first.
#[derive(Debug, Clone)]
pub struct Load {
    /// When requests are sent.
    pub pace: Pace,
    /// How many connections send.
    pub connections: NonZeroUsize,
    /// Exactly so many requests, unless the time is over first.
    pub requests: Option<u64>,
    /// No request becomes due after this time.
    pub duration: Option<Duration>,
    /// How long a request may take, from when it was due.
    pub timeout: Duration,
}
