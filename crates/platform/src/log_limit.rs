//! Log lines about events that a peer can cause at will: at most one a minute.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How often a line is let through.
const EVERY: Duration = Duration::from_secs(60);

/// Lets one line a minute pass, and counts the others.
#[derive(Debug)]
pub struct LogLimit(Mutex<State>);

#[derive(Debug)]
struct State {
    last: Option<Instant>,
    held_back: u64,
}

impl LogLimit {
    /// A limit that has let nothing through yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(State { last: None, held_back: 0 }))
    }

    /// How many lines were held back since the last one, if this one may pass.
    pub fn pass(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| last.elapsed() < EVERY) {
            state.held_back += 1;
            return None;
        }
        state.last = Some(Instant::now());
        Some(std::mem::take(&mut state.held_back))
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
    fn line_passes_once_a_minute_and_others_are_counted() {
        let limit = LogLimit::new();
        assert_eq!(limit.pass(), Some(0));
        assert_eq!((limit.pass(), limit.pass()), (None, None));
        limit.0.lock().unwrap().last = Instant::now().checked_sub(EVERY);
        assert_eq!(limit.pass(), Some(2));
        assert_eq!(limit.pass(), None);
    }
}
