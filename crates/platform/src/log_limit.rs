//! Rate limit of log lines about events that a peer can cause: one per minute.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Minimum time between two lines.
const EVERY: Duration = Duration::from_secs(60);

/// A limit of one line per minute that counts suppressed lines.
#[derive(Debug)]
pub struct LogLimit(Mutex<State>);

#[derive(Debug)]
struct State {
    last: Option<Instant>,
    suppressed: u64,
}

impl LogLimit {
    /// A limit that allows the next line.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(State { last: None, suppressed: 0 }))
    }

    /// The number of lines suppressed since the last one, if this line may be logged.
    pub fn pass(&self) -> Option<u64> {
        let mut state = self.0.lock();
        if state.last.is_some_and(|last| last.elapsed() < EVERY) {
            state.suppressed += 1;
            return None;
        }
        state.last = Some(Instant::now());
        Some(std::mem::take(&mut state.suppressed))
    }
}

impl Default for LogLimit {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_passes_once_per_minute_and_others_are_counted() {
        let limit = LogLimit::new();
        assert_eq!(limit.pass(), Some(0));
        assert_eq!((limit.pass(), limit.pass()), (None, None));
        limit.0.lock().last = Instant::now().checked_sub(EVERY);
        assert_eq!(limit.pass(), Some(2));
        assert_eq!(limit.pass(), None);
    }
}
